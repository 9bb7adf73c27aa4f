"""A probe: one fixed batch through the rule and through exact backprop, block by block.

It reads a training's tensors and changes none: its random numbers come from streams of their own, running
statistics are thrown away, and what an optimizer would do is done to a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fdfa_cli.diagnostics.blocks import activity, alignments, feedbacks, weight_alignments
from fdfa_cli.diagnostics.figures import Figures, concatenated, norm, ratio, spread
from fdfa_cli.diagnostics.moment import Moment, moments
from fdfa_cli.diagnostics.phases import phases
from fdfa_cli.lazy import torch
from fdfa_cli.network.layers import Mode, Tensors
from fdfa_cli.network.losses import Batch
from fdfa_cli.streams import sample, stream

if TYPE_CHECKING:
    from fdfa_cli.data.base import Subset
    from fdfa_cli.diagnostics.training import Training
    from fdfa_cli.recipe.diagnostics import Diagnostics


class Probe:
    """The probes of one training: `options` say what, on a batch that is cut from `train` once.

    The batch has the training's size, is drawn by the run's seed and never augmented; its dropout masks
    stay the same too, so that what moves between two probes is the training's doing.
    """

    def __init__(self, options: Diagnostics, session: Training, train: Subset) -> None:
        self.options, self.session, self.train = options, session, train
        self.size = min(session.batch_size, len(train))
        generator = self._stream("batch", 0)
        self.noise = sample(session.network.noise(self.size), generator)
        self.x, self.labels = self._samples(generator)

    def due(self) -> bool:
        """Whether to probe now."""
        return self.options.due(self.session.taken, self.session.steps)

    def look(self) -> dict[str, Any]:
        """Every figure of this moment but the seconds it took, as a row of metrics stores it."""
        session = self.session
        batch = self._batch(self.x, self.labels)
        moment = Moment(
            session.recipe.rule, session.network, session.params, session.rule_state, batch, session.taken
        )
        perturbations = moment.perturbations(self._stream("step", moment.step))
        true, exact = moment.exact()
        blocks: list[dict[str, Any]] = [{"block": l + 1} for l in range(len(moment.network.blocks))]
        for table in (
            alignments(moment, perturbations, true, exact),
            self._over_draws(moment, true),
            self._over_batches(moment, perturbations, true),
            weight_alignments(moment, perturbations),
            feedbacks(moment) if self.options.jacobians else {},
            activity(moment, true, exact),
        ):
            for l, found in table.items():
                blocks[l] |= found
        return {
            "step": moment.step,
            "epoch": moment.step / session.steps,
            "blocks": blocks,
            "phases": phases(moment, session.twin(), self._stream("phases", moment.step)),
        }

    def _over_draws(self, moment: Moment, true: Tensors) -> dict[int, Figures]:
        """Bias and variance over fresh perturbations, with the closed form where the rule has one."""
        count, settle = self.options.draws, self.options.settle
        if not count:
            return {}
        moves = settle > 0 and moment.random and bool(moment.state)
        estimates = self._settled(moment) if moves else self._drawn(moment)
        seen = moments(estimates, count, moment, true)
        found = {l: spread(drawn, exact) for l, (drawn, exact) in seen.items()}
        if moves or not moment.state:
            for l, variance in moment.gradient_variance().items():
                size = norm(concatenated(true, moment.network.blocks[l].parameters()))
                found[l]["variance_theory"] = ratio(variance, size**2)
        return found

    def _drawn(self, moment: Moment) -> Iterator[Tensors]:
        """Gradients under fresh perturbations, state held still."""
        generator = self._stream("draws", moment.step)
        for _ in range(self.options.draws if moment.random else 1):
            yield moment.update(moment.perturbations(generator)).grads

    def _settled(self, moment: Moment) -> Iterator[Tensors]:
        """Gradients of successive steps in which only the state moves, as its optimizer moves it."""
        generator, twin = self._stream("draws", moment.step), self.session.twin()
        for i in range(self.options.settle + self.options.draws):
            update = moment.update(moment.perturbations(generator, later=i), state=twin.rule_state)
            if i >= self.options.settle:
                yield update.grads
            twin.apply(replace(update, grads={}))

    def _over_batches(self, moment: Moment, perturbations: Tensors, true: Tensors) -> dict[int, Figures]:
        """Variance between mini-batches of the training set, under the same perturbations."""
        count, generator = self.options.batches, self._stream("batches", moment.step)
        if not count:
            return {}
        estimates = (
            moment.update(perturbations, batch=self._batch(*self._samples(generator))).grads
            for _ in range(count)
        )
        return {
            l: {"batch_variance": ratio(drawn.variance(), norm(exact) ** 2)}
            for l, (drawn, exact) in moments(estimates, count, moment, true).items()
        }

    def _samples(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels, not augmented."""
        rows = torch.randperm(len(self.train), generator=generator, device=generator.device)[: self.size]
        return self.train.batch(rows), self.train.labels[rows]

    def _batch(self, x: torch.Tensor, labels: torch.Tensor) -> Batch:
        """What the training's step would make of them, under the probe's dropout masks."""
        mode = Mode(training=True, buffers=self.session.buffers, noise=self.noise)
        return self.session.batch(x, labels, mode)

    def _stream(self, purpose: str, step: int) -> torch.Generator:
        seed = self.session.recipe.training.seed
        return stream(seed, f"diagnostics {purpose}", step, self.session.device)
