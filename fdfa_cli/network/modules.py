"""A network in torch's own modules, whose parameters have the same names.

For what torch and the tools around it do with a model: autograd, `torch.save`, export to ONNX. To train by a
rule takes the layers themselves. A layer of one's own says what it is there by registering a function::

    @as_module.register(MyLayer)
    def _(layer, shape):
        return torch.nn.Something(layer.units)
"""

from __future__ import annotations

from copy import deepcopy
from functools import singledispatch

from fdfa_cli.errors import Unsupported
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import (
    Activation,
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm,
    Chain,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LayerNorm,
    Linear,
    MaxPool2d,
    ModuleLayer,
    Residual,
    Tensors,
)
from fdfa_cli.network.layers.activation import LEAK
from fdfa_cli.streams import Shape


def network_module(network: Network, params: Tensors, buffers: Tensors) -> torch.nn.Module:
    """The network in evaluation mode, with copies of these tensors: logits (B×C) of x (B, *shape).

    Raises `Unsupported` where a layer has no module.
    """
    whole, shape = torch.nn.Sequential(), network.shape
    for chain in (*network.blocks, network.output):
        whole.add_module(chain.name, as_module(chain, shape))
        shape = chain.out_shape(shape)
    whole.load_state_dict({**whole.state_dict(), **params, **buffers})
    return whole.eval()


@singledispatch
def as_module(layer: Layer, shape: Shape) -> torch.nn.Module:
    """The torch module of the same kind and sizes as `layer`, which takes samples of `shape`."""
    raise Unsupported(
        f"layer {type(layer).__name__} has no torch module: say which it is by "
        "fdfa_cli.network.modules.as_module.register"
    )


@as_module.register(Chain)
def _(layer: Chain, shape: Shape) -> torch.nn.Module:
    chain = torch.nn.Sequential()
    for inner in layer.layers:
        chain.add_module(inner.name.rpartition(".")[2], as_module(inner, shape))
        shape = inner.out_shape(shape)
    return chain


@as_module.register(Residual)
def _(layer: Residual, shape: Shape) -> torch.nn.Module:
    from fdfa_cli.network.torch_modules import Sum

    return Sum(as_module(layer.body, shape), as_module(layer.shortcut, shape))


@as_module.register(Linear)
def _(layer: Linear, shape: Shape) -> torch.nn.Module:
    return torch.nn.Linear(layer.inputs, layer.outputs, layer.bias)


@as_module.register(Conv2d)
def _(layer: Conv2d, shape: Shape) -> torch.nn.Module:
    sizes = (layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding)
    return torch.nn.Conv2d(*sizes, groups=layer.groups, bias=layer.bias)


@as_module.register(BatchNorm)
def _(layer: BatchNorm, shape: Shape) -> torch.nn.Module:
    kind = torch.nn.BatchNorm1d if len(shape) == 1 else torch.nn.BatchNorm2d
    return kind(layer.channels, layer.eps, layer.momentum)


@as_module.register(LayerNorm)
def _(layer: LayerNorm, shape: Shape) -> torch.nn.Module:
    if len(shape) == 1:
        return torch.nn.LayerNorm(layer.channels, layer.eps)
    return torch.nn.GroupNorm(1, layer.channels, layer.eps)


@as_module.register(Activation)
def _(layer: Activation, shape: Shape) -> torch.nn.Module:
    nn = torch.nn
    modules = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}
    modules |= {"softplus": nn.Softplus, "identity": nn.Identity}
    return nn.LeakyReLU(LEAK) if layer.function == "leaky_relu" else modules[layer.function]()


@as_module.register(MaxPool2d)
def _(layer: MaxPool2d, shape: Shape) -> torch.nn.Module:
    return torch.nn.MaxPool2d(layer.kernel, layer.stride, layer.padding)


@as_module.register(AvgPool2d)
def _(layer: AvgPool2d, shape: Shape) -> torch.nn.Module:
    return torch.nn.AvgPool2d(layer.kernel, layer.stride, layer.padding)


@as_module.register(AdaptiveAvgPool2d)
def _(layer: AdaptiveAvgPool2d, shape: Shape) -> torch.nn.Module:
    return torch.nn.AdaptiveAvgPool2d(layer.side)


@as_module.register(Dropout)
def _(layer: Dropout, shape: Shape) -> torch.nn.Module:
    return torch.nn.Dropout(layer.p)


@as_module.register(Flatten)
def _(layer: Flatten, shape: Shape) -> torch.nn.Module:
    return torch.nn.Flatten()


@as_module.register(ModuleLayer)
def _(layer: ModuleLayer, shape: Shape) -> torch.nn.Module:
    return deepcopy(layer.module)
