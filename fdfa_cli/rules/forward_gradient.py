"""Forward gradients: the loss's slope along a random direction, times that direction.

    fg-w   v ~ N(0, I) over all parameters:          ĝ = (∇L·v) v
    fg-a   u_l ~ N(0, I) per sample at the pre-activations, zero where the activation's slope is zero:
           g_b = tangent of sample b's own loss,      D_l[b] = g_b u_l[b] / B,  then the local vjp

Both are unbiased. The variance of fg-w grows with the number of parameters, Var ĝ_i = ‖∇L‖² + g_i²; that
of fg-a with the number of units: for one sample Var = Σ_l ‖∇z_l‖² + g_i² at an active unit. g_b is one
number a sample: a single one for the batch would add about B times the noise. With batch norm in training,
fg-a sees how a sample moves its own loss, not how it moves the others' through the batch's statistics.

With k tangents (`tangents`) the primal pass is shared and the k tangents ride on the batch axis of one
more. Their slopes c = V∇L combine either as the mean Vᵀc/k (unbiased), or as the orthogonal projection
of the gradient onto their span, Vᵀ(VVᵀ)⁺c: shorter than the gradient, but best in angle.

One direction of many thousands finds little of the gradient: on digits/mlp (26,000 parameters, 1,140
steps) fg-w ends at 0.75 test accuracy where training the output layer alone ends at 0.94; 32 tangents
reach 0.96. On mnist/compare (1.3 million parameters) fg-w ends at 0.74, the output layer alone at 0.95.

fg-w is exact nowhere; in fg-a the output layer is exact. One forward pass, and one with k tangents over the
activations that it kept; no backward pass. Random: v (k times the parameters) or u (k times the units).
Sources: Baydin, Pearlmutter, Syme, Wood & Torr, arXiv 2202.08587 (fg-w); Ren, Kornblith, Liao & Hinton,
"Scaling Forward Gradient with Local Losses", ICLR 2023, arXiv 2210.03310 (fg-a); Flügel, Coquelin, Weiel,
Debus, Streit & Götz, "Beyond Backpropagation: Multi-tangent forward gradients", 2024 (multi-tangent).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Activation, Layer, Tensors
from fdfa_cli.network.losses import Batch
from fdfa_cli.registry import RULES
from fdfa_cli.rules.base import Rule, Update
from fdfa_cli.rules.closed_form import as_linear, forward_pass, samples_are_independent
from fdfa_cli.streams import Draw

Tangents = Annotated[int, Field(ge=1, description="k, directions a step")]
Combine = Annotated[
    Literal["mean", "orthogonal"],
    Field(description="average of the k estimates, or projection of the gradient on their span"),
]


class ForwardGradient(Rule):
    """Directional derivatives along k random tangents, combined."""

    tangents: Tangents = 1
    combine: Combine = "mean"

    exact: ClassVar[str] = "none"
    passes: ClassVar[str] = "1 forward with k tangents"

    def coefficients(self, slopes: torch.Tensor, gram: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The k numbers by which the tangents are added up.

        `slopes` c (…, k) are the directional derivatives, `gram` gives VVᵀ (…, k, k), the tangents' products.
        Where the tangents are dependent (a sample with fewer active units than tangents), directions whose
        product is nothing but rounding count as absent.
        """
        if self.combine == "mean":
            return slopes / self.tangents
        products = gram().to(slopes.dtype)
        inverse = torch.linalg.pinv(products, rtol=torch.finfo(products.dtype).eps ** 0.75, hermitian=True)
        return torch.einsum("...ij,...j->...i", inverse, slopes)


class _Weights(ForwardGradient):
    """Forward gradients in the space of all parameters."""

    source: ClassVar[str] = "Baydin et al. 2022"

    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        """Tangents v ~ N(0, 1) of every parameter (k, *shape)."""
        return {
            name: Draw((self.tangents, *draw.shape), "gaussian")
            for name, draw in network.parameters().items()
        }

    def step(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch, perturbations: Tensors
    ) -> Update:
        """See `Rule.step`."""
        logits, saved = network.chain.forward(params, batch.x, batch.mode)
        loss, error = batch.loss(logits)

        def slope(v: Tensors) -> torch.Tensor:
            """∇L·v."""
            d = network.chain.tangent(params, saved, None, v)
            assert d is not None  # the output layer has parameters
            return (error * d).sum()

        slopes = torch.func.vmap(slope)(dict(perturbations))
        flat = [v.flatten(1) for v in perturbations.values()]
        weights = self.coefficients(slopes, lambda: torch.stack([v @ v.mT for v in flat]).sum(0))
        grads = {name: torch.tensordot(weights, v, 1) for name, v in perturbations.items()}
        return Update(grads, loss, logits)

    def gradient_variance(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch
    ) -> dict[int, float]:
        """(n_l ‖∇L‖² + ‖∇_l L‖²)/k for a block of n_l parameters; of the mean over tangents only."""
        if self.combine != "mean":
            return {}
        logits, saved = network.chain.forward(params, batch.x, batch.mode.discarding())
        error = batch.loss(logits)[1].to(logits.dtype)
        grads, _ = network.chain.vjp(params, saved, error, need_dx=False)
        square = {name: grad.square().sum().item() for name, grad in grads.items()}
        found = {}
        for l, block in enumerate(network.blocks):
            draws = block.parameters()
            size = sum(math.prod(draw.shape) for draw in draws.values())
            total = size * sum(square.values()) + sum(square[name] for name in draws)
            found[l] = total / self.tangents
        return found


class _Activations(ForwardGradient):
    """Forward gradients in the space of every sample's pre-activations."""

    exact: ClassVar[str] = "output"
    source: ClassVar[str] = "Ren et al. 2023"

    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        """u_l ~ N(0, 1) at every block's pre-activation (k, B, *shape)."""
        return {
            f"u.{l}": Draw((self.tangents, batch_size, *shape), "gaussian", layout="batch")
            for l, shape in enumerate(network.at_preactivations.block_shapes)
        }

    def step(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch, perturbations: Tensors
    ) -> Update:
        """See `Rule.step`."""
        net = network.at_preactivations
        parts = (*net.blocks, net.output)
        z, saved, tangents = batch.x, [], []
        for l, block in enumerate(net.blocks):
            z, kept = block.forward(params, z, batch.mode)
            saved.append(kept)
            gate = partial(gated, parts[l + 1].layers[0], z)
            tangents.append(self.each(gate, perturbations[f"u.{l}"].to(z.dtype)))
        logits, kept = net.output.forward(params, z, batch.mode)
        loss, error = batch.loss(logits)
        grads, _ = net.output.vjp(params, kept, error.to(z.dtype), need_dx=False)
        if not tangents:
            return Update(grads, loss, logits)

        def logits_tangent(u: list[torch.Tensor]) -> torch.Tensor:
            """The logits' tangent d (B×C), to which those of all blocks add up."""
            dz = u[0]
            for l, block in enumerate(net.blocks[1:], 1):
                dz = block.jvp(params, saved[l], dz) + u[l]
            return net.output.jvp(params, kept, dz)

        def gram() -> torch.Tensor:
            """VVᵀ of every sample (B×k×k), over the units of all blocks."""
            flat = [u.transpose(0, 1).flatten(2).contiguous() for u in tangents]
            return torch.stack([u @ u.mT for u in flat]).sum(0)

        d = self.each(logits_tangent, tangents)
        slopes = (len(batch) * error * d).sum(-1).mT  # B×k: of each sample's own loss
        weights = self.coefficients(slopes, gram).to(z.dtype) / len(batch)
        for l, block in enumerate(net.blocks):
            scale = weights.mT.view(*weights.mT.shape, *(1,) * (tangents[l].ndim - 2))
            signal = scale[0] * tangents[l][0]
            for i in range(1, self.tangents):
                signal = signal + scale[i] * tangents[l][i]
            grads |= block.vjp(params, saved.pop(0), signal, need_dx=False)[0]
        return Update(grads, loss, logits)

    def each(self, f: Callable[[Any], torch.Tensor], tangents: Any) -> torch.Tensor:
        """Image of each of the k tangents (the leading axis of a tensor, or of several) under `f`."""
        if self.tangents > 1:
            return torch.func.vmap(f)(tangents)
        return f(tangents[0] if isinstance(tangents, torch.Tensor) else [u[0] for u in tangents])[None]

    def gradient_variance(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch
    ) -> dict[int, float]:
        """Σ_b ‖x_b‖² (n_b Σ_m ‖∇z_m[b]‖² + ‖∇z_l[b]‖²)/(B² k): x_b enters block l (1 for the bias included).

        n_b counts the block's active units and ∇z is of sample b's own loss, so for linear layers without
        batch norm; of the mean over tangents only.
        """
        if self.combine != "mean" or not samples_are_independent(network):
            return {}
        net = network.at_preactivations
        parts, seen = (*net.blocks, net.output), forward_pass(net, params, batch)
        own: list[torch.Tensor] = []
        cotangent = seen.error
        for part, kept in zip(parts[:0:-1], seen.saved[:0:-1], strict=True):
            _, below = part.vjp(params, kept, cotangent)
            assert below is not None  # asked for
            cotangent = below
            own.insert(0, (len(batch) * cotangent).flatten(1).square().sum(1))
        everywhere, found = sum(own), {}
        for l, block in enumerate(net.blocks):
            linear = as_linear(block, params, seen.saved[l])
            if linear is not None:
                z = seen.outputs[l]
                units = gated(parts[l + 1].layers[0], z, torch.ones_like(z)).sum(1)
                moved = linear.inputs.square().sum(1) * (units * everywhere + own[l])
                found[l] = moved.sum().item() / (len(batch) ** 2 * self.tangents)
        return found


def gated(layer: Layer, z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """`u` where the activation that follows the pre-activations `z` has a slope, 0 where it has none."""
    return layer.gate(z, u) if isinstance(layer, Activation) else u


@RULES.register
class ForwardGradientWeights(_Weights):
    """Forward gradient over the weights: one directional derivative a step."""

    name: Literal["fg-w"] = "fg-w"
    # The estimate is √P times as long as the gradient (P parameters), so the rate must be small.
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        "optimizer": {"name": "sgd", "lr": 1e-4, "momentum": 0.9}
    }


@RULES.register
class MultiTangentWeights(_Weights):
    """Multi-tangent forward gradient over the weights: the gradient's projection on k directions."""

    name: Literal["fg-w-multi"] = "fg-w-multi"
    tangents: Tangents = 32
    combine: Combine = "orthogonal"
    source: ClassVar[str] = "Flügel et al. 2024"
    # The projection is √(P/k) times shorter than the gradient: a rate that ignores length, brought to zero.
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        "optimizer": {"name": "adam", "lr": 1e-2},
        "schedule": {"name": "cosine"},
    }


@RULES.register
class ForwardGradientActivations(_Activations):
    """Forward gradient over the activations: one directional derivative a sample."""

    name: Literal["fg-a"] = "fg-a"


@RULES.register
class MultiTangentActivations(_Activations):
    """Multi-tangent forward gradient over the activations: k directions a sample."""

    name: Literal["fg-a-multi"] = "fg-a-multi"
    tangents: Tangents = 8
    combine: Combine = "orthogonal"
    source: ClassVar[str] = "Flügel et al. 2024"
