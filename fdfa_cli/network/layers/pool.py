"""Pooling: maximum and mean over windows of positions.

A maximum's derivative picks the winners' entries, an average is linear. Neither needs the input, only its
shape; so what is saved is that, and the input may be freed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from typing_extensions import override

from fdfa_cli.errors import UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.network.kernels import kernels
from fdfa_cli.network.layers.base import Kept, Layer, Mode, Tensors
from fdfa_cli.network.layers.conv import window_positions
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
    @override
    def keeps(self) -> Kept:
        return "nothing"

    @property
    def step(self) -> int:
        """How many positions lie between two windows."""
        return self.stride or self.kernel

    @override
    def out_shape(self, shape: Shape) -> Shape:
        """(C, H', W') with H' = ⌊(H + 2·padding − k)/stride⌋ + 1."""
        _require_image(shape, "a pool")
        return (shape[0], *window_positions(shape, self.kernel, self.step, self.padding, "pool"))

    @property
    def _window(self) -> tuple[int, int, int]:
        return self.kernel, self.step, self.padding


@dataclass(frozen=True)
class MaxPool2d(_Pool):
    """Maximum over windows; the first in row order wins a tie, as in torch."""

    picks_maxima: ClassVar[bool] = True

    @override
    def kept_beside(self, shape: Shape) -> int:
        """The bytes of the winners' positions, int64."""
        return 8 * math.prod(self.out_shape(shape))

    @override
    def forward(
        self, params: Tensors, x: torch.Tensor, mode: Mode
    ) -> tuple[torch.Tensor, tuple[Shape, torch.Tensor]]:
        """The maxima; saves the shape of a sample and the winners' positions."""
        y, winners = kernels().max_pool2d(x, *self._window)
        return y, (tuple(x.shape[1:]), winners)

    @override
    def jvp(self, params: Tensors, saved: tuple[Shape, torch.Tensor], dx: torch.Tensor) -> torch.Tensor:
        """dy is dx at the winners."""
        return kernels().max_pool2d_jvp(dx, saved[1])

    @override
    def vjp(
        self,
        params: Tensors,
        saved: tuple[Shape, torch.Tensor],
        dy: torch.Tensor,
        need_dx: bool = True,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """dx has each entry of dy at its winner, and zeros elsewhere."""
        shape, winners = saved
        return {}, kernels().max_pool2d_vjp(dy, winners, shape, *self._window) if need_dx else None


@dataclass(frozen=True)
class AvgPool2d(_Pool):
    """Mean over windows; padding counts as zeros, as in torch."""

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, Shape]:
        """The means; saves the shape of a sample."""
        return kernels().avg_pool2d(x, *self._window), tuple(x.shape[1:])

    @override
    def jvp(self, params: Tensors, saved: Shape, dx: torch.Tensor) -> torch.Tensor:
        """dy is the mean of dx."""
        return kernels().avg_pool2d(dx, *self._window)

    @override
    def vjp(
        self, params: Tensors, saved: Shape, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """dx has each entry of dy spread over its window."""
        return {}, kernels().avg_pool2d_vjp(dy, saved, *self._window) if need_dx else None


@dataclass(frozen=True)
class AdaptiveAvgPool2d(Layer):
    """Mean over `side`×`side` windows that cover any image, as `torch.nn.AdaptiveAvgPool2d`."""

    side: int = 1
    name: str = field(default="pool", kw_only=True)

    @property
    @override
    def keeps(self) -> Kept:
        return "nothing"

    @override
    def out_shape(self, shape: Shape) -> Shape:
        _require_image(shape, "an adaptive pool")
        return (shape[0], self.side, self.side)

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, Shape]:
        """The means; saves the shape of a sample."""
        return kernels().adaptive_avg_pool2d(x, self.side), tuple(x.shape[1:])

    @override
    def jvp(self, params: Tensors, saved: Shape, dx: torch.Tensor) -> torch.Tensor:
        """dy is the mean of dx."""
        return kernels().adaptive_avg_pool2d(dx, self.side)

    @override
    def vjp(
        self, params: Tensors, saved: Shape, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """dx has each entry of dy spread over its window."""
        return {}, kernels().adaptive_avg_pool2d_vjp(dy, self.side, saved) if need_dx else None


def _require_image(shape: Shape, what: str) -> None:
    if len(shape) != 3:
        raise UsageError(f"{what} needs images (channels, height, width), not samples of shape {shape}")
