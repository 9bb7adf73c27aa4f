"""Pooling: maximum and mean over windows of positions.

A maximum's derivative picks the winners' entries, an average is linear. Neither needs the input, only its
shape; so what is saved is that, and the input may be freed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

from fdfa_cli.errors import UsageError
from fdfa_cli.internals import private
from fdfa_cli.lazy import F, torch
from fdfa_cli.network.layers.base import Kept, Layer, Mode, Tensors
from fdfa_cli.network.layers.conv import window_positions
from fdfa_cli.network.layers.memory import channels_last, empty_images
from fdfa_cli.streams import Shape


@dataclass(frozen=True)
class _Pool(Layer):
    """A square window; `stride` is the window's side where it is not given."""

    kernel: int
    stride: int | None = None
    padding: int = 0
    name: str = field(default="pool", kw_only=True)

    def __post_init__(self) -> None:
        if 2 * self.padding > self.kernel:
            raise UsageError(
                f"a pool's padding is at most half its side, not {self.padding} of {self.kernel}"
            )

    @property
    def keeps(self) -> Kept:
        """Shapes only."""
        return "nothing"

    @property
    def step(self) -> int:
        """Stride in positions."""
        return self.stride or self.kernel

    def out_shape(self, shape: Shape) -> Shape:
        """(C, H', W') with H' = ⌊(H + 2·padding − k)/stride⌋ + 1."""
        _require_image(shape, "a pool")
        return (shape[0], *window_positions(shape, self.kernel, self.step, self.padding, "pool"))

    @property
    def _window(self) -> tuple[list[int], list[int], list[int]]:
        """Kernel, stride and padding as torch's operators take them."""
        return [self.kernel] * 2, [self.step] * 2, [self.padding] * 2


@dataclass(frozen=True)
class MaxPool2d(_Pool):
    """Maximum over windows; the first in row order wins a tie, as in torch."""

    picks_maxima: ClassVar[bool] = True

    def kept_beside(self, shape: Shape) -> int:
        """The winners' positions, int64."""
        return 8 * math.prod(self.out_shape(shape))

    def forward(
        self, params: Tensors, x: torch.Tensor, mode: Mode
    ) -> tuple[torch.Tensor, tuple[Shape, torch.Tensor]]:
        """Saves the shape of a sample and the winners' positions."""
        y, winners = torch.ops.aten.max_pool2d_with_indices(x, *self._window)
        return y, (tuple(x.shape[1:]), winners)

    def jvp(self, params: Tensors, saved: tuple[Shape, torch.Tensor], dx: torch.Tensor) -> torch.Tensor:
        """The winners' dx."""
        _, winners = saved
        b, c, h, w = winners.shape
        # Positions as the second axis: a gather keeps its index's axes in order, so channels stay last.
        flat = dx.permute(0, 2, 3, 1).reshape(b, -1, c)
        taken = flat.gather(1, winners.permute(0, 2, 3, 1).reshape(b, h * w, c))
        return taken.view(b, h, w, c).permute(0, 3, 1, 2)

    def vjp(
        self,
        params: Tensors,
        saved: tuple[Shape, torch.Tensor],
        dy: torch.Tensor,
        need_dx: bool = True,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Each dy to its winner."""
        if not need_dx:
            return {}, None
        shape, winners = saved
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return {}, backward(dy, empty_images(dy, shape), *self._window, [1, 1], False, winners)


@dataclass(frozen=True)
class AvgPool2d(_Pool):
    """Mean over windows; padding counts as zeros, as in torch."""

    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, Shape]:
        """Saves the shape of a sample."""
        return F.avg_pool2d(x, *self._window), tuple(x.shape[1:])

    def jvp(self, params: Tensors, saved: Shape, dx: torch.Tensor) -> torch.Tensor:
        """The mean of dx."""
        return F.avg_pool2d(dx, *self._window)

    def vjp(
        self, params: Tensors, saved: Shape, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Each dy spread over its window."""
        if not need_dx:
            return {}, None
        backward = torch.ops.aten.avg_pool2d_backward
        return {}, backward(dy, empty_images(dy, saved), *self._window, False, True, None)


@dataclass(frozen=True)
class AdaptiveAvgPool2d(Layer):
    """Mean over `side`×`side` windows that cover any image, as `torch.nn.AdaptiveAvgPool2d`."""

    side: int = 1
    name: str = field(default="pool", kw_only=True)

    @property
    def keeps(self) -> Kept:
        """Shapes only."""
        return "nothing"

    def out_shape(self, shape: Shape) -> Shape:
        """(C, side, side)."""
        _require_image(shape, "an adaptive pool")
        return (shape[0], self.side, self.side)

    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, Shape]:
        """Saves the shape of a sample."""
        shape = tuple(x.shape[1:])
        return self.jvp(params, shape, x), shape

    def jvp(self, params: Tensors, saved: Shape, dx: torch.Tensor) -> torch.Tensor:
        """The mean of dx."""
        # Not F.adaptive_avg_pool2d: for one window it calls as_strided_, which vmap has no rule for.
        pool = private("ops.aten._adaptive_avg_pool2d")
        if pool is None:
            down, across = self._means(dx, saved)
            return down @ dx @ across.mT
        mean: torch.Tensor = pool(dx, [self.side] * 2)
        return mean

    def vjp(
        self, params: Tensors, saved: Shape, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Each dy spread over its window."""
        if not need_dx:
            return {}, None
        spread = private("ops.aten._adaptive_avg_pool2d_backward")
        if spread is None:
            down, across = self._means(dy, saved)
            return {}, channels_last(down.mT @ dy @ across)
        return {}, spread(dy, empty_images(dy, saved))

    def _means(self, like: torch.Tensor, shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
        """What takes the mean of each window's rows (side×H), and of its columns (side×W)."""
        down, across = (_window_means(self.side, length).to(like) for length in shape[1:])
        return down, across


@cache
def _window_means(side: int, length: int) -> torch.Tensor:
    """`side`×`length`: row i has 1/n at the n places from ⌊i·length/side⌋ to before ⌈(i+1)·length/side⌉."""
    place, window = torch.arange(length), torch.arange(side)[:, None]
    inside = (place >= window * length // side) & (place < -(-(window + 1) * length // side))
    return inside / inside.sum(1, keepdim=True)


def _require_image(shape: Shape, what: str) -> None:
    if len(shape) != 3:
        raise UsageError(f"{what} needs images (channels, height, width), not samples of shape {shape}")
