"""The state of an optimizer: the tensors that it moves, its slots for each, and the steps each has taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

from fdfa_cli.lazy import torch
from fdfa_cli.network.layers import Tensors
from fdfa_cli.optim.optimizers import Optimizer, ParameterGroup, Slots


class OptimizerState:
    """`tensors` by name, the optimizer's `slots` of each, and its `step_counts`: steps taken by each.

    The tensors are those of the training itself, not copies: a step changes them in place. Entries are made
    and replaced by `set` only, because the lists that a step of the same names needs are made once.
    """

    def __init__(
        self, tensors: dict[str, torch.Tensor], slots: dict[str, Slots], step_counts: dict[str, int]
    ) -> None:
        self.tensors, self.slots, self.step_counts = tensors, slots, step_counts
        self._lists: dict[tuple[str, ...], _Lists] = {}

    @classmethod
    def new(cls, tensors: dict[str, torch.Tensor], optimizer: Optimizer) -> Self:
        """The state of `tensors` that have taken no step yet."""
        slots: dict[str, Slots] = {name: optimizer.init_slots(tensor) for name, tensor in tensors.items()}
        return cls(tensors, slots, dict.fromkeys(tensors, 0))

    def set(self, name: str, tensor: torch.Tensor, slots: Slots, step_count: int) -> None:
        """Add a tensor under a new `name`, or put another with its slots in the place of the one there."""
        self.tensors[name], self.slots[name], self.step_counts[name] = tensor, slots, step_count
        self._lists.clear()

    def apply(self, grads: Tensors, optimizer: Optimizer, lr: float) -> None:
        """Take the next step of every tensor that `grads` names, in place, at the rate `lr`.

        A gradient has its tensor's shape; it may have another type or memory layout, and is not changed.
        """
        names = tuple(grads)
        if names not in self._lists:
            self._lists[names] = self._listed(names)
        tensors, layouts, slots = self._lists[names]
        laid_out = [
            grad if (grad.dtype, grad.stride()) == layout else torch.empty_like(tensor).copy_(grad)
            for tensor, layout, grad in zip(tensors, layouts, grads.values(), strict=True)
        ]
        for name in names:
            self.step_counts[name] += 1
        counts = [self.step_counts[name] for name in names]
        optimizer.step(ParameterGroup(tensors, laid_out, slots, counts), lr)

    def _listed(self, names: tuple[str, ...]) -> _Lists:
        tensors = [self.tensors[name] for name in names]
        slots = self.slots[names[0]] if names else ()
        return _Lists(
            tensors,
            [(tensor.dtype, tensor.stride()) for tensor in tensors],
            {slot: [self.slots[name][slot] for name in names] for slot in slots},
        )


class _Lists(NamedTuple):
    """What is the same at every step of the same tensors.

    Type and strides are compared with the gradients', because torch's fused optimizers on a CPU walk a tensor
    and its gradient in the order of memory and do not look at strides: given the channels-last gradient of a
    contiguous convolution weight, they silently pair the wrong entries.
    """

    tensors: list[torch.Tensor]
    layouts: list[tuple[torch.dtype, tuple[int, ...]]]
    slots: Mapping[str, list[torch.Tensor]]
