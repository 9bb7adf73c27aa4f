"""Several trainings moved together: one `torch.func.vmap` of the rule's step over a leading trial axis K.

A `StackedTrainState` is made of the states of K trainings and dissolves into them. While it stands, every
tensor of a state is a row of one of the stack's (parameters K×…, running statistics K×…), so each state stays
complete: it is evaluated, checkpointed and stopped as if it were alone. Each state keeps its own random
streams and data order, and draws from them what it would draw alone. A trial comes to the same in a stack as
alone up to rounding: kernels add the rows of a stack in another order than a trial's own. Long trainings
amplify that, as they amplify the rounding of another processor or number of threads.

One call of an optimizer moves the rows of all states whose settings are the same; so states with equal
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
from fdfa_cli.network.losses import correct
from fdfa_cli.optim.state import OptimizerState
from fdfa_cli.rules.base import Rule
from fdfa_cli.rules.step import Step, Update
from fdfa_cli.streams import Draw, sample_rows
from fdfa_cli.training import total
from fdfa_cli.training.grouping import moves_by_entries, real_options
from fdfa_cli.training.state import TrainState
from fdfa_cli.training.traced import Traced

#: Numbers in the widest register of a CPU.
REGISTER = 16


class StackedTrainState:
    """The states of trainings that `grouping.groups` has put together, all at the same step."""

    def __init__(self, states: Sequence[TrainState]) -> None:
        self.states = list(states)
        first = self._first = self.states[0]
        assert {s.place for s in self.states} == {first.place}
        assert all(moves_by_entries(s.recipe) for s in self.states)
        self.network, self.device = first.network, first.device
        self._rules = [s.recipe.rule for s in self.states]
        self._real = {
            name: torch.tensor(values, device=first.device)
            for name, values in real_options(self._rules).items()
        }
        self.params = _stacked([s.params for s in self.states])
        self.buffers = _stacked([s.buffers for s in self.states])
        self.rule_state = _stacked([s.rule_state for s in self.states])
        for k, state in enumerate(self.states):
            state.buffers.update({name: tensor[k] for name, tensor in self.buffers.items()})
        self._groups = {key: self._groups_of(key) for key in first.settings}
        self._step = Traced(
            torch.func.vmap(partial(_step, first)), self._real, self.params, self.rule_state, self.buffers
        )
        self._begin_epoch()

    # --- who draws -----------------------------------------------------------------------------------

    @cached_property
    def _distinct(self) -> list[Rule]:
        """The rules, each once."""
        return [rule for i, rule in enumerate(self._rules) if rule not in self._rules[:i]]

    @cached_property
    def _kinds(self) -> list[int]:
        """Each state's rule, as its index among the distinct ones."""
        return [self._distinct.index(rule) for rule in self._rules]

    @cached_property
    def _first_alike(self) -> list[int]:
        """For each state, the position of the first state with the same seed and rule."""
        alike = [(s.recipe.training.seed, s.recipe.rule) for s in self.states]
        return [alike.index(one) for one in alike]

    @cached_property
    def _drawing(self) -> list[int]:
        """The states that draw."""
        return sorted(set(self._first_alike))

    @cached_property
    def _shares(self) -> torch.Tensor | None:
        """Whose draws each state gets, as its number among those that draw; None where all do."""
        if len(self._drawing) == len(self.states):
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
        """Take over the orders and the sums of the epoch that the states are in."""
        self._epoch = self._first.epoch
        self._orders = torch.stack([self.states[k].order for k in self._drawing])
        self.loss_sum = torch.stack([s.loss_sum for s in self.states])
        self.correct = torch.stack([s.correct for s in self.states])
        for k, state in enumerate(self.states):
            state.loss_sum, state.correct = self.loss_sum[k], self.correct[k]

    # --- one step ------------------------------------------------------------------------------------

    def advance(self, data: Subset) -> None:
        """Take the next step of every state, each on its own batch of `data`."""
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
        for state in self.states:
            state.position += 1

    def apply(self, update: Update | _Step) -> None:
        """Move every state as `TrainState.apply` does; the gradients are stacked (K×…)."""
        for key, grads in (("weights", update.grads), ("feedback", update.state_grads)):
            if grads:
                groups = self._groups[key]
                sizes = [group.size for group in groups]
                for group, *rows in zip(
                    groups, *(grad.split_with_sizes(sizes) for grad in grads.values()), strict=True
                ):
                    group.move(dict(zip(grads, rows, strict=True)))
        for name, value in update.state.items():
            self.rule_state[name].copy_(value)

    def _drawn(self, purpose: str, draws: Callable[[Rule], Mapping[str, Draw]]) -> dict[str, torch.Tensor]:
        """What every state gets for a step, stacked; `draws` is asked once for each distinct rule."""
        known = [draws(rule) for rule in self._distinct]
        drawing = [known[self._kinds[k]] for k in self._drawing]
        return sample_rows(drawing, self._streams(purpose), self._shares)

    def _streams(self, purpose: str) -> list[torch.Generator]:
        return [self.states[k].streams[purpose] for k in self._drawing]

    def _dealt(self, drawn: torch.Tensor) -> torch.Tensor:
        """A row for each state of what was made for those that draw."""
        return drawn if self._shares is None else drawn.index_select(0, self._shares)

    # --- evaluation ----------------------------------------------------------------------------------

    def score(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss and number of correct answers of each state (K each); the batch is the same for all."""
        losses, correct = zip(*(state.score(x, labels) for state in self.states), strict=True)
        return torch.stack(losses), torch.stack(correct)

    # --- states and optimizers ---------------------------------------------------------------------

    def settle(self) -> None:
        """Make every state whole: let it count its steps, and move its streams if another drew for it."""
        for group in itertools.chain.from_iterable(self._groups.values()):
            group.settle()
        for state, k in zip(self.states, self._first_alike, strict=True):
            first = self.states[k]
            if state is not first:
                for purpose, generator in state.streams.items():
                    generator.set_state(first.streams[purpose].get_state())

    def _groups_of(self, key: str) -> list[_ParamGroup]:
        """A group for each run of neighbours with the same settings."""
        tensors = self.params if key == "weights" else self.rule_state
        groups: list[_ParamGroup] = []
        for _, some in itertools.groupby(self.states, lambda s: (*s.settings[key], s.recipe.training.epochs)):
            members, start = list(some), sum(group.size for group in groups)
            rows = {name: tensor.narrow(0, start, len(members)) for name, tensor in tensors.items()}
            groups.append(_ParamGroup(key, members, rows))
        return groups


class _ParamGroup:
    """Neighbours in a stack that move by the same settings; `tensors` are their rows of the stack's tensors.

    The slots of the members' optimizers become rows of the group's. Tensors that do not fill whole vector
    registers move one by one: fused kernels round the entries that are left over differently from the rest,
    and in a stack other entries would be left over.
    """

    def __init__(self, key: str, members: Sequence[TrainState], tensors: Tensors) -> None:
        self._key, self._members, self.size = key, members, len(members)
        self._optimizer, _ = members[0].settings[key]
        #: For a tensor that moves in parts, the name of each member's part in the group's optimizer state.
        self._parts: dict[str, list[str]] = {}
        self._state = OptimizerState({}, {}, {})
        own = [state.optimizer_states[key] for state in members]
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
        """Tell every member how many steps its optimizer has taken."""
        for state in self._members:
            counts = state.optimizer_states[self._key].step_counts
            for name in counts:
                counts[name] = self._state.step_counts[self._parts.get(name, [name])[0]]


class _Step(NamedTuple):
    """An `Update` as vmap can return it. `correct` counts the samples that are classified correctly."""

    grads: dict[str, torch.Tensor]
    state_grads: dict[str, torch.Tensor]
    state: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    loss: torch.Tensor
    correct: torch.Tensor


def _step(
    first: TrainState,
    real: Tensors,
    params: Tensors,
    rule_state: Tensors,
    buffers: Tensors,
    noise: Tensors,
    x: torch.Tensor,
    labels: torch.Tensor,
    perturbations: Tensors,
) -> _Step:
    """One trial's step, with the options `real` that are its own; all else it shares with `first`."""
    rule = first.recipe.rule.model_copy(update=dict(real))
    mode = Mode(training=True, buffers=buffers, noise=noise, stacked=True)
    step = Step(first.network, params, rule_state, first.batch(x, labels, mode), perturbations)
    update = rule.step(step)
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
