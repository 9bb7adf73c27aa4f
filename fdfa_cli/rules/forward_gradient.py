"""Forward gradients over the weights: the loss's slope along a random direction, times that direction.

    v ~ N(0, I) over all parameters,      ĝ = (∇L·v) v

The estimate is unbiased, and its variance grows with the number of parameters: Var ĝ_i = ‖∇L‖² + g_i².

With k tangents (`tangents`) the primal pass is shared and the k tangents ride on the batch axis of one
more. Their slopes c = V∇L combine either as the mean Vᵀc/k (unbiased), or as the orthogonal projection
of the gradient onto their span, Vᵀ(VVᵀ)⁺c: shorter than the gradient, but best in angle.

One direction of many thousands finds little of the gradient: on digits/mlp (26,000 parameters, 1,140
steps) fg-w ends at 0.75 test accuracy where training the output layer alone ends at 0.94; 32 tangents
reach 0.96. On mnist/compare (1.3 million parameters) fg-w ends at 0.74, the output layer alone at 0.95.

No layer is exact. One forward pass, and one with k tangents over the activations that it kept; no backward
pass. Random: v (k times the parameters).
Sources: Baydin, Pearlmutter, Syme, Wood & Torr, arXiv 2202.08587; Flügel, Coquelin, Weiel, Debus, Streit &
Götz, "Beyond Backpropagation: Multi-tangent forward gradients", 2024 (k tangents).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Tensors
from fdfa_cli.rules.base import RULES, Holding, Rule
from fdfa_cli.rules.step import Step, Update
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


class OverWeights(ForwardGradient):
    """Forward gradients in the space of all parameters."""

    source: ClassVar[str] = "Baydin et al. 2022"

    @override
    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        return {
            name: Draw((self.tangents, *draw.shape), "gaussian")
            for name, draw in network.parameters().items()
        }

    @override
    def holding(self) -> Holding:
        return Holding(passing=3.5 * self.tangents)  # a layer's tangent, and both of its parts

    @override
    def step(self, s: Step) -> Update:
        trace, V = s.forward(), s.perturbations

        def slope(v: Tensors) -> torch.Tensor:
            """The derivative of the loss along v, ∇L·v, a tensor without axes."""
            return (trace.E * trace.tangent(v)).sum()

        def gram() -> torch.Tensor:
            """The inner products of the k tangents, VVᵀ (k×k)."""
            flat = [v.flatten(1) for v in V.values()]
            return torch.stack([v @ v.mT for v in flat]).sum(0)

        c = self.coefficients(torch.func.vmap(slope)(dict(V)), gram)
        return Update({name: torch.tensordot(c, v, 1) for name, v in V.items()}, trace.loss, trace.Z)

    @override
    def gradient_variance(self, s: Step) -> dict[int, float]:
        # (n_l ‖∇L‖² + ‖∇_l L‖²)/k for a block of n_l parameters; of the mean over tangents only.
        if self.combine != "mean":
            return {}
        grads = s.without_effect().forward().backward().grads
        square = {name: grad.square().sum().item() for name, grad in grads.items()}
        found = {}
        for l, block in enumerate(s.network.blocks):
            draws = block.parameters()
            size = sum(math.prod(draw.shape) for draw in draws.values())
            total = size * sum(square.values()) + sum(square[name] for name in draws)
            found[l] = total / self.tangents
        return found


@RULES.register
class ForwardGradientWeights(OverWeights):
    """Forward gradient over the weights: one directional derivative a step."""

    name: Literal["fg-w"] = "fg-w"
    # The estimate is √P times as long as the gradient (P parameters), so the rate must be small.
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        "optimizer": {"name": "sgd", "lr": 1e-4, "momentum": 0.9}
    }


@RULES.register
class MultiTangentWeights(OverWeights):
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
