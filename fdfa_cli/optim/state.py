"""What follows its gradients: tensors, the moments that an optimizer keeps of each, and the steps taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

from fdfa_cli.lazy import torch
from fdfa_cli.network.layers import Tensors
from fdfa_cli.optim.optimizers import Moments, Optimizer, Steps


class Ledger:
    """`tensors` by name, their `moments`, and the `numbers` of steps that each has taken.

    Entries are made and replaced by `put` only: what is the same at every step of the same names is arranged
    once.
    """

    def __init__(
        self, tensors: dict[str, torch.Tensor], moments: dict[str, Moments], numbers: dict[str, int]
    ) -> None:
        self.tensors, self.moments, self.numbers = tensors, moments, numbers
        self._arranged: dict[tuple[str, ...], _Columns] = {}

    @classmethod
    def new(cls, tensors: dict[str, torch.Tensor], optimizer: Optimizer) -> Self:
        """Of tensors that have not moved yet."""
        moments: dict[str, Moments] = {name: optimizer.moments(tensor) for name, tensor in tensors.items()}
        return cls(tensors, moments, dict.fromkeys(tensors, 0))

    def put(self, name: str, tensor: torch.Tensor, moments: Moments, number: int) -> None:
        """A tensor that is new here, or other memory in its place."""
        self.tensors[name], self.moments[name], self.numbers[name] = tensor, moments, number
        self._arranged.clear()

    def move(self, grads: Tensors, optimizer: Optimizer, lr: float) -> None:
        """The next step of every tensor that has a gradient, in place."""
        names = tuple(grads)
        if names not in self._arranged:
            self._arranged[names] = self._columns(names)
        tensors, layouts, moments = self._arranged[names]
        given = [
            grad if (grad.dtype, grad.stride()) == layout else torch.empty_like(tensor).copy_(grad)
            for tensor, layout, grad in zip(tensors, layouts, grads.values(), strict=True)
        ]
        for name in names:
            self.numbers[name] += 1
        optimizer.move(Steps(tensors, given, moments, [self.numbers[name] for name in names]), lr)

    def _columns(self, names: tuple[str, ...]) -> _Columns:
        tensors = [self.tensors[name] for name in names]
        kinds = self.moments[names[0]] if names else ()
        return _Columns(
            tensors,
            [(tensor.dtype, tensor.stride()) for tensor in tensors],
            {kind: [self.moments[name][kind] for name in names] for kind in kinds},
        )


class _Columns(NamedTuple):
    """Of some tensors what is the same at every step.

    Layouts, because torch's fused optimizers on the CPU walk a tensor and its gradient in memory order and do
    not look at strides: given the channels-last gradient of a contiguous convolution weight, they silently
    pair the wrong entries.
    """

    tensors: list[torch.Tensor]
    layouts: list[tuple[torch.dtype, tuple[int, ...]]]
    moments: Mapping[str, list[torch.Tensor]]
