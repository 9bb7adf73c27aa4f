"""Squares of neighbouring positions of an image, which share a value."""

from __future__ import annotations

from functools import cache

from fdfa_cli.lazy import F, torch
from fdfa_cli.network.kernels.layout import channels_last
from fdfa_cli.streams import Shape


class Patches:
    """Squares of `side`×`side` positions of a block's output, whose shape is `positions`.

    `shape` counts the squares in place of the positions; the last squares of a row or column may be smaller.
    """

    def __init__(self, positions: Shape, side: int) -> None:
        self.positions, self.side = positions, side
        self.shape = positions
        if side > 1:
            channels, height, width = positions
            self.shape = (channels, -(-height // side), -(-width // side))

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Values a patch (M, *shape), copied to every position of the patch (M, *positions)."""
        values = channels_last(values)
        if self.side == 1:
            return values
        copies = F.interpolate(values, scale_factor=self.side, mode="nearest")
        return copies[..., : self.positions[1], : self.positions[2]]

    def mean(self, sums: torch.Tensor) -> torch.Tensor:
        """Sums over the positions of each patch (M, *shape), divided by their number."""
        return sums if self.side == 1 else sums / _sizes(self.positions, self.side, sums.device, sums.dtype)


@cache
def _sizes(positions: Shape, side: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Number of positions in each patch (1×rows×columns); fewer than side² in the last ones."""
    ones = torch.ones(1, *positions[1:], device=device, dtype=dtype)
    return F.avg_pool2d(ones, side, ceil_mode=True, divisor_override=1)
