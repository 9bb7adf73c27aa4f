"""A network that computes the same and tells what passes through it.

`watched` rebuilds every block from three layers: what leads to its pre-activation, its activation, what
follows. A rule may regroup them as it regroups any block (`at_preactivations`, `split_at_activation`), and
calls the same operations; so what is recorded needs no rule's help:

    the cotangent that enters a vjp, at the pre-activation and at the block's output
    the output there
    the seconds, or the bytes, of each kind of operation
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from fdfa_cli.internals import transformed
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network, split_at_activation
from fdfa_cli.network.layers import Activation, Chain, Layer, Mode, Tensors
from fdfa_cli.streams import Draw, Shape

#: Of a step: passes without a tangent, passes with one, vjps, the rest of the rule, the optimizers.
Phase = Literal["forward", "tangent", "gradient", "signal", "update"]
#: Where in block l: its pre-activation or its output.
Point = tuple[int, Literal["preactivation", "output"]]


class Meter(Protocol):
    """Told which phase begins, and which one goes on after it."""

    def enter(self, phase: Phase | None) -> Phase | None:
        """Begin `phase` (None: nothing that counts); returns the one that was on."""


@dataclass
class Record:
    """What was seen, by point: the last cotangent (the error signal) and the last output there.

    `meter` measures phases while it is set.
    """

    signals: dict[Point, torch.Tensor] = field(default_factory=dict)
    outputs: dict[Point, torch.Tensor] = field(default_factory=dict)
    meter: Meter | None = None

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """What is done inside counts for `phase`."""
        if self.meter is None:
            yield
            return
        before = self.meter.enter(phase)
        yield
        self.meter.enter(before)


def watched(network: Network, record: Record) -> Network:
    """`network` with the same operations, names and values, told to `record`."""
    blocks = []
    for l, block in enumerate(network.blocks):
        before, activation, after = split_at_activation(block)
        layers = (
            Watch(before, record, (l, "preactivation")),
            WatchedActivation(activation.function, name=activation.name, record=record),
            Watch(after, record, (l, "output")),
        )
        blocks.append(Chain(layers, name=block.name))
    output = Chain((Watch(network.output, record, None),), name=network.output.name)
    return replace(network, blocks=tuple(blocks), output=output)


@dataclass(frozen=True)
class Watch(Layer):
    """`inner`, whose output is the point `point` of its block (None: nothing to record, only to measure)."""

    inner: Chain
    record: Record = field(compare=False)
    point: Point | None
    name: str = field(default="watch", kw_only=True)

    def out_shape(self, shape: Shape) -> Shape:
        """The inner chain's."""
        return self.inner.out_shape(shape)

    def parameters(self) -> dict[str, Draw]:
        """The inner chain's."""
        return self.inner.parameters()

    def buffers(self) -> dict[str, Draw]:
        """The inner chain's."""
        return self.inner.buffers()

    def noise(self, shape: Shape) -> dict[str, Draw]:
        """The inner chain's."""
        return self.inner.noise(shape)

    def leaves(self, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        """The inner chain's."""
        return self.inner.leaves(shape)

    def held(self, saved: Any) -> Any:
        """The inner chain's."""
        return self.inner.held(saved)

    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, Any]:
        """Records the output."""
        with self.record.phase("forward"):
            y, saved = self.inner.forward(params, x, mode)
        self._note(self.record.outputs, y)
        return y, saved

    def dual(
        self, params: Tensors, x: torch.Tensor, dx: torch.Tensor | None, mode: Mode
    ) -> tuple[torch.Tensor, torch.Tensor | None, Any]:
        """Records the output."""
        with self.record.phase("forward" if dx is None else "tangent"):
            y, dy, saved = self.inner.dual(params, x, dx, mode)
        self._note(self.record.outputs, y)
        return y, dy, saved

    def jvp(self, params: Tensors, saved: Any, dx: torch.Tensor) -> torch.Tensor:
        """The inner chain's."""
        with self.record.phase("tangent"):
            return self.inner.jvp(params, saved, dx)

    def tangent(
        self, params: Tensors, saved: Any, dx: torch.Tensor | None, dparams: Tensors
    ) -> torch.Tensor | None:
        """The inner chain's."""
        with self.record.phase("tangent"):
            return self.inner.tangent(params, saved, dx, dparams)

    def vjp(
        self, params: Tensors, saved: Any, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Records the cotangent."""
        self._note(self.record.signals, dy)
        with self.record.phase("gradient"):
            return self.inner.vjp(params, saved, dy, need_dx)

    def _note(self, seen: dict[Point, torch.Tensor], value: torch.Tensor) -> None:
        # Under vmap a value stands for many and is none by itself.
        if self.point is not None and not transformed(value):
            seen[self.point] = value


@dataclass(frozen=True)
class WatchedActivation(Activation):
    """The activation itself, measured; still an `Activation`, by which rules find the pre-activation."""

    record: Record = field(compare=False, kw_only=True)

    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Activation.forward`."""
        with self.record.phase("forward"):
            return super().forward(params, x, mode)

    def dual(
        self, params: Tensors, x: torch.Tensor, dx: torch.Tensor | None, mode: Mode
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Layer.dual`."""
        with self.record.phase("forward" if dx is None else "tangent"):
            y, saved = super().forward(params, x, mode)
            return y, None if dx is None else super().jvp(params, saved, dx), saved

    def jvp(self, params: Tensors, saved: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
        """See `Activation.jvp`."""
        with self.record.phase("tangent"):
            return super().jvp(params, saved, dx)

    def vjp(
        self, params: Tensors, saved: torch.Tensor, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """See `Activation.vjp`."""
        with self.record.phase("gradient"):
            return {}, super().jvp(params, saved, dy) if need_dx else None
