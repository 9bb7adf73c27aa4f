"""What every operation computes, by public operations of torch: other kernels are held to this.

Index letters: B samples, C channels or classes, N units, H×W positions, k side of a window. Images
(B, C, H, W) enter and leave with their channels adjacent in memory, vectors (B, N) unit by unit (see
`layout`). All operations work under `torch.no_grad`, and but for mixed types under `torch.func.vmap`.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from fdfa_cli.lazy import F, torch
from fdfa_cli.network.kernels.layout import channels_last, empty_images, sample_by_sample, unit_by_unit
from fdfa_cli.streams import Shape

#: Which of dx, ∇γ and ∇β a norm's vjp is asked for.
Mask = tuple[bool, bool, bool]
Three = tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]


class Running(NamedTuple):
    """Running statistics of a batch norm: mean and unbiased variance of each channel (C)."""

    mean: torch.Tensor
    var: torch.Tensor


class Reference:
    """The operations, each as torch's public function of it."""

    # --- products ----------------------------------------------------------------------------------------

    def inner(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """A Bᵀ (M×N) for A (M×K) and B (N×K): the inner products of their rows, as `torch.inner`."""
        return F.linear(a, b)

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x Wᵀ + b (B×N) for x (B×M), W (N×M) and b (N); unit by unit, for it is computed as W xᵀ."""
        y = self.inner(weight, x).t()
        return y if bias is None else y + bias

    def outer_sum(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Aᵀ B (M×N) for A (B×M) and B (B×N): the outer products of their rows, summed over samples.

        A is laid out unit by unit for it, which takes a third off the time and is no copy where A lies so.
        """
        return self.inner(a.t().contiguous(), b.t())

    # --- convolution -------------------------------------------------------------------------------------

    def conv2d(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: int,
        padding: int,
        groups: int,
    ) -> torch.Tensor:
        """W ∗ x + b (B×C_out×H'×W') for x (B×C_in×H×W) and W (C_out×C_in/groups×k×k)."""
        x, stride = _subsampled(x, weight, stride, padding)
        return F.conv2d(x, weight, bias, stride, padding, groups=groups)

    def conv2d_weight_vjp(
        self, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int, groups: int
    ) -> torch.Tensor:
        """∇W for the cotangent dy (B×C_out×H'×W') of W ∗ x; of `weight` only the shape is read."""
        x, stride = _subsampled(x, weight, stride, padding)
        return _conv2d_backward(dy, x, weight, stride, padding, groups, (False, True, False))[1]

    def conv2d_input_vjp(
        self, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int, groups: int
    ) -> torch.Tensor:
        """dx for the cotangent dy (B×C_out×H'×W') of W ∗ x; of `x` only the shape is read."""
        seen, step = _subsampled(x, weight, stride, padding)
        dx = _conv2d_backward(dy, seen, weight, step, padding, groups, (True, False, False))[0]
        if step == stride:
            return dx
        whole = torch.zeros_like(x)  # nothing comes back to the positions that were not seen
        _subsampled(whole, weight, stride, padding)[0].copy_(dx)
        return whole

    # --- norms -------------------------------------------------------------------------------------------

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
        """y = γ x̂ + β with x̂ = (x − μ)/√(s² + ε), μ and 1/√(s² + ε) of each channel, and new `running`.

        μ and s² are the batch's; the running statistics move towards them by `momentum`, and are returned,
        not changed. `x` are images (B×C×H×W), or vectors as the positions of one image (1×C×B); `stacked`
        says that it is one of several trials', under `torch.func.vmap`. Parameters and statistics keep their
        type where x has another.
        """
        # Copied into what is made from x, so that under `torch.func.vmap` they are stacked wherever x is.
        moved = Running(*(x.new_empty(t.shape, dtype=t.dtype).copy_(t) for t in running))
        y, mean, rstd = torch.ops.aten.native_batch_norm(x, weight, bias, *moved, True, momentum, eps)
        return y, mean, rstd, moved

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
        """Those that `mask` asks for of dx, ∇γ = Σ x̂ dy and ∇β = Σ dy, of `batch_norm`.

        dx = γ/√(s² + ε) · (dy − mean(dy) − x̂ mean(x̂ dy)). What is not asked for may be anything.
        """
        three: Three = torch.ops.aten.native_batch_norm_backward.default(
            dy, x, weight, None, None, mean, rstd, True, 0.0, mask
        )
        return three

    def batch_norm_fixed(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, running: Running, eps: float
    ) -> torch.Tensor:
        """y = γ (x − μ)/√(s² + ε) + β with the `running` statistics as μ and s²; shapes of `batch_norm`."""
        y, _, _ = torch.native_batch_norm(x, weight, bias, *running, False, 0.0, eps)
        return y

    def batch_norm_fixed_vjp(
        self,
        dy: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        mean: torch.Tensor,
        rstd: torch.Tensor,
        eps: float,
        mask: Mask,
    ) -> Three:
        """Those that `mask` asks for of dx = γ dy/√(s² + ε), ∇γ and ∇β, where statistics stand still."""
        three: Three = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, rstd.pow(-2) - eps, mean, rstd, False, eps, mask
        )
        return three

    def layer_norm(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> Three:
        """y = γ x̂ + β, and mean and 1/√(s² + ε) of each sample (B×1), over all units of a sample.

        `x` are vectors (B×C) or images (B×C×H×W), γ and β one a channel, in the type of x.
        """
        three: Three = torch.ops.aten.native_group_norm(sample_by_sample(x), weight, bias, *_sizes(x), eps)
        return unit_by_unit(three[0]), three[1], three[2]

    def layer_norm_vjp(
        self,
        dy: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        mean: torch.Tensor,
        rstd: torch.Tensor,
        mask: Mask,
    ) -> Three:
        """Those that `mask` asks for of dx, ∇γ and ∇β, of `layer_norm`; a `weight` of None is ones."""
        result: Three = torch.ops.aten.native_group_norm_backward(
            sample_by_sample(dy), sample_by_sample(x), mean, rstd, weight, *_sizes(x), mask
        )
        return (unit_by_unit(result[0]), result[1], result[2]) if mask[0] else result

    # --- pools -------------------------------------------------------------------------------------------

    def max_pool2d(
        self, x: torch.Tensor, kernel: int, stride: int, padding: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Maximum of each k×k window (B×C×H'×W'), and the position in H·W of each winner (int64).

        Of equal entries the first in row order wins.
        """
        y, winners = torch.ops.aten.max_pool2d_with_indices(x, *_window(kernel, stride, padding))
        return y, winners

    def max_pool2d_jvp(self, dx: torch.Tensor, winners: torch.Tensor) -> torch.Tensor:
        """The winners' entries of dx (B×C×H×W)."""
        b, c, h, w = winners.shape
        # Positions as the second axis: a gather keeps its index's axes in order, so channels stay last.
        flat = dx.permute(0, 2, 3, 1).reshape(b, -1, c)
        taken = flat.gather(1, winners.permute(0, 2, 3, 1).reshape(b, h * w, c))
        return taken.view(b, h, w, c).permute(0, 3, 1, 2)

    def max_pool2d_vjp(
        self, dy: torch.Tensor, winners: torch.Tensor, shape: Shape, kernel: int, stride: int, padding: int
    ) -> torch.Tensor:
        """Each entry of dy added at its winner, zeros elsewhere: images of `shape` (C, H, W)."""
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        dx: torch.Tensor = backward(
            dy, empty_images(dy, shape), *_window(kernel, stride, padding), [1, 1], False, winners
        )
        return dx

    def avg_pool2d(self, x: torch.Tensor, kernel: int, stride: int, padding: int) -> torch.Tensor:
        """Mean of each k×k window (B×C×H'×W'), where padding counts as zeros."""
        return F.avg_pool2d(x, *_window(kernel, stride, padding))

    def avg_pool2d_vjp(
        self, dy: torch.Tensor, shape: Shape, kernel: int, stride: int, padding: int
    ) -> torch.Tensor:
        """Each entry of dy spread over its window: images of `shape` (C, H, W)."""
        backward = torch.ops.aten.avg_pool2d_backward
        window = _window(kernel, stride, padding)
        dx: torch.Tensor = backward(dy, empty_images(dy, shape), *window, False, True, None)
        return dx

    def adaptive_avg_pool2d(self, x: torch.Tensor, side: int) -> torch.Tensor:
        """Means (B×C×side×side) over side² windows, which may overlap and cover images of any size."""
        down, across = _means(x, side, tuple(x.shape[1:]))
        return channels_last(down @ x @ across.mT)

    def adaptive_avg_pool2d_vjp(self, dy: torch.Tensor, side: int, shape: Shape) -> torch.Tensor:
        """Each entry of dy spread over its window: images of `shape` (C, H, W)."""
        down, across = _means(dy, side, shape)
        return channels_last(down.mT @ dy @ across)


def _subsampled(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> tuple[torch.Tensor, int]:
    """The part of `x` that a kernel sees (a view), and the stride over that part.

    A 1×1 kernel of stride s sees every s-th position only: those are cut out here, and the convolution runs
    at stride 1. Left to itself oneDNN cuts them into a workspace of its own, and its weight gradient of
    channels-last float32 images with fewer channels than a vector register holds writes past the end of it
    (oneDNN issue 6035).
    """
    if weight.shape[-1] > 1 or padding:
        return x, stride
    return x[..., ::stride, ::stride], 1


def _conv2d_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: int,
    padding: int,
    groups: int,
    mask: Mask,
) -> Three:
    """Those of dx, ∇W and ∇b that `mask` asks for."""
    result: Three = torch.ops.aten.convolution_backward(
        dy,
        x,
        weight,
        None,  # sizes of the bias
        [stride] * 2,
        [padding] * 2,
        [1, 1],  # dilation
        False,  # transposed
        [0, 0],  # output padding
        groups,
        mask,
    )
    return result


def _sizes(x: torch.Tensor) -> tuple[int, int, int, int]:
    """Samples, channels, positions and groups (one), as torch's group norm takes them."""
    return len(x), x.shape[1], x[0, 0].numel(), 1


def _window(kernel: int, stride: int, padding: int) -> tuple[list[int], list[int], list[int]]:
    """Kernel, stride and padding as torch's pools take them."""
    return [kernel] * 2, [stride] * 2, [padding] * 2


def _means(like: torch.Tensor, side: int, shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices that take the means of each window: over its rows (side×H) and over its columns (side×W)."""
    down, across = (_window_means(side, length).to(like) for length in shape[1:])
    return down, across


@cache
def _window_means(side: int, length: int) -> torch.Tensor:
    """`side`×`length`: row i has 1/n at the n places from ⌊i·length/side⌋ to before ⌈(i+1)·length/side⌉."""
    place, window = torch.arange(length), torch.arange(side)[:, None]
    inside = (place >= window * length // side) & (place < -(-(window + 1) * length // side))
    return inside.double() / inside.sum(1, keepdim=True)
