"""ResNet for small images: a stem, three stages of n residual units, an average over positions.

A unit is ReLU(body(x) + shortcut(x)) with body = conv 3×3, BN, ReLU, conv 3×3, BN. The second and third
stage begin at stride 2 with twice the channels; there the shortcut is a 1×1 convolution with BN (option B
of the paper, whose own networks pad with zeros), elsewhere the identity. 6n + 2 layers deep.
Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from typing_extensions import override

from fdfa_cli.network.base import NETWORKS, Network
from fdfa_cli.network.layers import (
    Activation,
    AdaptiveAvgPool2d,
    BatchNorm,
    Chain,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    Residual,
)
from fdfa_cli.network.zoo.parts import ImageNetwork, Units
from fdfa_cli.streams import Shape


def _six_n_plus_two(depth: int) -> int:
    if depth % 6 != 2:
        below = depth - (depth - 2) % 6
        near = [value for value in (below, below + 6) if value >= 8]
        raise ValueError(f"depth must be 6n + 2, such as {' or '.join(map(str, near))}")
    return depth


@NETWORKS.register
class ResNet(ImageNetwork):
    """Residual network for small images, of depth 20, 32, 56 or any 6n + 2."""

    name: Literal["resnet"] = "resnet"
    depth: Annotated[
        int,
        Field(ge=8, le=2000, description="layers, 6n + 2 for n units a stage"),
        AfterValidator(_six_n_plus_two),
    ] = 20
    width: Annotated[Units, Field(description="channels of the stem and the first stage")] = 16

    @override
    def layout(self, shape: Shape, classes: int) -> Network:
        channels = self.width
        blocks: list[list[Layer]] = [[*_convolved(shape[0], channels, 1), Activation()]]
        for stage in range(3):
            for unit in range((self.depth - 2) // 6):
                shrinks = stage > 0 and unit == 0
                blocks.append(_unit(channels, channels * 2 if shrinks else channels))
                channels = channels * 2 if shrinks else channels
        return Network.of(shape, classes, blocks, [AdaptiveAvgPool2d(), Flatten(), Linear(channels, classes)])


def _unit(inputs: int, outputs: int) -> list[Layer]:
    """One residual unit; at stride 2 where it changes the number of channels."""
    stride = 1 if outputs == inputs else 2
    body = Chain((*_convolved(inputs, outputs, stride), Activation(), *_convolved(outputs, outputs, 1)))
    shortcut = Chain(() if stride == 1 else _convolved(inputs, outputs, stride, kernel=1))
    return [Residual(body, shortcut), Activation()]


def _convolved(inputs: int, outputs: int, stride: int, kernel: int = 3) -> tuple[Layer, Layer]:
    """A convolution that keeps the image's size at stride 1, and its norm in the place of a bias."""
    conv = Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return conv, BatchNorm(outputs)
