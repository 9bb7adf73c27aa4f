"""Several trainings moved together: one `torch.func.vmap` of the rule's step over a leading trial axis K.

A `Stack` is made of sessions and dissolves into them. While it stands, every tensor of theirs is a row of
one of its own (parameters K×…, running statistics K×…), so each session stays complete: it is evaluated,
checkpointed and stopped as if it were alone. Each keeps its own random streams and data order, and draws
from them what it would draw alone. It comes to what it comes to alone up to rounding: kernels add the rows of
a stack in another order than a trial's own, which long trainings amplify, as they do the rounding of another
processor or number of threads.

One call of an optimizer moves the rows of all sessions whose settings are the same; so sessions with equal
settings should be neighbours, and only optimizers that are `elementwise` may be stacked (`grouping`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import NamedTuple

from fdfa_cli.data.base import Subset
from fdfa_cli.lazy import torch
from fdfa_cli.network.layers import Mode, Tensors
from fdfa_cli.network.losses import LOSSES, Batch, correct
from fdfa_cli.optim.state import OptimizerState
from fdfa_cli.rules.base import Rule
from fdfa_cli.rules.step import Step, Update
from fdfa_cli.streams import Draw, sample_rows
from fdfa_cli.training import total
from fdfa_cli.training.grouping import moves_by_entries, real_options
from fdfa_cli.training.session import Session
from fdfa_cli.training.tape import Taped

#: Numbers in the widest register of a CPU.
REGISTER = 16


class Stack:
    """Sessions that `grouping.group` has put together, all at the same step."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.sessions = list(sessions)
        first = self._first = self.sessions[0]
        assert {s.place for s in self.sessions} == {first.place}
        assert all(moves_by_entries(s.recipe) for s in self.sessions)
        self.network, self.device = first.network, first.device
        self._rules = [s.recipe.rule for s in self.sessions]
        self._real = {
            name: torch.tensor(values, device=first.device)
            for name, values in real_options(self._rules).items()
        }
        self.params = _stacked([s.params for s in self.sessions])
        self.buffers = _stacked([s.buffers for s in self.sessions])
        self.state = _stacked([s.state for s in self.sessions])
        for k, session in enumerate(self.sessions):
            session.buffers.update({name: tensor[k] for name, tensor in self.buffers.items()})
        self._crews = {key: self._crews_of(key) for key in first.settings}
        self._step = Taped(
            torch.func.vmap(partial(_step, first)), self._real, self.params, self.state, self.buffers
        )
        self._begin_epoch()

    # --- who draws -----------------------------------------------------------------------------------

    @cached_property
    def _distinct(self) -> list[Rule]:
        """The rules, each once."""
        return [rule for i, rule in enumerate(self._rules) if rule not in self._rules[:i]]

    @cached_property
    def _kinds(self) -> list[int]:
        """Each session's rule, as its index among the distinct ones."""
        return [self._distinct.index(rule) for rule in self._rules]

    @cached_property
    def _first_alike(self) -> list[int]:
        """Of each session, the first of the same seed and rule."""
        alike = [(s.recipe.training.seed, s.recipe.rule) for s in self.sessions]
        return [alike.index(one) for one in alike]

    @cached_property
    def _drawing(self) -> list[int]:
        """The sessions that draw."""
        return sorted(set(self._first_alike))

    @cached_property
    def _shares(self) -> torch.Tensor | None:
        """Whose draws each session gets, as its number among those that draw; None where all do."""
        if len(self._drawing) == len(self.sessions):
            return None
        return torch.tensor([self._drawing.index(k) for k in self._first_alike], device=self.device)

    # --- the clock -----------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return self._first.steps

    @property
    def position(self) -> int:
        """Steps done in this epoch."""
        return self._first.position

    def _begin_epoch(self) -> None:
        """Take over the orders and the sums of the epoch that the sessions are in."""
        self._epoch = self._first.epoch
        self._orders = torch.stack([self.sessions[k].order for k in self._drawing])
        self.loss_sum = torch.stack([s.loss_sum for s in self.sessions])
        self.correct = torch.stack([s.correct for s in self.sessions])
        for k, session in enumerate(self.sessions):
            session.loss_sum, session.correct = self.loss_sum[k], self.correct[k]

    # --- one step ------------------------------------------------------------------------------------

    def advance(self, data: Subset) -> None:
        """Take the next step of every session, each on its own batch of `data`."""
        if self._epoch != self._first.epoch:
            self._begin_epoch()
        first = self._first
        rows = self._orders[:, first.position * first.batch_size :][:, : first.batch_size]
        size = rows.shape[1]
        uniforms = [data.draw(size, generator) for generator in self._streams("augmentation")]
        given = [u for u in uniforms if u is not None]
        x = self._dealt(data.assemble(rows, torch.stack(given) if given else None))
        labels = self._dealt(data.labels[rows])
        noise = self._drawn("dropout", lambda rule: first.noise(size))
        perturbations = self._drawn(
            "perturbation", lambda rule: rule.perturbations(self.network, size, first.taken)
        )
        done: _Step = self._step(noise, x, labels, perturbations)
        self.apply(done)
        for name, value in done.buffers.items():
            self.buffers[name].copy_(value)
        total.add(self.loss_sum, done.loss, size)
        self.correct += done.correct
        for session in self.sessions:
            session.position += 1

    def apply(self, update: Update | _Step) -> None:
        """See `Session.apply`; of all sessions, stacked."""
        for key, grads in (("weights", update.grads), ("feedback", update.state_grads)):
            if grads:
                crews = self._crews[key]
                sizes = [crew.size for crew in crews]
                for crew, *rows in zip(
                    crews, *(grad.split_with_sizes(sizes) for grad in grads.values()), strict=True
                ):
                    crew.move(dict(zip(grads, rows, strict=True)))
        for name, value in update.state.items():
            self.state[name].copy_(value)

    def _drawn(self, purpose: str, draws: Callable[[Rule], Mapping[str, Draw]]) -> dict[str, torch.Tensor]:
        """What every session gets for a step, stacked; `draws` is asked once for each distinct rule."""
        known = [draws(rule) for rule in self._distinct]
        drawing = [known[self._kinds[k]] for k in self._drawing]
        return sample_rows(drawing, self._streams(purpose), self._shares)

    def _streams(self, purpose: str) -> list[torch.Generator]:
        return [self.sessions[k].streams[purpose] for k in self._drawing]

    def _dealt(self, drawn: torch.Tensor) -> torch.Tensor:
        """A row for each session of what was made for those that draw."""
        return drawn if self._shares is None else drawn.index_select(0, self._shares)

    # --- evaluation ----------------------------------------------------------------------------------

    def score(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Session.score`, for each of the sessions (K); the batch is the same for all."""
        losses, correct = zip(*(session.score(x, labels) for session in self.sessions), strict=True)
        return torch.stack(losses), torch.stack(correct)

    # --- sessions and optimizers ---------------------------------------------------------------------

    def settle(self) -> None:
        """Make every session whole: let it count its steps, and move its streams if another drew for it."""
        for crew in itertools.chain.from_iterable(self._crews.values()):
            crew.settle()
        for session, k in zip(self.sessions, self._first_alike, strict=True):
            first = self.sessions[k]
            if session is not first:
                for purpose, generator in session.streams.items():
                    generator.set_state(first.streams[purpose].get_state())

    def _crews_of(self, key: str) -> list[_Crew]:
        """A crew of each run of neighbours with the same settings."""
        tensors = self.params if key == "weights" else self.state
        crews: list[_Crew] = []
        for _, some in itertools.groupby(
            self.sessions, lambda s: (*s.settings[key], s.recipe.training.epochs)
        ):
            members, start = list(some), sum(crew.size for crew in crews)
            rows = {name: tensor.narrow(0, start, len(members)) for name, tensor in tensors.items()}
            crews.append(_Crew(key, members, rows))
        return crews


class _Crew:
    """Neighbours in a stack that move by the same settings; `tensors` are their rows of its own.

    Their optimizers' slots become rows of the crew's. Tensors that do not fill whole vector registers move
    one by one: fused kernels round the entries that are left over otherwise than the rest, and those would be
    others.
    """

    def __init__(self, key: str, members: Sequence[Session], tensors: Tensors) -> None:
        self._key, self._members, self.size = key, members, len(members)
        self._optimizer, _ = members[0].settings[key]
        #: Of a tensor that moves in parts, what the crew's optimizer state calls that of each member.
        self._parts: dict[str, list[str]] = {}
        self._state = OptimizerState({}, {}, {})
        own = [session.optimizer_states[key] for session in members]
        for name, rows in tensors.items():
            count = own[0].step_counts[name]
            if rows[0].numel() % REGISTER:
                self._parts[name] = [f"{name}[{k}]" for k in range(self.size)]
                for part, row, state in zip(self._parts[name], rows, own, strict=True):
                    state.set(name, row, state.slots[name], count)
                    self._state.set(part, row, state.slots[name], count)
            else:
                slots = _stacked([state.slots[name] for state in own])
                self._state.set(name, rows, slots, count)
                for k, state in enumerate(own):
                    state.set(name, rows[k], {slot: value[k] for slot, value in slots.items()}, count)

    def move(self, grads: Tensors) -> None:
        """Follow the members' gradients at this moment's rate."""
        given: dict[str, torch.Tensor] = {}
        for name, rows in grads.items():
            if name in self._parts:
                given.update(zip(self._parts[name], rows.unbind(), strict=True))
            else:
                given[name] = rows
        first = self._members[0]
        self._state.apply(given, self._optimizer, first.rate(self._key, first.position))

    def settle(self) -> None:
        """Let every member count the steps."""
        for session in self._members:
            counts = session.optimizer_states[self._key].step_counts
            for name in counts:
                counts[name] = self._state.step_counts[self._parts.get(name, [name])[0]]


class _Step(NamedTuple):
    """What a step gives; see `Update`. `correct` counts the samples classified correctly."""

    grads: dict[str, torch.Tensor]
    state_grads: dict[str, torch.Tensor]
    state: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    loss: torch.Tensor
    correct: torch.Tensor


def _step(
    first: Session,
    real: Tensors,
    params: Tensors,
    state: Tensors,
    buffers: Tensors,
    noise: Tensors,
    x: torch.Tensor,
    labels: torch.Tensor,
    perturbations: Tensors,
) -> _Step:
    """One trial's step, with the options `real` that are its own; all else it shares with `first`."""
    rule = first.recipe.rule.model_copy(update=dict(real))
    mode = Mode(training=True, buffers=buffers, noise=noise, stacked=True)
    batch = Batch(x, labels, mode, LOSSES[first.recipe.training.loss])
    update = rule.step(Step(first.network, params, state, batch, perturbations))
    return _Step(
        dict(update.grads),
        dict(update.state_grads),
        dict(update.state),
        mode.updates,
        update.loss,
        correct(update.logits, labels),
    )


def _stacked(trees: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([tree[name] for tree in trees]) for name in trees[0]}
