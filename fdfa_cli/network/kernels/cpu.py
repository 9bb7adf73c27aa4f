"""The quicker ways of a CPU to the reference's results, each where its own module says that it is quicker.

    matmul       large products by oneDNN, where MKL leaves half of the vectors empty
    nnpack       convolutions with large kernels by Fourier transforms
    batch_norm   few channels folded into wide rows; vectors by torch's group norm
    vmap_rules   the same norms for stacked trials

Where a way is closed (another device or type, autograd, `torch.func`, a torch without the operation) the
reference computes, so this class is right on any device.
"""

from __future__ import annotations

from typing_extensions import override

from fdfa_cli.internals import private
from fdfa_cli.lazy import torch
from fdfa_cli.network.kernels import batch_norm, matmul, nnpack
from fdfa_cli.network.kernels.layout import empty_images, is_plain_float32
from fdfa_cli.network.kernels.reference import Mask, Reference, Running, Three
from fdfa_cli.streams import Shape


class CPU(Reference):
    """The reference's operations with the same results up to rounding, quicker."""

    @override
    def inner(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return matmul.inner(a, b)

    @override
    def conv2d(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: int,
        padding: int,
        groups: int,
    ) -> torch.Tensor:
        if stride == groups == 1 and nnpack.is_quicker(x, weight, padding):
            return nnpack.conv2d(x, weight, padding, bias)
        return super().conv2d(x, weight, bias, stride, padding, groups)

    @override
    def conv2d_weight_vjp(
        self, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int, groups: int
    ) -> torch.Tensor:
        if stride == groups == 1 and nnpack.is_quicker(x, weight, padding) and is_plain_float32(dy):
            return nnpack.weight_vjp(dy, x, padding)
        return super().conv2d_weight_vjp(dy, x, weight, stride, padding, groups)

    @override
    def conv2d_input_vjp(
        self, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int, groups: int
    ) -> torch.Tensor:
        """dx = Wᵀ ∗ dy, a convolution too: with the kernel turned by 180° and more padding."""
        back, around = weight.transpose(0, 1), weight.shape[-1] - 1 - padding
        if stride == groups == 1 and nnpack.is_quicker(dy, back, around):
            return nnpack.conv2d(dy, back.flip(2, 3), around)
        return super().conv2d_input_vjp(dy, x, weight, stride, padding, groups)

    @override
    def batch_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running: Running,
        momentum: float,
        eps: float,
        stacked: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Running]:
        if x.ndim == 3:
            return batch_norm.of_vectors(x, weight, bias, running, momentum, eps, stacked)
        k = batch_norm.positions_in_a_row(x)
        if k > 1:
            return batch_norm.folded(x, weight, bias, running, momentum, eps, k)
        return super().batch_norm(x, weight, bias, running, momentum, eps)

    @override
    def batch_norm_vjp(
        self,
        dy: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        mean: torch.Tensor,
        rstd: torch.Tensor,
        mask: Mask,
        stacked: bool = False,
    ) -> Three:
        if x.ndim == 3:
            return batch_norm.of_vectors_vjp(dy, x, weight, mean, rstd, mask, stacked)
        k = batch_norm.positions_in_a_row(x, dy)
        if k > 1:
            return batch_norm.folded_vjp(dy, x, weight, mean, rstd, mask, k)
        return super().batch_norm_vjp(dy, x, weight, mean, rstd, mask)

    @override
    def adaptive_avg_pool2d(self, x: torch.Tensor, side: int) -> torch.Tensor:
        # Not F.adaptive_avg_pool2d: for one window it calls as_strided_, which vmap has no rule for.
        pool = private("ops.aten._adaptive_avg_pool2d")
        if pool is None:
            return super().adaptive_avg_pool2d(x, side)
        mean: torch.Tensor = pool(x, [side] * 2)
        return mean

    @override
    def adaptive_avg_pool2d_vjp(self, dy: torch.Tensor, side: int, shape: Shape) -> torch.Tensor:
        spread = private("ops.aten._adaptive_avg_pool2d_backward")
        if spread is None:
            return super().adaptive_avg_pool2d_vjp(dy, side, shape)
        dx: torch.Tensor = spread(dy, empty_images(dy, shape))
        return dx
