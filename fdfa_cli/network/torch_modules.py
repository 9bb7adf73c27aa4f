"""Modules of torch that stand for layers which torch has no module for. Imports torch."""

from __future__ import annotations

from torch import Tensor, nn  # noqa: TID251 - only imported where a model is asked for


class Sum(nn.Module):
    """body(x) + shortcut(x), as `fdfa_cli.network.layers.Residual`."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The sum of what both make of x (B, …)."""
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


class Normalised(nn.Module):
    """`network` on x·scale + shift, channel by channel: on images as they are before normalisation."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B×C) of images x (B×C×H×W) with values in [0, 1]."""
        y: Tensor = self.network(x * self.scale + self.shift)
        return y
