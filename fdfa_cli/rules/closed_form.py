"""Closed forms of the variance of gradient estimates, for diagnostics to compare with what they measure.

For a block that is a linear layer, elementwise functions after it and nothing else that has parameters,
the gradients of its parameters for an error signal G (B×N) at its output are

    ∇[W b] = (G ∘ S)ᵀ [X 1]          S: slope from the linear layer's output to the block's,  X: its input
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.jacobian import jacobian_rows
from fdfa_cli.network.layers import Activation, Chain, Dropout, Flatten, Layer, Linear, Tensors
from fdfa_cli.rules.step import Step

#: (layer that follows, pre-activations z, tangent u) ↦ u where the layer has a slope at z, else 0.
Gate = Callable[[Layer, "torch.Tensor", "torch.Tensor"], "torch.Tensor"]


class LinearBlock(NamedTuple):
    """`inputs` [X 1] (B×(N_in + 1), or B×N_in without a bias) and `slope` S (B×N)."""

    inputs: torch.Tensor
    slope: torch.Tensor


class Pass(NamedTuple):
    """One forward pass: every block's output and what it saved, the output layer last; and E (B×C)."""

    outputs: list[torch.Tensor]
    saved: list[Any]
    error: torch.Tensor


def samples_are_independent(network: Network) -> bool:
    """Whether each sample's logits depend on that sample alone."""
    return all(layer.independent for layer, _ in network.leaves())


def forward_pass(s: Step) -> Pass:
    """A pass without effect on running statistics."""
    s = s.without_effect()
    x, outputs, saved = s.batch.x, [], []
    for block in (*s.network.blocks, s.network.output):
        x, kept = block.forward(s.params, x, s.batch.mode)
        outputs.append(x)
        saved.append(kept)
    return Pass(outputs, saved, s.cast(s.batch.loss(x)[1]))


def as_linear(block: Chain, params: Tensors, saved: list[Any]) -> LinearBlock | None:
    """`block` as a linear layer and the slope of what follows it; None where it has another form."""
    own, stages = block.first_with_parameters, block.stages
    if own == len(stages):
        return None
    linear, before, after = stages[own], stages[:own], stages[own + 1 :]
    elementwise = all(isinstance(layer, Activation | Dropout) for layer in after)
    plain = all(isinstance(layer, Activation | Dropout | Flatten) for layer in before)
    if not isinstance(linear, Linear) or not elementwise or not plain:
        return None
    x = saved[own]
    slope: torch.Tensor | None = x.new_ones(len(x), linear.outputs)
    for i in reversed(range(own + 1, len(stages))):
        assert slope is not None
        _, slope = stages[i].vjp(params, saved[i], slope)
    assert slope is not None
    inputs = torch.cat((x, x.new_ones(len(x), 1)), 1) if linear.bias else x
    return LinearBlock(inputs, slope)


def jacobians(s: Step) -> list[torch.Tensor]:
    """The Jacobians J_l[b] (B×C×N_l) of every block, with the batch's statistics held fixed."""
    rows = list(jacobian_rows(s.network, s.params, s.batch.x, s.batch.mode.discarding()))
    return [torch.stack([row[l].flatten(1) for row in rows], 1) for l in range(len(s.network.blocks))]


def averaged_feedback_variance(s: Step, rate: float, law: str, together: bool) -> dict[int, float]:
    """Σ_i Var ĝ_i by block, of direct feedback that averages Jacobian estimates at `rate` α.

    K_j (C×C) is the stationary covariance of F_l[:, j], α/(2 − α)/B² Σ_b (Σ_m J_m J_mᵀ ± J_:j J_:jᵀ): plus
    for Gaussian perturbations (`law`), minus for ±1; m runs over all blocks where they are perturbed
    `together`, and is l alone elsewhere. The gradient of unit j's weights is Σ_b s_bj (E[b]·F[:, j]) x_b,
    with s the slope of the unit and x_b its inputs, so the sum over the units of block l is Σ_j ⟨P_j, K_j⟩
    with P_j = Mᵀ X Xᵀ M and M[b, c] = s_bj E[b, c]. Blocks that are not linear, and networks with batch norm,
    have no closed form here.
    """
    if not samples_are_independent(s.network):
        return {}
    seen, js, found = forward_pass(s), jacobians(s), {}
    share = rate / (2 - rate) / s.B**2
    sign = 1 if law == "gaussian" else -1
    for l, block in enumerate(s.network.blocks):
        linear = as_linear(block, s.params, seen.saved[l])
        if linear is None:
            continue
        perturbed = js if together else [js[l]]
        common = sum(torch.einsum("bcn,bdn->cd", j, j) for j in perturbed)
        own = torch.einsum("bcn,bdn->ncd", js[l], js[l])
        sent = torch.einsum("bn,bc->nbc", linear.slope, seen.error)
        weights = sent.mT @ (linear.inputs @ linear.inputs.mT) @ sent
        found[l] = (weights * (common + sign * own)).sum().item() * share
    return found


def activity_perturbed_variance(s: Step, gated: Gate) -> dict[int, float]:
    """Σ_b ‖x_b‖² (n_b Σ_m ‖∇z_m[b]‖² + ‖∇z_l[b]‖²)/B² by block, on a network cut at its pre-activations.

    x_b enters block l (1 for the bias included), n_b counts the units that `gated` lets through, and ∇z is of
    sample b's own loss. Blocks that are not linear, and networks with batch norm, have no closed form here.
    """
    if not samples_are_independent(s.network):
        return {}
    parts, seen = (*s.network.blocks, s.network.output), forward_pass(s)
    own: list[torch.Tensor] = []
    cotangent = seen.error
    for part, kept in zip(parts[:0:-1], seen.saved[:0:-1], strict=True):
        _, below = part.vjp(s.params, kept, cotangent)
        assert below is not None  # asked for
        cotangent = below
        own.insert(0, (s.B * cotangent).flatten(1).square().sum(1))
    everywhere, found = sum(own), {}
    for l, block in enumerate(s.network.blocks):
        linear = as_linear(block, s.params, seen.saved[l])
        if linear is not None:
            z = seen.outputs[l]
            units = gated(parts[l + 1].layers[0], z, torch.ones_like(z)).sum(1)
            moved = linear.inputs.square().sum(1) * (units * everywhere + own[l])
            found[l] = moved.sum().item() / s.B**2
    return found
