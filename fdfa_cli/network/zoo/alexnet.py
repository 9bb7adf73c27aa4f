"""AlexNet with batch norm: five convolutional blocks and two fully connected ones.

    conv 64, pool · conv 192 5×5, pool · conv 384 · conv 256 · conv 256, pool · 4096 · 4096

with 3×3 kernels where none is named, 3×3 pools of stride 2, and norm and activation after every layer:
the one-tower variant (Krizhevsky, arXiv 1404.5997) that torchvision has without norm. Only the first
convolution depends on the size of the images.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.network.base import NETWORKS, Network
from fdfa_cli.network.layers import Conv2d, Layer, MaxPool2d
from fdfa_cli.network.zoo.parts import (
    ActivationName,
    Dropped,
    ImageNetwork,
    NormName,
    fully_connected,
    hidden_block,
    shape_after,
)
from fdfa_cli.streams import Shape

#: First convolutions by name: kernel, stride, padding.
STEMS = {"11x11": (11, 4, 2), "5x5": (5, 2, 2), "3x3": (3, 1, 1)}


@NETWORKS.register
class AlexNet(ImageNetwork):
    """AlexNet with batch norm, for 224-pixel images or smaller ones."""

    name: Literal["alexnet"] = "alexnet"
    stem: Annotated[
        Literal["auto", "11x11", "5x5", "3x3"],
        Field(
            description="first convolution: 11×11 of stride 4, 5×5 of stride 2 or 3×3 of stride 1; "
            "auto takes the first from 128 pixels on, the second from 48, the third below"
        ),
    ] = "auto"
    width: Annotated[float, Field(gt=0, description="factor on the units of every hidden layer")] = 1.0
    norm: NormName = "batch"
    activation: ActivationName = "relu"
    dropout: Dropped = 0.0

    @override
    def layout(self, shape: Shape, classes: int) -> Network:
        blocks: list[list[Layer]] = []
        inputs = shape[0]
        for units, (kernel, stride, padding), pooled in (
            (64, STEMS[self._stem(shape)], True),
            (192, (5, 1, 2), True),
            (384, (3, 1, 1), False),
            (256, (3, 1, 1), False),
            (256, (3, 1, 1), True),
        ):
            outputs = self._wide(units)
            conv = Conv2d(inputs, outputs, kernel, stride, padding)
            pool = [MaxPool2d(3, 2)] if pooled else []
            blocks.append(hidden_block(conv, outputs, self.norm, self.activation, *pool))
            inputs = outputs
        hidden = [self._wide(4096)] * 2
        *dense, output = fully_connected(
            shape_after(blocks, shape), hidden, classes, self.norm, self.activation, self.dropout
        )
        return Network.of(shape, classes, [*blocks, *dense], output)

    def _stem(self, shape: Shape) -> str:
        if self.stem != "auto":
            return self.stem
        side = min(shape[1:])
        return "11x11" if side >= 128 else "5x5" if side >= 48 else "3x3"

    def _wide(self, units: int) -> int:
        return max(1, round(units * self.width))
