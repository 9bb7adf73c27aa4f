"""Two-dimensional convolution.

y = W ∗ x + b        W: C_out×(C_in/groups)×k×k, b: C_out
dy = W ∗ dx
∇W = dy ∗ x          summed over samples; ∇b = Σ dy over samples and positions
dx = Wᵀ ∗ dy         the transposed convolution, computed only where it is asked for
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from typing_extensions import override

from fdfa_cli.errors import UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.network.kernels import kernels
from fdfa_cli.network.layers.base import Layer, Mode, Tensors
from fdfa_cli.streams import Draw, Shape


@dataclass(frozen=True)
class Conv2d(Layer):
    """y = W ∗ x + b for images (B×C_in×H×W) and a square kernel, as `torch.nn.Conv2d`.

    Initial values are U(±1/√fan_in).
    """

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = True
    name: str = field(default="conv", kw_only=True)

    def __post_init__(self) -> None:
        if self.inputs % self.groups or self.outputs % self.groups:
            raise UsageError(
                f"a convolution of {self.inputs} to {self.outputs} channels cannot have {self.groups} "
                "groups: their number must divide both"
            )

    @override
    def out_shape(self, shape: Shape) -> Shape:
        """(C_out, H', W') with H' = ⌊(H + 2·padding − k)/stride⌋ + 1."""
        if len(shape) != 3 or shape[0] != self.inputs:
            raise UsageError(
                f"a convolution of {self.inputs} channels cannot take a sample of shape {shape}: "
                f"it needs ({self.inputs}, height, width)"
            )
        return (self.outputs, *window_positions(shape, self.kernel, self.stride, self.padding, "convolution"))

    @override
    def parameters(self) -> dict[str, Draw]:
        """`weight` C_out×(C_in/groups)×k×k and `bias` C_out."""
        shape = (self.outputs, self.inputs // self.groups, self.kernel, self.kernel)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        draws = {self.key("weight"): Draw(shape, "uniform", bound)}
        if self.bias:
            draws[self.key("bias")] = Draw((self.outputs,), "uniform", bound)
        return draws

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, torch.Tensor]:
        """y = W ∗ x + b; saves x."""
        bias = params[self.key("bias")].to(x.dtype) if self.bias else None
        return kernels().conv2d(x, self._weight(params, x), bias, *self._steps), x

    @override
    def jvp(self, params: Tensors, saved: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
        """dy = W ∗ dx."""
        return kernels().conv2d(dx, self._weight(params, dx), None, *self._steps)

    @override
    def parameter_tangent(self, params: Tensors, saved: torch.Tensor, dparams: Tensors) -> torch.Tensor:
        """dy = dW ∗ x + db."""
        return self.forward(dparams, saved, Mode(training=False))[0]

    @override
    def vjp(
        self, params: Tensors, saved: torch.Tensor, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """∇W, and ∇b as two sums, which torch's own kernel of all three takes longer for."""
        weight = self._weight(params, dy)
        grads = {self.key("weight"): kernels().conv2d_weight_vjp(dy, saved, weight, *self._steps)}
        if self.bias:
            key = self.key("bias")
            grads[key] = dy.sum((2, 3), dtype=params[key].dtype).sum(0)
        return grads, kernels().conv2d_input_vjp(dy, saved, weight, *self._steps) if need_dx else None

    @property
    def _steps(self) -> tuple[int, int, int]:
        return self.stride, self.padding, self.groups

    def _weight(self, params: Tensors, like: torch.Tensor) -> torch.Tensor:
        return params[self.key("weight")].to(like.dtype)


def window_positions(shape: Shape, kernel: int, stride: int, padding: int, what: str) -> tuple[int, int]:
    """Rows and columns of a `kernel`-sided window's positions on an image of `shape` (C, H, W).

    Raises `UsageError` where there are none; `what` names the owner of the window.
    """
    height, width = shape[1:]
    if min(height, width) + 2 * padding < kernel:
        raise UsageError(
            f"a {kernel}×{kernel} {what} with padding {padding} cannot take a {height}×{width} image: "
            f"it needs {kernel - 2 * padding}×{kernel - 2 * padding} at least"
        )
    return (height + 2 * padding - kernel) // stride + 1, (width + 2 * padding - kernel) // stride + 1
