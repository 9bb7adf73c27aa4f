"""Optimizers as options of a recipe, on the kernels that torch's own run on.

An optimizer is frozen options and holds no tensor. What it remembers of a tensor's past gradients lies in
*slots* (Adam's two averages, the velocity of momentum), each in the tensor's shape. `init_slots` makes them,
an `OptimizerState` owns them, and `step` changes tensor and slots in place. So a checkpoint stores slots as
it stores any tensor, and the slots of stacked trials are rows of one tensor. Torch's optimizer classes hide
all this behind an object, which costs a tenth of a small network's step and a second of imports. Fused
kernels are used where torch has them (see `internals`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field
from typing_extensions import override

from fdfa_cli.internals import private
from fdfa_cli.lazy import adam, rmsprop, sgd, torch
from fdfa_cli.registry import Named, Registry

#: What an optimizer remembers of one tensor, by name; each slot in the tensor's shape and type.
Slots = Mapping[str, "torch.Tensor"]

Rate = Annotated[float, Field(ge=0, description="learning rate at the start; the schedule scales it")]
WeightDecay = Annotated[float, Field(ge=0, description="decay of every tensor towards zero")]
Momentum = Annotated[float, Field(ge=0, lt=1, description="share of the last update that is kept")]
Average = Annotated[float, Field(ge=0, lt=1, description="weight of the past in a running average")]
Epsilon = Annotated[float, Field(gt=0, description="added to the denominator")]


class ParameterGroup(NamedTuple):
    """Tensors that take a step with the same options, in parallel lists.

    tensors      parameters or a rule's feedback, of any shape, float32
    grads        their gradients, each in its tensor's shape, type and memory layout
    slots        {name of a slot: that slot of every tensor}, in the tensors' shapes
    step_counts  how many steps each tensor has taken, this one included: 1 at its first
    """

    tensors: list[torch.Tensor]
    grads: list[torch.Tensor]
    slots: Mapping[str, list[torch.Tensor]]
    step_counts: list[int]


class Optimizer(Named):
    """An optimizer, by its options. `lr` is the rate at the start; the schedule scales it."""

    #: Whether each entry of a tensor moves by its own gradients alone, whatever the other entries, the shape
    #: and the other tensors are. Only then may the trials of a stack be rows of one tensor; an optimizer that
    #: takes norms, or treats a tensor as a matrix (LARS, LAMB, Muon), leaves this False, and its trials
    #: are trained one by one.
    elementwise: ClassVar[bool] = False

    lr: Rate
    weight_decay: WeightDecay = 0.0

    @property
    def slot_count(self) -> int:
        """How many slots `init_slots` makes for a tensor; the estimate of memory asks, without torch."""
        return 2

    @abstractmethod
    def init_slots(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """The slots of `tensor` before its first gradient, each a new tensor of its shape, type and layout.

        The names must not depend on the tensor.
        """

    @abstractmethod
    def step(self, group: ParameterGroup, lr: float) -> None:
        """Take one step along the gradients at the rate `lr`, which the schedule has scaled already.

        Changes the group's tensors and slots in place. The gradients are read only, and none of the group may
        be kept. In a stack of trials an elementwise optimizer is given tensors of shape (K, *shape), whose
        rows are K trials.
        """


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", "fdfa_cli.optim.optimizers")


@OPTIMIZERS.register
class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD`."""

    elementwise: ClassVar[bool] = True

    name: Literal["sgd"] = "sgd"
    lr: Rate = 0.1
    momentum: Momentum = 0.0
    nesterov: bool = False

    @property
    @override
    def slot_count(self) -> int:
        return 1 if self.momentum else 0

    @override
    def init_slots(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"velocity": torch.zeros_like(tensor)} if self.momentum else {}

    @override
    def step(self, group: ParameterGroup, lr: float) -> None:
        velocity = group.slots.get("velocity", [])
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
            sgd.sgd(group.tensors, group.grads, [*velocity] or [None] * len(group.tensors), **given)
        else:
            # The first velocity is the gradient, and so is 0 · momentum + gradient.
            fused(group.tensors, group.grads, velocity, **given, is_first_step=False)


class _Adaptive(Optimizer):
    """Adam and its kin: running averages of the gradient and of its square."""

    elementwise: ClassVar[bool] = True

    betas: tuple[Average, Average] = (0.9, 0.999)
    eps: Epsilon = 1e-8

    @override
    def init_slots(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": torch.zeros_like(tensor), "square": torch.zeros_like(tensor)}

    def _step(self, kernel: str, group: ParameterGroup, lr: float, decoupled: bool) -> None:
        """Take the step by torch's private `kernel`, or where it lacks that by `torch.optim`'s function."""
        given: dict[str, Any] = {
            "lr": lr,
            "beta1": self.betas[0],
            "beta2": self.betas[1],
            "eps": self.eps,
            "weight_decay": self.weight_decay,
            "amsgrad": False,
            "maximize": False,
        }
        tensors = group.tensors, group.grads, group.slots["mean"], group.slots["square"]
        fused = private(kernel)
        if fused is None:
            before = [torch.full((), count - 1.0) for count in group.step_counts]
            adam.adam(*tensors, [], before, decoupled_weight_decay=decoupled, **given)
            return
        # The kernels read the count from a tensor on the device; tensors of the same count share one.
        counts = {
            count: torch.full((), count, dtype=torch.float32, device=group.tensors[0].device)
            for count in set(group.step_counts)
        }
        fused(*tensors, [], [counts[count] for count in group.step_counts], **given)


@OPTIMIZERS.register
class Adam(_Adaptive):
    """Adam (Kingma & Ba 2015), as `torch.optim.Adam`; `weight_decay` is added to the gradient."""

    name: Literal["adam"] = "adam"
    lr: Rate = 1e-3

    @override
    def step(self, group: ParameterGroup, lr: float) -> None:
        self._step("_fused_adam_", group, lr, decoupled=False)


@OPTIMIZERS.register
class AdamW(_Adaptive):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as `torch.optim.AdamW`."""

    name: Literal["adamw"] = "adamw"
    lr: Rate = 1e-3
    weight_decay: WeightDecay = 1e-2

    @override
    def step(self, group: ParameterGroup, lr: float) -> None:
        self._step("_fused_adamw_", group, lr, decoupled=True)


@OPTIMIZERS.register
class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012), as `torch.optim.RMSprop`."""

    elementwise: ClassVar[bool] = True

    name: Literal["rmsprop"] = "rmsprop"
    lr: Rate = 1e-3
    alpha: Average = 0.99
    momentum: Momentum = 0.0
    eps: Epsilon = 1e-8

    @property
    @override
    def slot_count(self) -> int:
        return 2 if self.momentum else 1

    @override
    def init_slots(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        square = {"square": torch.zeros_like(tensor)}
        return square | ({"velocity": torch.zeros_like(tensor)} if self.momentum else {})

    @override
    def step(self, group: ParameterGroup, lr: float) -> None:
        rmsprop.rmsprop(
            group.tensors,
            group.grads,
            group.slots["square"],
            [],
            group.slots.get("velocity", []),
            [torch.full((), count - 1.0) for count in group.step_counts],
            lr=lr,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            centered=False,
        )
