"""Layers that change the shape of a sample and no value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from typing_extensions import override

from fdfa_cli.lazy import torch
from fdfa_cli.network.kernels.layout import channels_last
from fdfa_cli.network.layers.base import Kept, Layer, Mode, Tensors
from fdfa_cli.streams import Shape


@dataclass(frozen=True)
class Flatten(Layer):
    """A sample as a vector of its units, in the order C, H, W whatever the layout in memory."""

    name: str = field(default="flatten", kw_only=True)

    @property
    @override
    def keeps(self) -> Kept:
        return "nothing"

    @override
    def out_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, Shape]:
        """y (B×N); saves the shape of a sample."""
        return x.flatten(1), tuple(x.shape[1:])

    @override
    def jvp(self, params: Tensors, saved: Shape, dx: torch.Tensor) -> torch.Tensor:
        """dy is dx as vectors (B×N)."""
        return dx.flatten(1)

    @override
    def vjp(
        self, params: Tensors, saved: Shape, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """dx is dy in the shape of the samples."""
        return {}, channels_last(dy.view(-1, *saved)) if need_dx else None
