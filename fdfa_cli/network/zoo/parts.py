"""What the architectures share: names of options, the layers of a block, images that do not fit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.errors import UsageError
from fdfa_cli.network.base import Network, NetworkOptions
from fdfa_cli.network.layers import Activation, BatchNorm, Chain, Dropout, Flatten, Layer, LayerNorm, Linear
from fdfa_cli.streams import Shape

Units = Annotated[int, Field(ge=1)]
ActivationName = Annotated[
    Literal["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "softplus", "identity"],
    Field(description="after every hidden layer"),
]
NormName = Annotated[
    Literal["batch", "layer", "none"], Field(description="between a hidden layer and its activation")
]
Dropped = Annotated[
    float, Field(ge=0, lt=1, description="probability that a fully connected unit is dropped")
]


def hidden_block(
    layer: Layer, units: int, norm: NormName, activation: ActivationName, *after: Layer
) -> list[Layer]:
    """`layer`, a norm of its `units` (or channels), an activation, and what comes after."""
    norms: dict[str, list[Layer]] = {"batch": [BatchNorm(units)], "layer": [LayerNorm(units)], "none": []}
    return [layer, *norms[norm], Activation(activation), *after]


def fully_connected(
    shape: Shape,
    hidden: Sequence[int],
    classes: int,
    norm: NormName,
    activation: ActivationName,
    dropout: float,
) -> list[list[Layer]]:
    """Blocks of `hidden` units for samples of `shape`, and, last, the linear output layer."""
    (inputs,) = Flatten().out_shape(shape)
    layers = []
    for units in hidden:
        after = [Dropout(dropout)] if dropout else []
        layers.append(hidden_block(Linear(inputs, units), units, norm, activation, *after))
        inputs = units
    layers.append([Linear(inputs, classes)])
    if len(shape) > 1:
        layers[0].insert(0, Flatten())
    return layers


def shape_after(blocks: Sequence[Sequence[Layer]], shape: Shape) -> Shape:
    """Shape of what these blocks make of a sample of `shape`."""
    for block in blocks:
        shape = Chain(tuple(block)).out_shape(shape)
    return shape


class ImageNetwork(NetworkOptions):
    """An architecture for images (C, H, W)."""

    @override
    def build(self, shape: Shape, classes: int) -> Network:
        """The network for images of `shape`.

        Raises `UsageError` where samples are no images, or images too small; it then says which would fit.
        """
        if len(shape) != 3:
            raise UsageError(
                f"network {self.name!r} needs images (channels, height, width), not samples of shape "
                f"{shape}; network 'mlp' takes any"
            )
        try:
            return self.layout(shape, classes)
        except UsageError as error:
            raise UsageError(f"network {self.name!r}: {error}{self._would_fit(shape[0], classes)}") from error

    @abstractmethod
    def layout(self, shape: Shape, classes: int) -> Network:
        """The network for images of `shape`; raises `UsageError` where a layer does not fit."""

    def _would_fit(self, channels: int, classes: int) -> str:
        """The end of an error message: the smallest square image that fits, where one of 512 pixels does."""
        for side in range(1, 513):
            try:
                self.layout((channels, side, side), classes)
            except UsageError:
                continue
            return f"; the smallest image that fits these options is {side}×{side}"
        return ""
