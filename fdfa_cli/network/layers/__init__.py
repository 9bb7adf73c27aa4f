"""Layers, one file a kind. Each is checked against torch's autograd by tests/test_layers.py."""

from fdfa_cli.network.layers.activation import ELEMENTWISE, Activation
from fdfa_cli.network.layers.base import Chain, Layer, Mode, Tensors
from fdfa_cli.network.layers.linear import Linear
from fdfa_cli.network.layers.norm import BatchNorm

__all__ = ["ELEMENTWISE", "Activation", "BatchNorm", "Chain", "Layer", "Linear", "Mode", "Tensors"]
