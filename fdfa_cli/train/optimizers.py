"""Optimizers: torch's own, as options of a recipe.

`build` takes named leaf tensors and returns the `torch.optim.Optimizer`; gradients are handed over in
``.grad`` by the loop. The fused implementation is used where the device has one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from fdfa_cli.lazy import torch
from fdfa_cli.registry import OPTIMIZERS, Named

Rate = Annotated[float, Field(ge=0, description="learning rate at the start; the schedule scales it")]
WeightDecay = Annotated[float, Field(ge=0, description="decay of every tensor towards zero")]
Momentum = Annotated[float, Field(ge=0, lt=1, description="share of the last update that is kept")]
Average = Annotated[float, Field(ge=0, lt=1, description="weight of the past in a running average")]
Epsilon = Annotated[float, Field(gt=0, description="added to the denominator")]


class Optimizer(Named):
    """How parameters follow their gradients. `lr` is the rate at the start; the schedule scales it."""

    lr: Rate
    weight_decay: WeightDecay = 0.0

    @abstractmethod
    def build(self, tensors: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
        """The torch optimizer over `tensors` (leaves, all on one device)."""


@OPTIMIZERS.register
class SGD(Optimizer):
    """Stochastic gradient descent with momentum, `torch.optim.SGD`."""

    name: Literal["sgd"] = "sgd"
    lr: Rate = 0.1
    momentum: Momentum = 0.0
    nesterov: bool = False

    def build(self, tensors: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        return torch.optim.SGD(
            tensors,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True,
        )


@OPTIMIZERS.register
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), `torch.optim.Adam`; `weight_decay` is added to the gradient."""

    name: Literal["adam"] = "adam"
    lr: Rate = 1e-3
    betas: tuple[Average, Average] = (0.9, 0.999)
    eps: Epsilon = 1e-8

    def build(self, tensors: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        return torch.optim.Adam(
            tensors, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )


@OPTIMIZERS.register
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), `torch.optim.AdamW`."""

    name: Literal["adamw"] = "adamw"
    lr: Rate = 1e-3
    weight_decay: WeightDecay = 1e-2
    betas: tuple[Average, Average] = (0.9, 0.999)
    eps: Epsilon = 1e-8

    def build(self, tensors: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        return torch.optim.AdamW(
            tensors, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )


@OPTIMIZERS.register
class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012), `torch.optim.RMSprop`."""

    name: Literal["rmsprop"] = "rmsprop"
    lr: Rate = 1e-3
    alpha: Average = 0.99
    momentum: Momentum = 0.0
    eps: Epsilon = 1e-8

    def build(self, tensors: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        return torch.optim.RMSprop(
            tensors,
            lr=self.lr,
            alpha=self.alpha,
            momentum=self.momentum,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )
