"""Elementwise activations: y = σ(x), so jvp and vjp are the same product with σ'(x).

Each is a pair of torch's own operators: σ, and the fused product g·σ'(x). Where σ' is a function of y, only
y is kept. Operators are called by their overload (``.default``), because finding it takes as long as a small
operator does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from typing_extensions import override

from fdfa_cli.lazy import F, torch
from fdfa_cli.network.layers.base import Kept, Layer, Mode, Tensors
from fdfa_cli.streams import Shape


class Elementwise(NamedTuple):
    """σ and its derivative.

    `times_derivative` is (g, s) ↦ g·σ'(x), where s is y if `from_output`, else x: one of the two suffices,
    and the other may be freed. `monotone`: σ never decreases.
    """

    value: Callable[[torch.Tensor], torch.Tensor]
    times_derivative: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    from_output: bool
    monotone: bool = True


LEAK = 0.01  # slope of leaky ReLU below zero, torch's default

ELEMENTWISE: dict[str, Elementwise] = {
    "relu": Elementwise(
        lambda x: x.relu(),
        lambda g, y: torch.ops.aten.threshold_backward.default(g, y, 0),
        from_output=True,
    ),
    "leaky_relu": Elementwise(
        lambda x: F.leaky_relu(x, LEAK),
        lambda g, y: torch.ops.aten.leaky_relu_backward.default(g, y, LEAK, True),
        from_output=True,
    ),
    "tanh": Elementwise(
        lambda x: x.tanh(),
        lambda g, y: torch.ops.aten.tanh_backward.default(g, y),
        from_output=True,
    ),
    "sigmoid": Elementwise(
        lambda x: x.sigmoid(),
        lambda g, y: torch.ops.aten.sigmoid_backward.default(g, y),
        from_output=True,
    ),
    "gelu": Elementwise(
        lambda x: F.gelu(x),
        lambda g, x: torch.ops.aten.gelu_backward.default(g, x),
        from_output=False,
        monotone=False,
    ),
    "softplus": Elementwise(
        lambda x: F.softplus(x),
        lambda g, x: torch.ops.aten.softplus_backward.default(g, x, 1, 20),
        from_output=False,
    ),
    "identity": Elementwise(lambda x: x, lambda g, y: g, from_output=True),
}


@dataclass(frozen=True)
class Activation(Layer):
    """y = σ(x) elementwise, for inputs of any shape; `function` is a name of `ELEMENTWISE`."""

    function: str = "relu"
    name: str = field(default="activation", kw_only=True)

    @property
    @override
    def monotone(self) -> bool:
        return ELEMENTWISE[self.function].monotone

    @property
    @override
    def keeps(self) -> Kept:
        return "output" if ELEMENTWISE[self.function].from_output else "input"

    @override
    def out_shape(self, shape: Shape) -> Shape:
        return shape

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, torch.Tensor]:
        """y = σ(x); saves x or y, whichever the derivative is made of."""
        function = ELEMENTWISE[self.function]
        y = function.value(x)
        return y, y if function.from_output else x

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        """The derivative σ'(x), in the shape of x."""
        function = ELEMENTWISE[self.function]
        return function.times_derivative(torch.ones_like(x), function.value(x) if function.from_output else x)

    def gate(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """`u` where σ'(x) is not 0, and 0 where it is."""
        if self.function == "relu":
            return torch.ops.aten.threshold_backward.default(u, x, 0)  # type: ignore[no-any-return]
        return torch.where(self.slope(x) != 0, u, 0)

    @override
    def jvp(self, params: Tensors, saved: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
        """dy = dx·σ'(x), entry by entry."""
        return ELEMENTWISE[self.function].times_derivative(dx, saved)

    @override
    def vjp(
        self, params: Tensors, saved: torch.Tensor, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """dx = dy·σ'(x), entry by entry."""
        return {}, self.jvp(params, saved, dy) if need_dx else None
