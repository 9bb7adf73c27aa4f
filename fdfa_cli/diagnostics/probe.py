"""A probe: one fixed batch through the rule and through exact backprop, block by block.

It reads a training's tensors and changes none: its random numbers come from streams of their own, running
statistics are thrown away, and what an optimizer would do is done to a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fdfa_cli.diagnostics.blocks import activity, alignments, feedbacks, weight_alignments
from fdfa_cli.diagnostics.metrics import Metrics, concatenated, norm, ratio, spread
from fdfa_cli.diagnostics.phases import phases
from fdfa_cli.diagnostics.snapshot import Snapshot, running_moments
from fdfa_cli.lazy import torch
from fdfa_cli.network.layers import Mode, Tensors
from fdfa_cli.network.losses import Batch
from fdfa_cli.streams import sample, stream

if TYPE_CHECKING:
    from fdfa_cli.data.base import Subset
    from fdfa_cli.diagnostics.training import Training
    from fdfa_cli.recipe.diagnostics import Diagnostics


class Probe:
    """The probes of one `training`: `options` say what is measured, on a batch drawn from `train` once.

    The batch has the training's size, is drawn by the run's seed and never augmented; its dropout masks
    stay the same too, so that what moves between two probes is the training's doing.
    """

    def __init__(self, options: Diagnostics, training: Training, train: Subset) -> None:
        self.options, self.training, self.train = options, training, train
        self.size = min(training.batch_size, len(train))
        generator = self._stream("batch", 0)
        self.noise = sample(training.network.noise(self.size), generator)
        self.x, self.labels = self._samples(generator)

    def due(self) -> bool:
        """Whether a probe is due after the steps taken so far."""
        return self.options.due(self.training.taken, self.training.steps)

    def measure(self) -> dict[str, Any]:
        """All metrics at this step, as a row of metrics stores them, but for the seconds that they took."""
        training = self.training
        batch = self._batch(self.x, self.labels)
        snapshot = Snapshot(
            training.recipe.rule,
            training.network,
            training.params,
            training.rule_state,
            batch,
            training.taken,
        )
        perturbations = snapshot.perturbations(self._stream("step", snapshot.step))
        true, exact = snapshot.exact()
        blocks: list[dict[str, Any]] = [{"block": l + 1} for l in range(len(snapshot.network.blocks))]
        for table in (
            alignments(snapshot, perturbations, true, exact),
            self._over_draws(snapshot, true),
            self._over_batches(snapshot, perturbations, true),
            weight_alignments(snapshot, perturbations),
            feedbacks(snapshot) if self.options.jacobians else {},
            activity(snapshot, true, exact),
        ):
            for l, found in table.items():
                blocks[l] |= found
        return {
            "step": snapshot.step,
            "epoch": snapshot.step / training.steps,
            "blocks": blocks,
            "phases": phases(snapshot, training.twin(), self._stream("phases", snapshot.step)),
        }

    def _over_draws(self, snapshot: Snapshot, true: Tensors) -> dict[int, Metrics]:
        """Bias and variance over fresh perturbations, with the closed form where the rule has one."""
        count, settle = self.options.draws, self.options.settle
        if not count:
            return {}
        moves = settle > 0 and snapshot.random and bool(snapshot.state)
        estimates = self._settled(snapshot) if moves else self._drawn(snapshot)
        seen = running_moments(estimates, count, snapshot, true)
        found = {l: spread(drawn, exact) for l, (drawn, exact) in seen.items()}
        if moves or not snapshot.state:
            for l, variance in snapshot.gradient_variance().items():
                size = norm(concatenated(true, snapshot.network.blocks[l].parameters()))
                found[l]["variance_theory"] = ratio(variance, size**2)
        return found

    def _drawn(self, snapshot: Snapshot) -> Iterator[Tensors]:
        """Gradients under fresh perturbations, state held still."""
        generator = self._stream("draws", snapshot.step)
        for _ in range(self.options.draws if snapshot.random else 1):
            yield snapshot.update(snapshot.perturbations(generator)).grads

    def _settled(self, snapshot: Snapshot) -> Iterator[Tensors]:
        """Gradients of successive steps in which only the state moves, as its optimizer moves it."""
        generator, twin = self._stream("draws", snapshot.step), self.training.twin()
        for i in range(self.options.settle + self.options.draws):
            update = snapshot.update(snapshot.perturbations(generator, later=i), state=twin.rule_state)
            if i >= self.options.settle:
                yield update.grads
            twin.apply(replace(update, grads={}))

    def _over_batches(self, snapshot: Snapshot, perturbations: Tensors, true: Tensors) -> dict[int, Metrics]:
        """Variance between mini-batches of the training set, under the same perturbations."""
        count, generator = self.options.batches, self._stream("batches", snapshot.step)
        if not count:
            return {}
        estimates = (
            snapshot.update(perturbations, batch=self._batch(*self._samples(generator))).grads
            for _ in range(count)
        )
        return {
            l: {"batch_variance": ratio(drawn.variance(), norm(exact) ** 2)}
            for l, (drawn, exact) in running_moments(estimates, count, snapshot, true).items()
        }

    def _samples(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels of a batch drawn from the training set, without augmentation."""
        rows = torch.randperm(len(self.train), generator=generator, device=generator.device)[: self.size]
        return self.train.batch(rows), self.train.labels[rows]

    def _batch(self, x: torch.Tensor, labels: torch.Tensor) -> Batch:
        """The batch that the training's step would get of them, under the probe's dropout masks."""
        mode = Mode(training=True, buffers=self.training.buffers, noise=self.noise)
        return self.training.batch(x, labels, mode)

    def _stream(self, purpose: str, step: int) -> torch.Generator:
        seed = self.training.recipe.training.seed
        return stream(seed, f"diagnostics {purpose}", step, self.training.device)
