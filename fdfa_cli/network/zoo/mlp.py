"""Multi-layer perceptron: n × [linear, norm, activation, dropout], then a linear output layer."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from fdfa_cli.network.base import Network, NetworkOptions
from fdfa_cli.network.layers import Activation, BatchNorm, Dropout, Flatten, Layer, LayerNorm, Linear
from fdfa_cli.registry import NETWORKS
from fdfa_cli.streams import Shape

ActivationName = Literal["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "softplus", "identity"]
NormName = Literal["batch", "layer", "none"]
Dropped = Annotated[float, Field(ge=0, lt=1, description="probability that a hidden unit is dropped")]


@NETWORKS.register
class MLP(NetworkOptions):
    """Multi-layer perceptron of any hidden sizes."""

    name: Literal["mlp"] = "mlp"
    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(description="units of each hidden block")
    ] = (128, 128)
    activation: ActivationName = "relu"
    norm: NormName = "batch"
    dropout: Dropped = 0.0

    def build(self, shape: Shape, classes: int) -> Network:
        """See `NetworkOptions.build`."""
        blocks: list[list[Layer]] = []
        inputs = math.prod(shape)
        flatten: list[Layer] = [Flatten()] if len(shape) > 1 else []
        for units in self.hidden:
            block: list[Layer] = [Linear(inputs, units)]
            if self.norm != "none":
                block.append(BatchNorm(units) if self.norm == "batch" else LayerNorm(units))
            block.append(Activation(self.activation))
            if self.dropout:
                block.append(Dropout(self.dropout))
            blocks.append(block)
            inputs = units
        first = blocks[0] if blocks else []
        first[:0] = flatten
        return Network.of(shape, classes, blocks, [*([] if blocks else flatten), Linear(inputs, classes)])
