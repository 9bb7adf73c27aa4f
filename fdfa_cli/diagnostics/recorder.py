"""A network that computes the same values and records what passes through its blocks.

`recorded` rebuilds every block from three layers: the layers before its activation, the activation, and the
layers after it. A rule may regroup them as it regroups any block (`at_preactivations`,
`split_at_activation`), and calls the same operations, so recording needs no help from the rule. Recorded are

    the cotangent that enters a vjp, at the pre-activation and at the block's output
    the output there
    the seconds, or the bytes, of each kind of operation
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from typing_extensions import override

from fdfa_cli.internals import transformed
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network, split_at_activation
from fdfa_cli.network.layers import Activation, Chain, Layer, Mode, Tensors
from fdfa_cli.streams import Draw, Shape

#: Phases of a step: passes without a tangent, passes with one, vjps, the rest of the rule, the optimizers.
Phase = Literal["forward", "tangent", "gradient", "signal", "update"]
#: Where in block l: its pre-activation or its output.
Point = tuple[int, Literal["preactivation", "output"]]


class Meter(Protocol):
    """Measures phases; it is told when one begins, and when the one before it goes on."""

    def enter(self, phase: Phase | None) -> Phase | None:
        """Begin `phase` (None: none that is measured); returns the phase before it."""


@dataclass
class Recording:
    """What was recorded, by point: the last cotangent (the error signal) and the last output there.

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


def recorded(network: Network, recording: Recording) -> Network:
    """`network` with the same operations, names and values, and every value also put into `recording`."""
    blocks = []
    for l, block in enumerate(network.blocks):
        before, activation, after = split_at_activation(block)
        layers = (
            Recorder(before, recording, (l, "preactivation")),
            RecordingActivation(activation.function, name=activation.name, recording=recording),
            Recorder(after, recording, (l, "output")),
        )
        blocks.append(Chain(layers, name=block.name))
    output = Chain((Recorder(network.output, recording, None),), name=network.output.name)
    return replace(network, blocks=tuple(blocks), output=output)


@dataclass(frozen=True)
class Recorder(Layer):
    """`inner`, whose output is the point `point` of its block (None: nothing is recorded, only measured)."""

    inner: Chain
    recording: Recording = field(compare=False)
    point: Point | None
    name: str = field(default="recorder", kw_only=True)

    @override
    def out_shape(self, shape: Shape) -> Shape:
        return self.inner.out_shape(shape)

    @override
    def parameters(self) -> dict[str, Draw]:
        return self.inner.parameters()

    @override
    def buffers(self) -> dict[str, Draw]:
        return self.inner.buffers()

    @override
    def noise(self, shape: Shape) -> dict[str, Draw]:
        return self.inner.noise(shape)

    @override
    def leaves(self, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        return self.inner.leaves(shape)

    @override
    def held(self, saved: Any) -> Any:
        return self.inner.held(saved)

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, Any]:
        with self.recording.phase("forward"):
            y, saved = self.inner.forward(params, x, mode)
        self._note(self.recording.outputs, y)
        return y, saved

    @override
    def dual(
        self, params: Tensors, x: torch.Tensor, dx: torch.Tensor | None, mode: Mode
    ) -> tuple[torch.Tensor, torch.Tensor | None, Any]:
        with self.recording.phase("forward" if dx is None else "tangent"):
            y, dy, saved = self.inner.dual(params, x, dx, mode)
        self._note(self.recording.outputs, y)
        return y, dy, saved

    @override
    def jvp(self, params: Tensors, saved: Any, dx: torch.Tensor) -> torch.Tensor:
        with self.recording.phase("tangent"):
            return self.inner.jvp(params, saved, dx)

    @override
    def tangent(
        self, params: Tensors, saved: Any, dx: torch.Tensor | None, dparams: Tensors
    ) -> torch.Tensor | None:
        with self.recording.phase("tangent"):
            return self.inner.tangent(params, saved, dx, dparams)

    @override
    def vjp(
        self, params: Tensors, saved: Any, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        self._note(self.recording.signals, dy)
        with self.recording.phase("gradient"):
            return self.inner.vjp(params, saved, dy, need_dx)

    def _note(self, seen: dict[Point, torch.Tensor], value: torch.Tensor) -> None:
        # Under vmap a value stands for many and is none by itself.
        if self.point is not None and not transformed(value):
            seen[self.point] = value


@dataclass(frozen=True)
class RecordingActivation(Activation):
    """The activation itself, measured; still an `Activation`, by which rules find the pre-activation."""

    recording: Recording = field(compare=False, kw_only=True)

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, torch.Tensor]:
        with self.recording.phase("forward"):
            return super().forward(params, x, mode)

    @override
    def dual(
        self, params: Tensors, x: torch.Tensor, dx: torch.Tensor | None, mode: Mode
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        with self.recording.phase("forward" if dx is None else "tangent"):
            y, saved = super().forward(params, x, mode)
            return y, None if dx is None else super().jvp(params, saved, dx), saved

    @override
    def jvp(self, params: Tensors, saved: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
        with self.recording.phase("tangent"):
            return super().jvp(params, saved, dx)

    @override
    def vjp(
        self, params: Tensors, saved: torch.Tensor, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        with self.recording.phase("gradient"):
            return {}, super().jvp(params, saved, dy) if need_dx else None
