"""FDFA with structured perturbations: one block at a time, and patches of positions that share one.

What limits FDFA on convolutional networks is the noise of Ĵ_l: its variance is Σ_m ‖J_m‖² over all blocks m
that are perturbed at once, and a block of many positions has many units. Two structures lower it:

    in turn    only block l = t mod (L − 1) is perturbed at step t: its own ‖J_l‖² alone is left in the sum,
               and no tangent is carried below it
    share      P neighbouring positions share one entry of v_l; dᵀ v_l / B then estimates the sum of the
               patch's Jacobian, and its mean, a P-th of that, is what each of its positions receives:
                   Ĵ_l = dᵀ v_l / (B P),   G_l = spread(E F_l),   F_l held at the patches' resolution

The rest is as in FDFA. Source: measured in this project (docs/benchmarks.md); Bacho & Chu 2024 for FDFA.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.patches import Patches
from fdfa_cli.rules.base import RULES
from fdfa_cli.rules.fdfa import AveragedFeedback, Distribution, FeedbackRate, PerturbedForward
from fdfa_cli.rules.step import Step, Trace, feedback_name, feedback_signal, gathered, perturbation_name
from fdfa_cli.streams import Draw

Patch = Annotated[int, Field(ge=1, description="side of the patch of positions that share a perturbation")]
Perturb = Annotated[
    Literal["all", "in_turn"], Field(description="all blocks at every step, or one block a step")
]
Share = Annotated[
    tuple[Patch, ...],
    Field(
        min_length=1,
        description="side of the patches, for each block that has positions; the last one repeats",
    ),
]


class StructuredPerturbation(PerturbedForward):
    """A perturbed forward pass whose perturbations are structured; without structure by default."""

    perturb: Perturb = "all"
    share: Share = (1,)

    @property
    @override
    def perturbed_together(self) -> bool:
        return self.perturb == "all"

    def patches(self, network: Network) -> list[Patches]:
        """How the positions of every block's output are shared."""
        patches, sides = [], [*self.share]
        for shape in network.block_shapes:
            if len(shape) < 3 or shape[1] * shape[2] == 1:  # there are no positions to share over
                patches.append(Patches(shape, 1))
            else:
                patches.append(Patches(shape, sides[0]))
                sides = sides[1:] or sides
        return patches

    @override
    def state(self, network: Network) -> dict[str, Draw]:
        return {
            feedback_name(l): Draw((network.classes, *patch.shape), "constant", 0.0, layout="images")
            for l, patch in enumerate(self.patches(self.injected(network)))
        }

    @override
    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        patches = dict(enumerate(self.patches(self.injected(network))))
        if self.perturb == "in_turn" and patches:
            turn = step % len(patches)
            patches = {turn: patches[turn]}
        return {
            perturbation_name(l): Draw((batch_size, *patch.shape), self.distribution, layout="batch")
            for l, patch in patches.items()
        }

    @override
    def estimate(self, s: Step) -> tuple[Trace, dict[int, torch.Tensor]]:
        v, patches = s.v, self.patches(s.network)
        trace = s.forward(perturbed_by={l: patches[l].spread(v_l) for l, v_l in v.items()})
        if trace.d is None:  # a network without hidden blocks
            return trace, {}
        d = trace.d / s.B
        return trace, {l: patches[l].mean(gathered(d, v_l)) for l, v_l in v.items()}

    @override
    def signals(self, s: Step, trace: Trace) -> Iterator[torch.Tensor]:
        patches = zip(self.patches(s.network), s.feedback, strict=True)
        return (patch.spread(feedback_signal(trace.E, F)) for patch, F in patches)

    @override
    def direct_feedback(self, s: Step) -> dict[int, torch.Tensor]:
        patches = zip(self.patches(self.injected(s.network)), s.feedback, strict=True)
        return {
            l: patch.spread(F).flatten(1)
            for l, (patch, F) in enumerate(patches)
            if patch.positions == s.network.block_shapes[l]
        }


@RULES.register
class FDFAStructured(StructuredPerturbation, AveragedFeedback):
    """FDFA with structured perturbations: ±1, one block in turn, shared by patches of positions.

    On cifar10/cnn after 3 epochs its test accuracy is 63.38 ± 1.56 %, paired 2.63 ± 1.49 points above
    fdfa-adam and 1.11 ± 0.87 points below bp (n=3 seeds, 95 % intervals).
    """

    name: Literal["fdfa-s"] = "fdfa-s"
    feedback_rate: FeedbackRate = 0.003
    distribution: Distribution = "rademacher"
    perturb: Perturb = "in_turn"
    share: Share = (4, 3)
