"""The benchmark's networks as a user would write them in plain PyTorch: the yardstick."""

from __future__ import annotations

from fdfa_cli.__main__ import set_thread_waiting  # isort: skip

set_thread_waiting()  # before torch is loaded, which reads it then; the same for both sides

import torch  # noqa: E402
from torch import nn  # noqa: E402


def mlp() -> nn.Module:
    """784-800-800-10."""
    return nn.Sequential(nn.Flatten(), *dense(784, 800), *dense(800, 800), nn.Linear(800, 10))


def cnn(channels: int, side: int) -> nn.Module:
    """Conv 15 5×5, conv 40 5×5, pool 2, 128."""
    positions = ((side - 8) // 2) ** 2
    return nn.Sequential(
        *conv(channels, 15, 5),
        *conv(15, 40, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *dense(40 * positions, 128),
        nn.Linear(128, 10),
    )


def alexnet() -> nn.Module:
    """AlexNet with batch norm, for 32-pixel images."""
    return nn.Sequential(
        *conv(3, 64, 3, 1),
        nn.MaxPool2d(3, 2),
        *conv(64, 192, 5, 2),
        nn.MaxPool2d(3, 2),
        *conv(192, 384, 3, 1),
        *conv(384, 256, 3, 1),
        *conv(256, 256, 3, 1),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        *dense(256 * 9, 4096),
        *dense(4096, 4096),
        nn.Linear(4096, 10),
    )


def resnet20() -> nn.Module:
    """The CIFAR residual network of 20 layers."""
    units = [(16, 16)] * 3 + [(16, 32), *[(32, 32)] * 2] + [(32, 64), *[(64, 64)] * 2]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        *(Unit(inputs, outputs) for inputs, outputs in units),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def dense(inputs: int, units: int) -> list[nn.Module]:
    """A hidden layer."""
    return [nn.Linear(inputs, units), nn.BatchNorm1d(units), nn.ReLU()]


def conv(inputs: int, channels: int, kernel: int, padding: int = 0) -> list[nn.Module]:
    """A convolutional layer."""
    return [nn.Conv2d(inputs, channels, kernel, padding=padding), nn.BatchNorm2d(channels), nn.ReLU()]


class Unit(nn.Module):
    """A residual unit; at stride 2 where it changes the number of channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Body and shortcut, added and rectified."""
        return torch.relu(self.body(x) + self.shortcut(x))
