"""Dropout (Srivastava et al. 2014): in training, units are zeroed at random.

    y = x ∘ m/(1 − p),   m ~ Bernoulli(1 − p) independent per sample and unit

Linear in x, and the mask is an argument, so primal, tangent and cotangent share it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from typing_extensions import override

from fdfa_cli.errors import UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.network.layers.base import Kept, Layer, Mode, Tensors
from fdfa_cli.streams import Draw, Shape


@dataclass(frozen=True)
class Dropout(Layer):
    """Zeroes each unit with probability `p` in training, as `torch.nn.Dropout`; identity in evaluation."""

    p: float = 0.5
    name: str = field(default="dropout", kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise UsageError(f"dropout's probability is in [0, 1), not {self.p}")

    @property
    @override
    def keeps(self) -> Kept:
        return "nothing"

    @override
    def kept_beside(self, shape: Shape) -> int:
        """The bytes of m/(1 − p), which is in float32 at the most."""
        return 4 * math.prod(shape)

    @override
    def out_shape(self, shape: Shape) -> Shape:
        return shape

    @override
    def noise(self, shape: Shape) -> dict[str, Draw]:
        """`mask` m, of the batch's shape."""
        return {self.key("mask"): Draw(shape, "bernoulli", 1 - self.p, layout="batch")}

    @override
    def forward(
        self, params: Tensors, x: torch.Tensor, mode: Mode
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """y = x ∘ m/(1 − p) in training, which saves m/(1 − p); y = x in evaluation, which saves None."""
        if not mode.training:
            return x, None
        scaled = mode.noise[self.key("mask")].to(x.dtype) / (1 - self.p)
        return x * scaled, scaled

    @override
    def jvp(self, params: Tensors, saved: torch.Tensor | None, dx: torch.Tensor) -> torch.Tensor:
        """dy = dx ∘ m/(1 − p)."""
        return dx if saved is None else dx * saved

    @override
    def vjp(
        self, params: Tensors, saved: torch.Tensor | None, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """dx = dy ∘ m/(1 − p)."""
        return {}, self.jvp(params, saved, dy) if need_dx else None
