"""Multi-layer perceptron: n × [linear, norm, activation, dropout], then a linear output layer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.network.base import NETWORKS, Network, NetworkOptions
from fdfa_cli.network.zoo.parts import ActivationName, Dropped, NormName, Units, fully_connected
from fdfa_cli.streams import Shape


@NETWORKS.register
class MLP(NetworkOptions):
    """Multi-layer perceptron of any hidden sizes."""

    name: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Units, ...], Field(description="units of each hidden block")] = (128, 128)
    norm: NormName = "batch"
    activation: ActivationName = "relu"
    dropout: Dropped = 0.0

    @override
    def build(self, shape: Shape, classes: int) -> Network:
        *blocks, output = fully_connected(
            shape, self.hidden, classes, self.norm, self.activation, self.dropout
        )
        return Network.of(shape, classes, blocks, output)
