"""Fully connected layer.

    y = x Wᵀ + b        W: N_out×N_in, b: N_out
    dy = dx Wᵀ
    ∇W = dyᵀ x,  ∇b = Σ_B dy,  dx = dy W

Every rule but backprop and its kin leaves out the last product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from typing_extensions import override

from fdfa_cli.errors import UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.network.kernels import kernels
from fdfa_cli.network.kernels.layout import cast
from fdfa_cli.network.layers.base import Layer, Mode, Tensors
from fdfa_cli.streams import Draw, Shape


@dataclass(frozen=True)
class Linear(Layer):
    """y = x Wᵀ + b for vectors (B×N_in), as `torch.nn.Linear`; initial values U(±1/√N_in)."""

    inputs: int
    outputs: int
    bias: bool = True
    name: str = field(default="linear", kw_only=True)

    @override
    def out_shape(self, shape: Shape) -> Shape:
        if shape != (self.inputs,):
            raise UsageError(f"a linear layer of {self.inputs} inputs cannot take a sample of shape {shape}")
        return (self.outputs,)

    @override
    def parameters(self) -> dict[str, Draw]:
        """`weight` N_out×N_in and `bias` N_out."""
        bound = 1 / math.sqrt(self.inputs)
        draws = {self.key("weight"): Draw((self.outputs, self.inputs), "uniform", bound)}
        if self.bias:
            draws[self.key("bias")] = Draw((self.outputs,), "uniform", bound)
        return draws

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, torch.Tensor]:
        """y = x Wᵀ + b; saves x."""
        bias = cast(params[self.key("bias")], x.dtype) if self.bias else None
        return kernels().linear(x, self._weight(params, x), bias), x

    @override
    def jvp(self, params: Tensors, saved: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
        """dy = dx Wᵀ."""
        return kernels().linear(dx, self._weight(params, dx))

    @override
    def parameter_tangent(self, params: Tensors, saved: torch.Tensor, dparams: Tensors) -> torch.Tensor:
        """dy = x dWᵀ + db."""
        return self.forward(dparams, saved, Mode(training=False))[0]

    @override
    def vjp(
        self, params: Tensors, saved: torch.Tensor, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """∇W = dyᵀ x, ∇b = Σ_B dy, dx = dy W."""
        grads = {self.key("weight"): kernels().outer_sum(dy, saved)}
        if self.bias:
            grads[self.key("bias")] = dy.sum(0)
        return grads, kernels().linear(dy, self._weight(params, dy).t()) if need_dx else None

    def _weight(self, params: Tensors, like: torch.Tensor) -> torch.Tensor:
        return cast(params[self.key("weight")], like.dtype)
