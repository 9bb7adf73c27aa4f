"""The state of a training at one step: what a step of the rule reads, and steps without an effect on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fdfa_cli.diagnostics.metrics import RunningMoments, concatenated
from fdfa_cli.diagnostics.recorder import Recording, recorded
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Tensors
from fdfa_cli.network.losses import Batch
from fdfa_cli.rules.base import Rule
from fdfa_cli.rules.step import Step, Update
from fdfa_cli.streams import sample


@dataclass(frozen=True)
class Snapshot:
    """Weights and state of a training after `step` steps, and the probe's batch."""

    rule: Rule
    network: Network
    params: Tensors
    state: Tensors
    batch: Batch
    step: int

    def perturbations(self, generator: torch.Generator, later: int = 0) -> dict[str, torch.Tensor]:
        """Draw the perturbations of this step, or of the step `later` steps after it."""
        laws = self.rule.perturbations(self.network, len(self.batch), self.step + later)
        return sample(laws, generator)

    @property
    def random(self) -> bool:
        """Whether the rule's step draws anything."""
        return bool(self.rule.perturbations(self.network, len(self.batch), self.step))

    def update(
        self,
        perturbations: Tensors,
        *,
        network: Network | None = None,
        state: Tensors | None = None,
        batch: Batch | None = None,
    ) -> Update:
        """The update that the rule's step computes; new running statistics are thrown away."""
        s = Step(
            network or self.network,
            self.params,
            self.state if state is None else state,
            batch or self.batch,
            perturbations,
        )
        return self.rule.step(s.without_effect())

    def seen(self, perturbations: Tensors | None = None) -> Step:
        """The argument that the rule's step gets here."""
        return Step(self.network, self.params, self.state, self.batch, perturbations or {})

    def gradient_variance(self) -> dict[int, float]:
        """The variance of the gradient by the rule's closed form, by block."""
        return self.rule.gradient_variance(self.seen())

    def exact(self) -> tuple[Tensors, Recording]:
        """The exact gradients by backprop, and what passed the blocks on the way."""
        recording = Recording()
        network = recorded(self.network, recording)
        logits, saved = network.chain.forward(self.params, self.batch.x, self.batch.mode.discarding())
        error = self.batch.loss(logits)[1].to(logits.dtype)
        return network.chain.vjp(self.params, saved, error, need_dx=False)[0], recording


def running_moments(
    estimates: Iterable[Tensors], count: int, snapshot: Snapshot, true: Tensors
) -> dict[int, tuple[RunningMoments, torch.Tensor]]:
    """Mean and variance of `count` estimates of the gradient, with the exact gradient, by block.

    Blocks that do not learn are left out. Where the second estimate equals the first in every block, the rule
    draws nothing, and no further estimates are taken.
    """
    seen: dict[int, RunningMoments] = {}
    names: dict[int, list[str]] = {}
    for i, grads in enumerate(estimates):
        if i == 0:
            learning = {
                l: [name for name in b.parameters() if name in grads]
                for l, b in enumerate(snapshot.network.blocks)
            }
            names = {l: found for l, found in learning.items() if found}
            seen = {l: RunningMoments(half=count // 2) for l in names}
        for l in names:
            seen[l].add(concatenated(grads, names[l]))
        if i == 1 and not any(moments.variance() for moments in seen.values()):
            break
    return {l: (seen[l], concatenated(true, names[l])) for l in names}
