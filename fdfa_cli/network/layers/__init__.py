"""Layers, one file a kind. Each is checked against torch's autograd by tests/test_layers.py."""

from fdfa_cli.network.layers.activation import ELEMENTWISE, Activation
from fdfa_cli.network.layers.base import Chain, Layer, Mode, Tensors
from fdfa_cli.network.layers.conv import Conv2d
from fdfa_cli.network.layers.dropout import Dropout
from fdfa_cli.network.layers.linear import Linear
from fdfa_cli.network.layers.module import ModuleLayer
from fdfa_cli.network.layers.norm import BatchNorm, LayerNorm
from fdfa_cli.network.layers.pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from fdfa_cli.network.layers.residual import Residual
from fdfa_cli.network.layers.shape import Flatten

__all__ = [
    "ELEMENTWISE",
    "Activation",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm",
    "Chain",
    "Conv2d",
    "Dropout",
    "Flatten",
    "Layer",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "Mode",
    "ModuleLayer",
    "Residual",
    "Tensors",
]
