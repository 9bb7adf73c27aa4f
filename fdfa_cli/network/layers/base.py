"""What a layer is: a map with its two derivatives.

    forward  y = f(θ, x), and `saved`, what the derivatives need
    jvp      ∂f/∂x · dx                   the output's tangent, θ held fixed
    tangent  ∂f/∂x · dx + ∂f/∂θ · dθ      the output's tangent when both move
    vjp      dyᵀ · ∂f/∂θ, and dyᵀ · ∂f/∂x only where asked

Pure functions of explicit tensors. Parameters are one flat mapping from dotted names to tensors for the
whole network; a layer reads its own under its `name`. So a rule can replace any of them for one call:
feedback alignment is the same chain of `vjp` with other tensors under the weights' names, which is why
`vjp` takes `params` again and `saved` never holds a weight.

Everything works under `torch.no_grad`, and under `torch.func.vmap` over a leading trial axis. Products are
in the type of x: weights are cast to it, the parameters and statistics of a norm are not, so bfloat16
inputs run float32 parameters. Images lie in memory with their channels last (see `kernels.layout`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from typing_extensions import override

from fdfa_cli.lazy import torch
from fdfa_cli.network.kernels.layout import channels_last
from fdfa_cli.streams import Draw, Shape

#: What of a pass a layer's derivatives read, and so holds in memory: its input, its output, or neither.
Kept = Literal["input", "output", "nothing"]
#: Tensors by dotted name, e.g. ``"1.linear.weight"``.
Tensors = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Mode:
    """How a forward pass is to be taken.

    `training` chooses batch statistics and dropout; `buffers` holds running statistics, read in
    evaluation; `noise` the dropout masks. New running statistics are put into `updates`, never into
    `buffers`: whoever owns the run decides whether they count. `stacked` says that the pass is one of several
    trials', under `torch.func.vmap`.
    """

    training: bool
    buffers: Tensors = field(default_factory=dict)
    noise: Tensors = field(default_factory=dict)
    updates: dict[str, torch.Tensor] = field(default_factory=dict)
    stacked: bool = False

    def discarding(self) -> Mode:
        """The same pass once more, without effect on the running statistics."""
        return replace(self, updates={})


@dataclass(frozen=True, kw_only=True)
class Layer(ABC):
    """A map with its two derivatives. Shapes here leave the batch axis out."""

    #: Whether `vjp` may be given other weights than `forward` was, as feedback alignment does.
    transposable: ClassVar[bool] = True
    #: Whether a sample's output depends on that sample alone, in training too.
    independent: ClassVar[bool] = True
    #: Whether every output is the largest of some inputs.
    picks_maxima: ClassVar[bool] = False

    @property
    def monotone(self) -> bool:
        """Whether every output is one nondecreasing function of one input."""
        return False

    @property
    def keeps(self) -> Kept:
        """What `saved` holds of a pass; an estimate of memory goes by it."""
        return "input"

    def kept_beside(self, shape: Shape) -> int:
        """Bytes that `saved` holds beside that of a sample of `shape`: masks, positions of maxima."""
        return 0

    name: str = ""

    def named(self, name: str) -> Self:
        """The same layer, reading its tensors under `name`."""
        return replace(self, name=name)

    def key(self, tensor: str) -> str:
        """Full name of one of this layer's tensors."""
        return f"{self.name}.{tensor}"

    @abstractmethod
    def out_shape(self, shape: Shape) -> Shape:
        """Shape of the output for an input of `shape`; raises `UsageError` where it does not fit."""

    def parameters(self) -> dict[str, Draw]:
        """Trainable tensors by full name, each with the law of its initial value."""
        return {}

    def buffers(self) -> dict[str, Draw]:
        """Running statistics by full name."""
        return {}

    def noise(self, shape: Shape) -> dict[str, Draw]:
        """Random tensors a training pass over a batch input of `shape` (B, …) needs, by full name."""
        return {}

    @abstractmethod
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, Any]:
        """The output for a batch `x`, and what the derivatives need."""

    @abstractmethod
    def jvp(self, params: Tensors, saved: Any, dx: torch.Tensor) -> torch.Tensor:
        """The output's tangent when the input's is `dx` and the parameters stand still."""

    @abstractmethod
    def vjp(
        self, params: Tensors, saved: Any, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Gradients of the parameters for the cotangent `dy`, and the input's cotangent if `need_dx`."""

    def parameter_tangent(self, params: Tensors, saved: Any, dparams: Tensors) -> torch.Tensor | None:
        """The output's tangent when the parameters move by `dparams` and x stands still; None for zero."""
        return None

    def tangent(
        self, params: Tensors, saved: Any, dx: torch.Tensor | None, dparams: Tensors
    ) -> torch.Tensor | None:
        """The output's tangent when x moves by `dx` and the parameters by `dparams`; None is zero."""
        moved = self.parameter_tangent(params, saved, dparams)
        if dx is None:
            return moved
        carried = self.jvp(params, saved, dx)
        return carried if moved is None else carried + moved

    def held(self, saved: Any) -> Any:
        """`saved` with the batch's statistics held fixed: derivatives are then each sample's own.

        Raises `Unsupported` where a layer cannot tell its statistics from the rest.
        """
        return saved

    def leaves(self, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        """Every elementary layer, in the order in which they are computed, with the shape of its input."""
        yield self, shape

    def dual(
        self, params: Tensors, x: torch.Tensor, dx: torch.Tensor | None, mode: Mode
    ) -> tuple[torch.Tensor, torch.Tensor | None, Any]:
        """Output, tangent and saved of one pass; a `dx` of None is a tangent of zero, and costs nothing."""
        y, saved = self.forward(params, x, mode)
        return y, None if dx is None else self.jvp(params, saved, dx), saved


@dataclass(frozen=True)
class Chain(Layer):
    """Layers one after another; itself a layer.

    Without `need_dx`, `vjp` stops at the first layer that has parameters: the product with its
    transposed weights is never computed.
    """

    layers: tuple[Layer, ...]

    @override
    def named(self, name: str) -> Self:
        """Layers take the chain's name, a dot, and their own; a name that repeats is numbered from 1."""
        names = [layer.name for layer in self.layers]
        layers = []
        for i, (layer, own) in enumerate(zip(self.layers, names, strict=True)):
            number = str(names[: i + 1].count(own)) if names.count(own) > 1 else ""
            layers.append(layer.named(f"{name}.{own}{number}"))
        return replace(self, name=name, layers=tuple(layers))

    @cached_property
    def stages(self) -> tuple[Layer, ...]:
        """The layers in the order in which they are computed, which every method below follows.

        `saved` is a list with an entry for each stage. A monotone activation σ is computed after the max pool
        that follows it: max σ(x) = σ(max x), and there it has a quarter of the work. Derivatives are the
        same, for where σ makes two entries equal that were not, it is flat.
        """
        stages = list(self.layers)
        for i in range(len(stages) - 1):
            if stages[i].monotone and stages[i + 1].picks_maxima:
                stages[i], stages[i + 1] = stages[i + 1], stages[i]
        return tuple(stages)

    @cached_property
    def first_with_parameters(self) -> int:
        """Index of the first stage that has parameters; the number of stages when none has."""
        return next((i for i, layer in enumerate(self.stages) if layer.parameters()), len(self.stages))

    @override
    def out_shape(self, shape: Shape) -> Shape:
        for layer in self.stages:
            shape = layer.out_shape(shape)
        return shape

    @override
    def parameters(self) -> dict[str, Draw]:
        return {name: draw for layer in self.stages for name, draw in layer.parameters().items()}

    @override
    def buffers(self) -> dict[str, Draw]:
        return {name: draw for layer in self.stages for name, draw in layer.buffers().items()}

    @override
    def noise(self, shape: Shape) -> dict[str, Draw]:
        draws: dict[str, Draw] = {}
        for layer in self.stages:
            draws |= layer.noise(shape)
            shape = (shape[0], *layer.out_shape(shape[1:]))
        return draws

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, list[Any]]:
        x, saved = channels_last(x), []
        for layer in self.stages:
            x, kept = layer.forward(params, x, mode)
            saved.append(kept)
        return x, saved

    @override
    def jvp(self, params: Tensors, saved: list[Any], dx: torch.Tensor) -> torch.Tensor:
        dx = channels_last(dx)
        for layer, kept in zip(self.stages, saved, strict=True):
            dx = layer.jvp(params, kept, dx)
        return dx

    @override
    def tangent(
        self, params: Tensors, saved: list[Any], dx: torch.Tensor | None, dparams: Tensors
    ) -> torch.Tensor | None:
        for layer, kept in zip(self.stages, saved, strict=True):
            dx = layer.tangent(params, kept, dx, dparams)
        return dx

    @override
    def held(self, saved: list[Any]) -> list[Any]:
        return [layer.held(kept) for layer, kept in zip(self.stages, saved, strict=True)]

    @override
    def leaves(self, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        for layer in self.stages:
            yield from layer.leaves(shape)
            shape = layer.out_shape(shape)

    @override
    def vjp(
        self, params: Tensors, saved: list[Any], dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        grads: dict[str, torch.Tensor] = {}
        last = 0 if need_dx else self.first_with_parameters
        cotangent: torch.Tensor | None = channels_last(dy)
        del dy  # freed, if nobody else holds it, once the last stage has used it
        for i in reversed(range(last, len(self.stages))):
            assert cotangent is not None
            some, cotangent = self.stages[i].vjp(params, saved[i], cotangent, need_dx or i > last)
            grads |= some
        return grads, cotangent if need_dx else None

    @override
    def dual(
        self, params: Tensors, x: torch.Tensor, dx: torch.Tensor | None, mode: Mode
    ) -> tuple[torch.Tensor, torch.Tensor | None, list[Any]]:
        x, saved = channels_last(x), []
        dx = None if dx is None else channels_last(dx)
        for layer in self.stages:
            x, dx, kept = layer.dual(params, x, dx, mode)
            saved.append(kept)
        return x, dx, saved
