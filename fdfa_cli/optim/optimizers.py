"""Optimizers as options of a recipe, on the kernels that torch's own run on.

An optimizer holds no tensor. What it keeps of a tensor's past gradients, its *moments*, is made by `moments`,
owned by a `Ledger`, and moved in place with the tensor by `move`: so a checkpoint stores it as it stores any
tensor, and the trials of a stack are rows of it. Torch's classes hide the same behind an object, which
costs a tenth of a small network's step and a second of imports. Kernels are fused where torch has such (see
`internals`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from fdfa_cli.internals import private
from fdfa_cli.lazy import adam, rmsprop, sgd, torch
from fdfa_cli.registry import Named, Registry

#: What is kept of a tensor's past gradients, by name; each in the tensor's shape.
Moments = Mapping[str, "torch.Tensor"]

Rate = Annotated[float, Field(ge=0, description="learning rate at the start; the schedule scales it")]
WeightDecay = Annotated[float, Field(ge=0, description="decay of every tensor towards zero")]
Momentum = Annotated[float, Field(ge=0, lt=1, description="share of the last update that is kept")]
Average = Annotated[float, Field(ge=0, lt=1, description="weight of the past in a running average")]
Epsilon = Annotated[float, Field(gt=0, description="added to the denominator")]


class Optimizer(Named):
    """How parameters follow their gradients. `lr` is the rate at the start; the schedule scales it."""

    lr: Rate
    weight_decay: WeightDecay = 0.0

    @property
    def kept(self) -> int:
        """How many moments it keeps of a tensor, each as large; known without torch."""
        return 2

    @abstractmethod
    def moments(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """Those of `tensor` before its first gradient."""

    @abstractmethod
    def move(self, steps: Steps, lr: float) -> None:
        """Take these steps: moves tensors and moments in place."""


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", "fdfa_cli.optim.optimizers")


class Steps(NamedTuple):
    """A step of each of some `tensors`, in parallel lists.

    `grads` are laid out as the tensors, `moments` by their names; a number says which step of its tensor it
    is, from 1.
    """

    tensors: list[torch.Tensor]
    grads: list[torch.Tensor]
    moments: Mapping[str, list[torch.Tensor]]
    numbers: list[int]


@OPTIMIZERS.register
class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD`."""

    name: Literal["sgd"] = "sgd"
    lr: Rate = 0.1
    momentum: Momentum = 0.0
    nesterov: bool = False

    @property
    def kept(self) -> int:
        """One with momentum."""
        return 1 if self.momentum else 0

    def moments(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """The velocity."""
        return {"velocity": torch.zeros_like(tensor)} if self.momentum else {}

    def move(self, steps: Steps, lr: float) -> None:
        """See `Optimizer.move`."""
        velocity = steps.moments.get("velocity", [])
        given: dict[str, Any] = {
            "lr": lr,
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "weight_decay": self.weight_decay,
            "dampening": 0.0,
            "maximize": False,
        }
        fused = private("_fused_sgd_")
        if fused is None:
            sgd.sgd(steps.tensors, steps.grads, [*velocity] or [None] * len(steps.tensors), **given)
        else:
            # The first velocity is the gradient, and so is 0 · momentum + gradient.
            fused(steps.tensors, steps.grads, velocity, **given, is_first_step=False)


class _Adaptive(Optimizer):
    """Adam and its kin: running averages of the gradient and of its square."""

    betas: tuple[Average, Average] = (0.9, 0.999)
    eps: Epsilon = 1e-8

    def moments(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """Both averages."""
        return {"mean": torch.zeros_like(tensor), "square": torch.zeros_like(tensor)}

    def _move(self, kernel: str, steps: Steps, lr: float, decoupled: bool) -> None:
        """By torch's private `kernel`, where it has that."""
        given: dict[str, Any] = {
            "lr": lr,
            "beta1": self.betas[0],
            "beta2": self.betas[1],
            "eps": self.eps,
            "weight_decay": self.weight_decay,
            "amsgrad": False,
            "maximize": False,
        }
        tensors = steps.tensors, steps.grads, steps.moments["mean"], steps.moments["square"]
        fused = private(kernel)
        if fused is None:
            before = [torch.full((), number - 1.0) for number in steps.numbers]
            adam.adam(*tensors, [], before, decoupled_weight_decay=decoupled, **given)
            return
        # The kernels read the number from a tensor on the device; those that step together share one.
        numbers = {
            number: torch.full((), number, dtype=torch.float32, device=steps.tensors[0].device)
            for number in set(steps.numbers)
        }
        fused(*tensors, [], [numbers[number] for number in steps.numbers], **given)


@OPTIMIZERS.register
class Adam(_Adaptive):
    """Adam (Kingma & Ba 2015), as `torch.optim.Adam`; `weight_decay` is added to the gradient."""

    name: Literal["adam"] = "adam"
    lr: Rate = 1e-3

    def move(self, steps: Steps, lr: float) -> None:
        """See `Optimizer.move`."""
        self._move("_fused_adam_", steps, lr, decoupled=False)


@OPTIMIZERS.register
class AdamW(_Adaptive):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as `torch.optim.AdamW`."""

    name: Literal["adamw"] = "adamw"
    lr: Rate = 1e-3
    weight_decay: WeightDecay = 1e-2

    def move(self, steps: Steps, lr: float) -> None:
        """See `Optimizer.move`."""
        self._move("_fused_adamw_", steps, lr, decoupled=True)


@OPTIMIZERS.register
class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012), as `torch.optim.RMSprop`."""

    name: Literal["rmsprop"] = "rmsprop"
    lr: Rate = 1e-3
    alpha: Average = 0.99
    momentum: Momentum = 0.0
    eps: Epsilon = 1e-8

    @property
    def kept(self) -> int:
        """One, and with momentum another."""
        return 2 if self.momentum else 1

    def moments(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """The average of the squared gradient, and with momentum the velocity."""
        kept = {"square": torch.zeros_like(tensor)}
        return kept | ({"velocity": torch.zeros_like(tensor)} if self.momentum else {})

    def move(self, steps: Steps, lr: float) -> None:
        """See `Optimizer.move`."""
        rmsprop.rmsprop(
            steps.tensors,
            steps.grads,
            steps.moments["square"],
            [],
            steps.moments.get("velocity", []),
            [torch.full((), number - 1.0) for number in steps.numbers],
            lr=lr,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            centered=False,
        )
