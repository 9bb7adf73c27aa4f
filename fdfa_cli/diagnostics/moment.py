"""One moment of a training: what a step of the rule reads, and steps that leave no trace."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fdfa_cli.diagnostics.figures import Moments, concatenated
from fdfa_cli.diagnostics.watch import Record, watched
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Tensors
from fdfa_cli.network.losses import Batch
from fdfa_cli.rules.base import Rule
from fdfa_cli.rules.step import Step, Update
from fdfa_cli.streams import sample


@dataclass(frozen=True)
class Moment:
    """Weights and state of a training after `step` steps, and the probe's batch."""

    rule: Rule
    network: Network
    params: Tensors
    state: Tensors
    batch: Batch
    step: int

    def perturbations(self, generator: torch.Generator, later: int = 0) -> dict[str, torch.Tensor]:
        """Fresh ones, of this moment's step or `later` steps after it."""
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
        """What the rule's step gives; new running statistics are thrown away."""
        s = Step(
            network or self.network,
            self.params,
            self.state if state is None else state,
            batch or self.batch,
            perturbations,
        )
        return self.rule.step(s.without_effect())

    def seen(self, perturbations: Tensors | None = None) -> Step:
        """What the rule is given at this moment."""
        return Step(self.network, self.params, self.state, self.batch, perturbations or {})

    def gradient_variance(self) -> dict[int, float]:
        """The rule's closed form, by block."""
        return self.rule.gradient_variance(self.seen())

    def exact(self) -> tuple[Tensors, Record]:
        """The true gradients by backprop, and what passed the blocks on the way."""
        record = Record()
        network = watched(self.network, record)
        logits, saved = network.chain.forward(self.params, self.batch.x, self.batch.mode.discarding())
        error = self.batch.loss(logits)[1].to(logits.dtype)
        return network.chain.vjp(self.params, saved, error, need_dx=False)[0], record


def moments(
    estimates: Iterable[Tensors], count: int, moment: Moment, true: Tensors
) -> dict[int, tuple[Moments, torch.Tensor]]:
    """Mean and variance of `count` estimates of the gradient, by block, beside the true one.

    Blocks that do not learn are left out. Where the second estimate equals the first in every block,
    chance plays no part, and the rest is not asked for.
    """
    seen: dict[int, Moments] = {}
    names: dict[int, list[str]] = {}
    for i, grads in enumerate(estimates):
        if i == 0:
            learning = {
                l: [name for name in b.parameters() if name in grads]
                for l, b in enumerate(moment.network.blocks)
            }
            names = {l: found for l, found in learning.items() if found}
            seen = {l: Moments(half=count // 2) for l in names}
        for l in names:
            seen[l].add(concatenated(grads, names[l]))
        if i == 1 and not any(moments.variance() for moments in seen.values()):
            break
    return {l: (seen[l], concatenated(true, names[l])) for l in names}
