"""Forward gradients over the activations: every sample's slope along a direction of its own activities.

    u_l ~ N(0, I) per sample at the pre-activations, zero where the activation's slope is zero
    d_b = Σ_l J_l[b] u_l[b]        tangent of sample b's logits
    g_b = B E_b·d_b                slope of sample b's own loss: one number a sample
    D_l[b] = g_b u_l[b] / B        error signal at block l's pre-activation, then the local vjp

The estimate is unbiased, and its variance grows with the number of units: for one sample
Var = Σ_l ‖∇z_l‖² + g_i² at an active unit. A single slope for the whole batch would add about B times the
noise. With batch norm in training, the rule sees how a sample moves its own loss, not how it moves the
others' through the batch's statistics. k tangents combine as in the forward gradients over the weights.

The output layer is exact. One forward pass, and one with k tangents over the activations that it kept; no
backward pass. Random: u (k times the units).
Sources: Ren, Kornblith, Liao & Hinton, "Scaling Forward Gradient with Local Losses", ICLR 2023, arXiv
2210.03310; Flügel et al. 2024 (k tangents).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Literal

from typing_extensions import override

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Activation, Layer
from fdfa_cli.rules.base import RULES, Holding
from fdfa_cli.rules.closed_form import activity_perturbed_variance
from fdfa_cli.rules.forward_gradient import Combine, ForwardGradient, Tangents
from fdfa_cli.rules.step import Step, Update
from fdfa_cli.streams import Draw


class OverActivations(ForwardGradient):
    """Forward gradients in the space of every sample's pre-activations."""

    exact: ClassVar[str] = "output"
    source: ClassVar[str] = "Ren et al. 2023"

    @override
    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        return {
            f"u.{l}": Draw((self.tangents, batch_size, *shape), "gaussian", layout="batch")
            for l, shape in enumerate(network.at_preactivations.block_shapes)
        }

    @override
    def holding(self) -> Holding:
        return Holding(passing=2 * self.tangents, perturbations=2)  # u gated as well

    @override
    def step(self, s: Step) -> Update:
        s = s.on(s.network.at_preactivations)
        trace = s.forward(outputs=True)
        u = [self.gated(s, l, z) for l, z in enumerate(trace.outputs)]
        if not u:
            return trace.update()
        trace.outputs.clear()

        def gram() -> torch.Tensor:
            """VVᵀ of every sample (B×k×k), over the units of all blocks."""
            flat = [tangents.transpose(0, 1).flatten(2).contiguous() for tangents in u]
            return torch.stack([tangents @ tangents.mT for tangents in flat]).sum(0)

        d = self.each(trace.jvp, u)  # k×B×C
        slopes = (s.B * trace.E * d).sum(-1).mT  # B×k: of each sample's own loss
        c = s.cast(self.coefficients(slopes, gram)) / s.B
        return trace.update(self.signals(c, u))

    def gated(self, s: Step, l: int, z: torch.Tensor) -> torch.Tensor:
        """u_l (k, B, *shape) at the pre-activations `z` of block l."""
        follows = (*s.network.blocks, s.network.output)[l + 1].layers[0]
        return self.each(partial(gated, follows, z), s.cast(s.perturbations[f"u.{l}"]))

    def signals(self, c: torch.Tensor, u: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Σ_i c_i u_l,i for every block, one tangent after the other; `c` is B×k."""
        for tangents in u:
            scale = c.mT.view(*c.mT.shape, *(1,) * (tangents.ndim - 2))
            signal = scale[0] * tangents[0]
            for i in range(1, self.tangents):
                signal = signal + scale[i] * tangents[i]
            yield signal

    def each(self, f: Callable[[Any], torch.Tensor], tangents: Any) -> torch.Tensor:
        """Image of each of the k tangents (the leading axis of a tensor, or of several) under `f`."""
        if self.tangents > 1:
            return torch.func.vmap(f)(tangents)
        return f(tangents[0] if isinstance(tangents, torch.Tensor) else [u[0] for u in tangents])[None]

    @override
    def gradient_variance(self, s: Step) -> dict[int, float]:
        if self.combine != "mean":
            return {}
        variance = activity_perturbed_variance(s.on(s.network.at_preactivations), gated)
        return {l: v / self.tangents for l, v in variance.items()}


def gated(layer: Layer, z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """`u` where the activation that follows the pre-activations `z` has a slope, 0 where it has none."""
    return layer.gate(z, u) if isinstance(layer, Activation) else u


@RULES.register
class ForwardGradientActivations(OverActivations):
    """Forward gradient over the activations: one directional derivative a sample."""

    name: Literal["fg-a"] = "fg-a"


@RULES.register
class MultiTangentActivations(OverActivations):
    """Multi-tangent forward gradient over the activations: k directions a sample."""

    name: Literal["fg-a-multi"] = "fg-a-multi"
    tangents: Tangents = 8
    combine: Combine = "orthogonal"
    source: ClassVar[str] = "Flügel et al. 2024"
