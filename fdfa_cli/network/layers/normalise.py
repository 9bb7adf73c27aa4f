"""Batch norm's two kernels: normalising with the batch's own statistics, and the derivative of that.

    y = γ x̂ + β,   x̂ = (x − μ)/√(s² + ε)
    dx = γ/√(s² + ε) · (dy − mean(dy) − x̂ mean(x̂ dy))

Torch's own, but for images of few channels on a CPU. There its kernels walk the channels of one position
at a time, which fills no vector register. Folding k neighbouring positions into the axis of the channels
makes rows k times as wide, over which sums and affine maps run at the memory's speed; the k sums of a
channel are added up at the end. On two cores, 64 images of 15×28×28 take 0.3 ms in place of 1.2 forward
and 0.4 in place of 1.3 backward; 40×24×24, 0.5 in place of 0.7 and 0.45 in place of 0.85.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fdfa_cli.lazy import torch

#: Numbers a folded row holds at most.
WIDTH = 256

#: Which of dx, ∇γ and ∇β are asked for.
Mask = tuple[bool, bool, bool]


class Running(NamedTuple):
    """Running statistics, which `normalise` moves in place: the mean and the (unbiased) variance."""

    mean: torch.Tensor
    var: torch.Tensor
    momentum: float

    def move(self, mean: torch.Tensor, var: torch.Tensor) -> None:
        """Towards those of a batch."""
        self.mean.copy_(torch.lerp(self.mean, mean, self.momentum))
        self.var.copy_(torch.lerp(self.var, var, self.momentum))


def normalise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, running: Running, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`y`, μ and 1/√(s² + ε) of a batch `x` (B×C or B×C×H×W); the last two one a channel."""
    k = _fold(x)
    if k == 1:
        y, mean, rstd = torch.ops.aten.native_batch_norm(
            x, weight, bias, running.mean, running.var, True, running.momentum, eps
        )
        return y, mean, rstd
    rows, count = _rows(x, k), x.numel() // x.shape[1]
    mean = _unfolded(rows.sum(0), k) / count
    squares, _ = _sums(rows, rows, mean, torch.ones_like(mean), k)  # Σ x (x − μ) = Σ (x − μ)²
    rstd = (squares / count + eps).rsqrt()
    running.move(mean, squares / max(count - 1, 1))
    scale = weight * rstd
    y = torch.addcmul((bias - mean * scale).repeat(k), rows, scale.repeat(k))
    return _images(y, x), mean, rstd


def normalise_vjp(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    mask: Mask,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Those of dx, ∇γ = Σ x̂ dy and ∇β = Σ dy that `mask` asks for."""
    k = _fold(x)
    if k == 1:
        result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, None, None, mean, rstd, True, 0.0, mask
        )
        return result
    cotangents, rows, count = _rows(dy, k), _rows(x, k), x.numel() // x.shape[1]
    grad_weight, grad_bias = _sums(cotangents, rows, mean, rstd, k)
    if not mask[0]:
        return dy, grad_weight, grad_bias
    scale = weight * rstd
    slope = -scale * rstd * grad_weight / count
    shift = -scale * grad_bias / count - slope * mean
    dx = torch.addcmul(torch.addcmul(shift.repeat(k), rows, slope.repeat(k)), cotangents, scale.repeat(k))
    return _images(dx, x), grad_weight, grad_bias


def _fold(x: torch.Tensor) -> int:
    """How many positions make a row: a power of two that divides all; 1 leaves the work to torch.

    As it is where autograd records, whose graph goes through torch's own kernel only.
    """
    channels = x.shape[1]
    if x.ndim < 4 or 2 * channels > WIDTH or x.dtype.itemsize < 4:
        return 1
    if x.device.type != "cpu" or x.requires_grad:
        return 1
    return math.gcd(x.numel() // channels, 2 ** int(math.log2(WIDTH / channels)))


def _rows(x: torch.Tensor, k: int) -> torch.Tensor:
    """Images (B×C×H×W) as a matrix of k positions a row (BHW/k × kC); no copy where channels lie last."""
    return x.permute(0, 2, 3, 1).reshape(-1, k * x.shape[1])


def _images(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of `_rows`."""
    b, c, h, w = like.shape
    return rows.view(b, h, w, c).permute(0, 3, 1, 2)


def _unfolded(sums: torch.Tensor, k: int) -> torch.Tensor:
    """Each channel's sum (C) of the k sums (kC) that a row has of it."""
    return sums.view(k, -1).sum(0)


def _sums(
    dy: torch.Tensor, rows: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ dy (x − μ) rstd and Σ dy, one a channel: what torch's kernel gives as ∇γ and ∇β."""
    mean, rstd = mean.repeat(k), rstd.repeat(k)
    _, weight, bias = torch.ops.aten.native_batch_norm_backward(
        dy, rows, torch.ones_like(mean), None, None, mean, rstd, True, 0.0, (False, True, True)
    )
    return _unfolded(weight, k), _unfolded(bias, k)
