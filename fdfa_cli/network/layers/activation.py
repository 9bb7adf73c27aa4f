"""Elementwise activations: y = σ(x), so jvp and vjp are the same product with σ'(x).

Each is a pair of torch's own kernels: σ, and the fused product g·σ'(x).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from fdfa_cli.lazy import F, torch
from fdfa_cli.network.layers.base import Layer, Mode, Tensors
from fdfa_cli.streams import Shape


class Elementwise(NamedTuple):
    """σ, and (g, x, y) ↦ g·σ'(x), from whichever of input x and output y is cheaper."""

    value: Callable[[torch.Tensor], torch.Tensor]
    times_derivative: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


LEAK = 0.01  # slope of leaky ReLU below zero, torch's default

ELEMENTWISE: dict[str, Elementwise] = {
    "relu": Elementwise(lambda x: x.relu(), lambda g, x, y: torch.ops.aten.threshold_backward(g, y, 0)),
    "leaky_relu": Elementwise(
        lambda x: F.leaky_relu(x, LEAK),
        lambda g, x, y: torch.ops.aten.leaky_relu_backward(g, x, LEAK, False),
    ),
    "tanh": Elementwise(lambda x: x.tanh(), lambda g, x, y: torch.ops.aten.tanh_backward(g, y)),
    "sigmoid": Elementwise(lambda x: x.sigmoid(), lambda g, x, y: torch.ops.aten.sigmoid_backward(g, y)),
    "gelu": Elementwise(lambda x: F.gelu(x), lambda g, x, y: torch.ops.aten.gelu_backward(g, x)),
    "softplus": Elementwise(
        lambda x: F.softplus(x), lambda g, x, y: torch.ops.aten.softplus_backward(g, x, 1, 20)
    ),
    "identity": Elementwise(lambda x: x, lambda g, x, y: g),
}


@dataclass(frozen=True)
class Activation(Layer):
    """σ(x), by name."""

    function: str = "relu"
    name: str = field(default="activation", kw_only=True)

    def out_shape(self, shape: Shape) -> Shape:
        """Unchanged."""
        return shape

    def forward(
        self, params: Tensors, x: torch.Tensor, mode: Mode
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Saves x and y."""
        y = ELEMENTWISE[self.function].value(x)
        return y, (x, y)

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        """σ'(x)."""
        function = ELEMENTWISE[self.function]
        return function.times_derivative(torch.ones_like(x), x, function.value(x))

    def jvp(
        self, params: Tensors, saved: tuple[torch.Tensor, torch.Tensor], dx: torch.Tensor
    ) -> torch.Tensor:
        """Dx·σ'(x)."""
        return ELEMENTWISE[self.function].times_derivative(dx, *saved)

    def vjp(
        self,
        params: Tensors,
        saved: tuple[torch.Tensor, torch.Tensor],
        dy: torch.Tensor,
        need_dx: bool = True,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Dy·σ'(x)."""
        return {}, self.jvp(params, saved, dy) if need_dx else None
