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

Perturbing one block at a time (`perturb: in_turn`) leaves only that block's ‖J_l[c]‖² in the sum, and
needs no tangent below it. Sharing a perturbation over a patch of P neighbouring positions (`share`)
estimates the sum of the patch's Jacobian; its mean is what each of its positions receives, so the
feedback is held at the patch's resolution.

Source: Bacho & Chu, "Low-variance Forward Gradients using Direct Feedback Alignment and Momentum",
Neural Networks 169 (2024), arXiv 2212.07282.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fdfa_cli.lazy import F, torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Tensors
from fdfa_cli.network.layers.memory import channels_last
from fdfa_cli.network.losses import Batch
from fdfa_cli.registry import OPTIMIZERS, RULES, SCHEDULES, Choice
from fdfa_cli.rules.base import Rule, Update, feedback_name, feedback_signal, gathered
from fdfa_cli.rules.closed_form import as_linear, forward_pass, jacobians, samples_are_independent
from fdfa_cli.streams import Draw, Shape
from fdfa_cli.train.optimizers import SGD, Adam, Optimizer
from fdfa_cli.train.schedules import Constant, Schedule

Patch = Annotated[int, Field(ge=1, description="side of the patch of positions that share a perturbation")]
Distribution = Annotated[
    Literal["gaussian", "rademacher"], Field(description="law of the perturbations; rademacher is ±1")
]
Inject = Annotated[
    Literal["block", "activation"],
    Field(description="perturb a block's output, or its activation before the pool"),
]
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
FeedbackRate = Annotated[
    float, Field(gt=0, le=1, description="α, the weight of the newest Jacobian estimate")
]
FeedbackOptimizer = Annotated[
    Optimizer | None,
    Choice(OPTIMIZERS),
    Field(description="follow F − Ĵ with this optimizer instead of averaging at feedback_rate"),
]


class PerturbedForward(Rule):
    """Direct feedback beside a forward pass whose tangent estimates the mean Jacobians."""

    distribution: Distribution = "gaussian"
    inject: Inject = "block"
    perturb: Perturb = "all"
    share: Share = (1,)

    exact: ClassVar[str] = "output"
    passes: ClassVar[str] = "1 forward with tangent"
    source: ClassVar[str] = "Bacho & Chu 2024"

    def injected(self, network: Network) -> Network:
        """The network, its blocks ending where perturbations enter."""
        return network if self.inject == "block" else network.at_activations

    def patches(self, network: Network) -> list[int]:
        """Patch side of every block; 1 where the output has no positions."""
        sides, given = [], [*self.share]
        for shape in network.block_shapes:
            if len(shape) < 3 or shape[1] * shape[2] == 1:
                sides.append(1)
            else:
                sides.append(given[0])
                given = given[1:] or given
        return sides

    def state(self, network: Network) -> dict[str, Draw]:
        """F_l = 0, C×N_l with units in the block output's shape, of patches where it shares perturbations."""
        net = self.injected(network)
        return {
            feedback_name(l): Draw((network.classes, *_coarse(shape, side)), "constant", 0.0, layout="images")
            for l, (shape, side) in enumerate(zip(net.block_shapes, self.patches(net), strict=True))
        }

    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        """v_l (B, *shape of block l, coarsened by its patch): of all blocks, or of one in turn."""
        net = self.injected(network)
        sides, blocks = self.patches(net), range(len(net.blocks))
        if self.perturb == "in_turn" and net.blocks:
            blocks = blocks[step % len(blocks) :][:1]
        return {
            feedback_name(l): Draw(
                (batch_size, *_coarse(net.block_shapes[l], sides[l])), self.distribution, layout="batch"
            )
            for l in blocks
        }

    def forward(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch, perturbations: Tensors
    ) -> tuple[Update, Tensors]:
        """The gradients that the present feedback gives, and this step's Ĵ_l under its feedback's name."""
        net = self.injected(network)
        sides, names = self.patches(net), [feedback_name(l) for l in range(len(net.blocks))]
        h, dh, saved = batch.x, None, []
        for l, block in enumerate(net.blocks):
            h, dh, kept = block.dual(params, h, dh, batch.mode)
            saved.append(kept)
            if names[l] in perturbations:
                v = _spread(perturbations[names[l]].to(h.dtype), net.block_shapes[l], sides[l])
                dh = v if dh is None else dh + v
        logits, d, kept = net.output.dual(params, h, dh, batch.mode)
        loss, error = batch.loss(logits)

        grads, _ = net.output.vjp(params, kept, error.to(h.dtype), need_dx=False)
        for l, block in enumerate(net.blocks):
            signal = _spread(feedback_signal(error, state[names[l]]), net.block_shapes[l], sides[l])
            grads |= block.vjp(params, saved.pop(0), signal.to(h.dtype), need_dx=False)[0]

        jacobians: dict[str, torch.Tensor] = {}
        if d is None:
            return Update(grads, loss, logits), jacobians
        precision = next(iter(perturbations.values())).dtype
        share = d.to(precision) / len(batch)
        for l, name in enumerate(names):
            if name not in perturbations:
                continue
            v = perturbations[name]
            jacobians[name] = gathered(share, v)
            if sides[l] > 1:  # a patch's sum was estimated; each of its positions receives the mean
                jacobians[name] /= _positions(net.block_shapes[l], sides[l], v.device)
        return Update(grads, loss, logits), jacobians

    def direct_feedback(self, network: Network, state: Tensors) -> dict[int, torch.Tensor]:
        """F_l where perturbations enter at the block's output, a patch's at each of its positions."""
        net, found = self.injected(network), {}
        for l, (shape, side) in enumerate(zip(net.block_shapes, self.patches(net), strict=True)):
            if shape == network.block_shapes[l]:
                coarse = state[feedback_name(l)]
                found[l] = _spread(coarse, shape, side).flatten(1)
        return found


class _Averaged(PerturbedForward):
    """The rule itself; the registered presets below differ in their defaults only."""

    feedback_rate: FeedbackRate = 0.01
    feedback_optimizer: FeedbackOptimizer = None
    feedback_schedule: Annotated[Schedule, Choice(SCHEDULES), Field(description="of the feedback's rate")] = (
        Constant()
    )

    def feedback_training(self, optimizer: Optimizer, schedule: Schedule) -> tuple[Optimizer, Schedule]:
        """The average over time is SGD of rate α on F − Ĵ."""
        return self.feedback_optimizer or SGD(lr=self.feedback_rate), self.feedback_schedule

    def step(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch, perturbations: Tensors
    ) -> Update:
        """See `Rule.step`."""
        update, jacobians = self.forward(network, params, state, batch, perturbations)
        return replace(update, state_grads={name: state[name] - j for name, j in jacobians.items()})

    def gradient_variance(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch
    ) -> dict[int, float]:
        """Σ_j ⟨P_j, K_j⟩ over the units j of block l; for averaged feedback, linear blocks, no batch norm.

        K_j (C×C) is the stationary covariance of F_l[:, j], α/(2 − α)/B² Σ_b (Σ_m J_m J_mᵀ ± J_:j J_:jᵀ), and
        the gradient of unit j's weights is Σ_b s_bj (E[b]·F[:, j]) x_b, s the slope of the unit and x_b its
        inputs, so P_j = Mᵀ X Xᵀ M with M[b, c] = s_bj E[b, c].
        """
        settled = self.feedback_optimizer is None and self.feedback_schedule == Constant()
        if not settled or not samples_are_independent(network):
            return {}
        net = self.injected(network)
        seen, js, found = forward_pass(net, params, batch), jacobians(net, params, batch), {}
        share = self.feedback_rate / (2 - self.feedback_rate) / len(batch) ** 2
        sign = 1 if self.distribution == "gaussian" else -1
        for l, block in enumerate(net.blocks):
            linear = as_linear(block, params, seen.saved[l])
            if linear is None:
                continue
            perturbed = js if self.perturb == "all" else [js[l]]
            common = sum(torch.einsum("bcn,bdn->cd", j, j) for j in perturbed)
            own = torch.einsum("bcn,bdn->ncd", js[l], js[l])
            sent = torch.einsum("bn,bc->nbc", linear.slope, seen.error)
            weights = sent.mT @ (linear.inputs @ linear.inputs.mT) @ sent
            found[l] = (weights * (common + sign * own)).sum().item() * share
        return found


@RULES.register
class FDFA(_Averaged):
    """Forward direct feedback alignment, as in the paper: averaged feedback, all blocks, Gaussian."""

    name: Literal["fdfa"] = "fdfa"


@RULES.register
class FDFAAdam(_Averaged):
    """FDFA as in the authors' script: Adam of rate 1e-4 on the feedback, injected at the activation.

    On cifar10/cnn after 3 epochs its test accuracy is 60.76 ± 0.42 %, paired 3.74 ± 1.16 points below bp
    (n=3 seeds, 95 % intervals).
    """

    name: Literal["fdfa-adam"] = "fdfa-adam"
    feedback_optimizer: FeedbackOptimizer = Adam(lr=1e-4)
    inject: Inject = "activation"


@RULES.register
class FDFAStructured(_Averaged):
    """FDFA with structured perturbations: ±1, one block in turn, shared by patches of positions.

    On cifar10/cnn after 3 epochs its test accuracy is 63.38 ± 1.56 %, paired 2.63 ± 1.49 points above
    fdfa-adam and 1.11 ± 0.87 points below bp (n=3 seeds, 95 % intervals).
    """

    name: Literal["fdfa-s"] = "fdfa-s"
    feedback_rate: FeedbackRate = 0.003
    distribution: Distribution = "rademacher"
    perturb: Perturb = "in_turn"
    share: Share = (4, 3)


def _coarse(shape: Shape, side: int) -> Shape:
    """`shape` with its positions counted in patches of `side`×`side`; the last ones may be partial."""
    if side == 1:
        return shape
    channels, height, width = shape
    return (channels, -(-height // side), -(-width // side))


def _spread(v: torch.Tensor, shape: Shape, side: int) -> torch.Tensor:
    """Values a patch (B, *coarse shape) copied to every position of the patch (B, *shape)."""
    v = channels_last(v)
    if side == 1:
        return v
    return F.interpolate(v, scale_factor=side, mode="nearest")[..., : shape[1], : shape[2]]


@cache
def _positions(shape: Shape, side: int, device: torch.device) -> torch.Tensor:
    """Number of positions in each patch (1×rows×columns of patches); fewer than side² in the last ones."""
    ones = torch.ones(1, *shape[1:], device=device)
    return F.avg_pool2d(ones, side, ceil_mode=True, divisor_override=1)
