"""Two-dimensional convolution.

    y = W ∗ x + b        W: C_out×(C_in/groups)×k×k, b: C_out
    dy = W ∗ dx

∇W and dx come from torch's convolution_backward, dx only where asked; ∇b = Σ dy over samples and positions,
which that kernel finds more slowly than two sums. Where Fourier transforms are quicker, see `fourier`.

A 1×1 kernel of stride s sees every s-th position only: those are cut out, and the convolution runs at stride
1. Left to itself oneDNN cuts them into a workspace of its own, and its weight gradient of channels-last
float32 images with fewer channels than a vector register holds writes past the end of it (oneDNN issue 6035).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fdfa_cli.errors import UsageError
from fdfa_cli.lazy import F, torch
from fdfa_cli.network.layers import fourier
from fdfa_cli.network.layers.base import Layer, Mode, Tensors
from fdfa_cli.network.layers.memory import plain
from fdfa_cli.streams import Draw, Shape


@dataclass(frozen=True)
class Conv2d(Layer):
    """W ∗ x + b with a square kernel. Initial values as `torch.nn.Conv2d`: U(±1/√fan_in)."""

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

    def out_shape(self, shape: Shape) -> Shape:
        """(C_out, H', W') with H' = ⌊(H + 2·padding − k)/stride⌋ + 1."""
        if len(shape) != 3 or shape[0] != self.inputs:
            raise UsageError(
                f"a convolution of {self.inputs} channels cannot take a sample of shape {shape}: "
                f"it needs ({self.inputs}, height, width)"
            )
        return (self.outputs, *window_positions(shape, self.kernel, self.stride, self.padding, "convolution"))

    def parameters(self) -> dict[str, Draw]:
        """`weight` C_out×(C_in/groups)×k×k and `bias` C_out."""
        shape = (self.outputs, self.inputs // self.groups, self.kernel, self.kernel)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        draws = {self.key("weight"): Draw(shape, "uniform", bound)}
        if self.bias:
            draws[self.key("bias")] = Draw((self.outputs,), "uniform", bound)
        return draws

    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, torch.Tensor]:
        """Saves x."""
        bias = params[self.key("bias")].to(x.dtype) if self.bias else None
        return self._convolve(params, x, bias), x

    def jvp(self, params: Tensors, saved: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
        """W ∗ dx."""
        return self._convolve(params, dx, None)

    def parameter_tangent(self, params: Tensors, saved: torch.Tensor, dparams: Tensors) -> torch.Tensor:
        """The convolution dW ∗ x, plus db."""
        return self.forward(dparams, saved, Mode(training=False))[0]

    def vjp(
        self, params: Tensors, saved: torch.Tensor, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """See `Layer.vjp`."""
        weight = params[self.key("weight")].to(dy.dtype)
        grads = {self.key("weight"): self._gradient(weight, saved, dy)}
        if self.bias:
            key = self.key("bias")
            grads[key] = dy.sum((2, 3), dtype=params[key].dtype).sum(0)
        return grads, self._cotangent(weight, saved, dy) if need_dx else None

    def _convolve(self, params: Tensors, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        weight = params[self.key("weight")].to(x.dtype)
        if self._by_transforms(x, weight, self.padding):
            return fourier.convolve(x, weight, self.padding, bias)
        x, stride = self._seen(x)
        return F.conv2d(x, weight, bias, stride, self.padding, groups=self.groups)

    def _gradient(self, weight: torch.Tensor, x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        """∇W."""
        if self._by_transforms(x, weight, self.padding) and plain(dy):
            return fourier.weight_gradient(x, dy, self.padding)
        return self._backward(weight, self._seen(x), dy, (False, True, False))[1]

    def _cotangent(self, weight: torch.Tensor, x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        """Dx."""
        back, around = weight.transpose(0, 1), self.kernel - 1 - self.padding
        if self._by_transforms(dy, back, around):
            return fourier.convolve(dy, back.flip(2, 3), around)
        seen, stride = self._seen(x)
        dx = self._backward(weight, (seen, stride), dy, (True, False, False))[0]
        if stride == self.stride:
            return dx
        whole = torch.zeros_like(x)  # nothing comes back to the positions that were not seen
        self._seen(whole)[0].copy_(dx)
        return whole

    def _backward(
        self,
        weight: torch.Tensor,
        seen: tuple[torch.Tensor, int],
        dy: torch.Tensor,
        mask: tuple[bool, bool, bool],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Those of dx, ∇W and ∇b that `mask` asks for, directly."""
        x, stride = seen
        result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten.convolution_backward(
            dy,
            x,
            weight,
            None,  # sizes of the bias
            [stride] * 2,
            [self.padding] * 2,
            [1, 1],  # dilation
            False,  # transposed
            [0, 0],  # output padding
            self.groups,
            mask,
        )
        return result

    def _by_transforms(self, x: torch.Tensor, weight: torch.Tensor, padding: int) -> bool:
        return self.stride == self.groups == 1 and fourier.quicker(x, weight, padding)

    def _seen(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        """What of `x` the kernel sees (a view), and the stride over that."""
        if self.kernel > 1 or self.padding:
            return x, self.stride
        return x[..., :: self.stride, :: self.stride], 1


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
