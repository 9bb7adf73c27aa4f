"""Forward direct feedback alignment: direct feedback that learns the network's mean Jacobian, forwards.

One forward pass carries a tangent. The input's tangent is zero; at every hidden block's output a fresh
perturbation v_l (independent per sample and unit, mean 0, variance 1) is added to the tangent from
below, so the tangent of sample b's logits is

    d_b = Σ_l J_l[b] v_l[b]                  a vector of C numbers a sample

    G_l = E F_l                              with the feedback from before this step
    Ĵ_l = dᵀ v_l / B                         unbiased for the mean Jacobian (C×N_l)
    F_l ← (1 − α) F_l + α Ĵ_l                the paper's momentum: SGD of rate α on F_l − Ĵ_l

The output layer is exact; hidden blocks see the averaged Jacobian, exact up to the noise of the average
and the spread of J_l[b] over samples. Random: v. One forward pass with a tangent, no backward pass; all
activations and perturbations are kept until the error is known, the tangent of one layer at a time.

For v ~ N(0, I), E[d_c v_j] = J_cj and Var[d_c v_j] = Σ_l ‖J_l[c]‖² + J_cj² for one sample; divided by B
for the batch mean, and times α/(2 − α) for the stationary average. For v = ±1 the last term is − J_cj².

Source: Bacho & Chu, "Low-variance Forward Gradients using Direct Feedback Alignment and Momentum",
Neural Networks 169 (2024), arXiv 2212.07282.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.optim.optimizers import OPTIMIZERS, SGD, Optimizer
from fdfa_cli.optim.schedules import SCHEDULES, Constant, Schedule
from fdfa_cli.registry import Choice
from fdfa_cli.rules.base import RULES, Rule
from fdfa_cli.rules.closed_form import averaged_feedback_variance
from fdfa_cli.rules.step import (
    Step,
    Trace,
    Update,
    feedback_name,
    feedback_signal,
    gathered,
    perturbation_name,
)
from fdfa_cli.streams import Draw

Distribution = Annotated[
    Literal["gaussian", "rademacher"], Field(description="law of the perturbations; rademacher is ±1")
]
Inject = Annotated[
    Literal["block", "activation"], Field(description="perturb after or before a block's pool")
]
FeedbackRate = Annotated[float, Field(gt=0, le=1, description="α, the weight of the newest estimate Ĵ")]
FeedbackOptimizer = Annotated[
    Optimizer | None,
    Choice(OPTIMIZERS),
    Field(description="follow F − Ĵ with this optimizer instead of averaging at feedback_rate"),
]
FeedbackSchedule = Annotated[Schedule, Choice(SCHEDULES), Field(description="of the feedback's rate")]


class PerturbedForward(Rule):
    """Direct feedback beside a forward pass whose tangent estimates the mean Jacobians."""

    distribution: Distribution = "gaussian"
    inject: Inject = "block"

    exact: ClassVar[str] = "output"
    passes: ClassVar[str] = "1 forward with tangent"
    source: ClassVar[str] = "Bacho & Chu 2024"

    @property
    def perturbed_together(self) -> bool:
        """Whether one step perturbs all blocks at once."""
        return True

    def injected(self, network: Network) -> Network:
        """The network, its blocks ending where perturbations enter."""
        return network if self.inject == "block" else network.at_activations

    @override
    def state(self, network: Network) -> dict[str, Draw]:
        shapes = self.injected(network).block_shapes
        return {
            feedback_name(l): Draw((network.classes, *shape), "constant", 0.0, layout="images")
            for l, shape in enumerate(shapes)
        }

    @override
    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        shapes = self.injected(network).block_shapes
        return {
            perturbation_name(l): Draw((batch_size, *shape), self.distribution, layout="batch")
            for l, shape in enumerate(shapes)
        }

    def estimate(self, s: Step) -> tuple[Trace, dict[int, torch.Tensor]]:
        """The pass, and this step's estimate Ĵ_l (C×N_l) for every block that was perturbed."""
        trace = s.forward(perturbed_by=s.v)
        if trace.d is None:  # a network without hidden blocks
            return trace, {}
        d = trace.d / s.B
        return trace, {l: gathered(d, v) for l, v in s.v.items()}

    def signals(self, s: Step, trace: Trace) -> Iterator[torch.Tensor]:
        """G_l = E F_l for every block."""
        return (feedback_signal(trace.E, F) for F in s.feedback)

    @override
    def direct_feedback(self, s: Step) -> dict[int, torch.Tensor]:
        # Where a pool follows the point of injection, F_l does not act at the block's output.
        shapes = self.injected(s.network).block_shapes
        return {l: F.flatten(1) for l, F in enumerate(s.feedback) if shapes[l] == s.network.block_shapes[l]}


class AveragedFeedback(PerturbedForward):
    """FDFA with its options; the registered rules differ in their defaults only."""

    feedback_rate: FeedbackRate = 0.01
    feedback_optimizer: FeedbackOptimizer = None
    feedback_schedule: FeedbackSchedule = Constant()

    @override
    def feedback_training(self, optimizer: Optimizer, schedule: Schedule) -> tuple[Optimizer, Schedule]:
        return self.feedback_optimizer or SGD(lr=self.feedback_rate), self.feedback_schedule

    @override
    def step(self, s: Step) -> Update:
        s = s.on(self.injected(s.network))
        trace, jacobians = self.estimate(s)
        differences = {l: s.feedback[l] - J for l, J in jacobians.items()}
        return trace.update(self.signals(s, trace), feedback_gradients=differences)

    @override
    def gradient_variance(self, s: Step) -> dict[int, float]:
        if self.feedback_optimizer is not None or self.feedback_schedule != Constant():
            return {}  # the feedback's law is not that of a plain average
        return averaged_feedback_variance(
            s.on(self.injected(s.network)), self.feedback_rate, self.distribution, self.perturbed_together
        )


@RULES.register
class FDFA(AveragedFeedback):
    """Forward direct feedback alignment, as in the paper: averaged feedback, all blocks, Gaussian."""

    name: Literal["fdfa"] = "fdfa"
