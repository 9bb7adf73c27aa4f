"""Small convolutional network: n × [conv, norm, activation, pool], m × [linear, norm, activation, dropout].

The defaults are the network of the FDFA authors' code: convolutions of 15 and 40 channels with 5×5 kernels
and no padding, a 2×2 pool after the second, 128 units, a linear output layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from fdfa_cli.network.base import NETWORKS, Network
from fdfa_cli.network.layers import Conv2d, Layer, MaxPool2d
from fdfa_cli.network.zoo.parts import (
    ActivationName,
    Dropped,
    ImageNetwork,
    NormName,
    Units,
    fully_connected,
    hidden_block,
    shape_after,
)
from fdfa_cli.streams import Shape


@NETWORKS.register
class CNN(ImageNetwork):
    """Small convolutional network, by default the one of the FDFA authors."""

    name: Literal["cnn"] = "cnn"
    channels: Annotated[
        tuple[Units, ...], Field(min_length=1, description="channels of each convolutional block")
    ] = (15, 40)
    kernels: Annotated[
        tuple[Units, ...],
        Field(min_length=1, description="side of each convolution's kernel; the last one repeats"),
    ] = (5,)
    padding: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...],
        Field(min_length=1, description="zeros around each convolution's input; the last one repeats"),
    ] = (0,)
    pools: Annotated[
        tuple[Units, ...] | None,
        Field(
            min_length=1,
            description="side of the max pool after each convolution, 1 for none; the last one repeats; "
            "when absent, 2 after the last convolution only",
        ),
    ] = None
    hidden: Annotated[tuple[Units, ...], Field(description="units of each fully connected block")] = (128,)
    norm: NormName = "batch"
    activation: ActivationName = "relu"
    dropout: Dropped = 0.0

    @model_validator(mode="after")
    def _one_for_each_convolution(self) -> Self:
        for option in ("kernels", "padding", "pools"):
            given = len(getattr(self, option) or ())
            if given > len(self.channels):
                raise ValueError(f"{option}: has {given} entries for the {len(self.channels)} of channels")
        return self

    @override
    def layout(self, shape: Shape, classes: int) -> Network:
        blocks: list[list[Layer]] = []
        inputs, count = shape[0], len(self.channels)
        for outputs, kernel, padding, side in zip(
            self.channels,
            _repeated(self.kernels, count),
            _repeated(self.padding, count),
            _repeated(self.pools, count) if self.pools else [1] * (count - 1) + [2],
            strict=True,
        ):
            conv = Conv2d(inputs, outputs, kernel, padding=padding)
            pool = [MaxPool2d(side)] if side > 1 else []
            blocks.append(hidden_block(conv, outputs, self.norm, self.activation, *pool))
            inputs = outputs
        *dense, output = fully_connected(
            shape_after(blocks, shape), self.hidden, classes, self.norm, self.activation, self.dropout
        )
        return Network.of(shape, classes, [*blocks, *dense], output)


def _repeated(values: Sequence[int], count: int) -> list[int]:
    """`count` values, the last one as often as it takes."""
    return [values[min(i, len(values) - 1)] for i in range(count)]
