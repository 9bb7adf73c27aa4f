"""What a layer is: a map with its two derivatives.

    forward  y = f(θ, x), and `saved`, what the derivatives need
    jvp      ∂f/∂x · dx                   the output's tangent, θ held fixed
    tangent  ∂f/∂x · dx + ∂f/∂θ · dθ      the output's tangent when both move
    vjp      dyᵀ · ∂f/∂θ, and dyᵀ · ∂f/∂x only where asked

Pure functions of explicit tensors. Parameters are one flat mapping from dotted names to tensors for the
whole network; a layer reads its own under its `name`. So a rule can replace any of them for one call:
feedback alignment is the same chain of `vjp` with other tensors under the weights' names, which is why
`vjp` takes `params` again and `saved` never holds a weight.

Shapes   B samples; `shape` is that of one sample, (N,) for vectors and (C, H, W) for images
Types    floating: x, y, and their tangents and cotangents share the type of x. Weights are cast to it, the
         parameters and statistics of a norm are not, so bfloat16 inputs run float32 parameters
Memory   images with their channels last, vectors unit by unit (`kernels.layout`); a layer keeps that layout
Stacks   under `torch.func.vmap` every tensor may carry a hidden axis of trials. Shapes are then still those
         of one trial; no value may be looked at (``if tensor:``, ``.item()``), and what is changed in place
         must have been made from tensors that are stacked

No tensor that is passed in may be changed, and results may be views of it or the tensor itself. Nothing is
recorded for autograd: everything is called under `torch.no_grad`.
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

#: The part of a pass that a layer's derivatives read, and so hold in memory: input, output, or neither.
Kept = Literal["input", "output", "nothing"]
#: Tensors by dotted name, e.g. ``"1.linear.weight"``.
Tensors = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Mode:
    """How a forward pass is to be taken.

    training  whether norms use the batch's statistics and dropout its masks
    buffers   {name: running statistic} as `Layer.buffers` declares them, float32
    noise     {name: random tensor} as `Layer.noise` declares them; needed in training only
    updates   where the pass puts new running statistics, by the names of `buffers`, which it never changes:
              whoever owns the training decides whether they count
    stacked   whether the pass is one of several trials', under `torch.func.vmap`
    """

    training: bool
    buffers: Tensors = field(default_factory=dict)
    noise: Tensors = field(default_factory=dict)
    updates: dict[str, torch.Tensor] = field(default_factory=dict)
    stacked: bool = False

    def discarding(self) -> Mode:
        """The same mode with empty `updates` of its own: a pass that has no effect on running statistics."""
        return replace(self, updates={})


@dataclass(frozen=True, kw_only=True)
class Layer(ABC):
    """A map with its two derivatives: frozen options, and pure functions of explicit tensors.

    A layer states its shapes and tensors (`out_shape`, `parameters`, `buffers`, `noise`), computes
    (`forward`, `jvp`, `vjp`), and may add a tangent for its parameters (`parameter_tangent`). `saved` is
    what `forward` hands to the derivatives: anything, but no weight.
    """

    #: Whether `vjp` may be given other weights than `forward` was, as feedback alignment does.
    transposable: ClassVar[bool] = True
    #: Whether a sample's output depends on that sample alone, in training too.
    independent: ClassVar[bool] = True
    #: Whether every output is the largest of some inputs, as a max pool's is.
    picks_maxima: ClassVar[bool] = False

    @property
    def monotone(self) -> bool:
        """Whether every output is one nondecreasing function of one input."""
        return False

    @property
    def keeps(self) -> Kept:
        """The part of a pass that `saved` holds, by which a training's memory is estimated."""
        return "input"

    def kept_beside(self, shape: Shape) -> int:
        """Bytes that `saved` holds of a sample of `shape` beside that: masks, positions of maxima."""
        return 0

    name: str = ""

    def named(self, name: str) -> Self:
        """The same layer, which reads its tensors under `name`."""
        return replace(self, name=name)

    def key(self, tensor: str) -> str:
        """Full name of this layer's tensor called `tensor`, such as ``"1.linear.weight"``."""
        return f"{self.name}.{tensor}"

    @abstractmethod
    def out_shape(self, shape: Shape) -> Shape:
        """Shape of a sample's output for an input sample of `shape`. Needs no torch.

        Raises `UsageError` where the sample does not fit; the passes below do not check that again.
        """

    def parameters(self) -> dict[str, Draw]:
        """Trainable tensors by full name, each as a `Draw`: its shape and the law of its initial value."""
        return {}

    def buffers(self) -> dict[str, Draw]:
        """Running statistics by full name, each as a `Draw` of its initial value."""
        return {}

    def noise(self, shape: Shape) -> dict[str, Draw]:
        """Random tensors that a training pass needs, by full name; `shape` is the batch's, (B, …)."""
        return {}

    @abstractmethod
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, Any]:
        """The output y (B, *out_shape) for a batch `x` (B, *shape), in the type of x; and `saved`.

        `params` holds the tensors of the whole network by full name. `saved` may hold x and y, and is handed
        to the derivatives of this pass unchanged; it holds no weight. New running statistics go to
        `mode.updates`; there is no other effect.
        """

    @abstractmethod
    def jvp(self, params: Tensors, saved: Any, dx: torch.Tensor) -> torch.Tensor:
        """The output's tangent (B, *out_shape) when the input's is `dx` (B, *shape), θ held fixed.

        May be called many times with the same `saved`, also for several tangents at once by
        `torch.func.vmap`.
        """

    @abstractmethod
    def vjp(
        self, params: Tensors, saved: Any, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Gradients of all parameters for the cotangent `dy` (B, *out_shape), and dx (B, *shape) if
        `need_dx`.

        Gradients are by full name, in their parameter's shape, and in its type or that of dy. Where
        `transposable`, `params` may hold other weights than in the forward pass: dx goes through those, the
        gradients are the same. Without `need_dx`, what only dx takes is not computed, and the second is None.
        """

    def parameter_tangent(self, params: Tensors, saved: Any, dparams: Tensors) -> torch.Tensor | None:
        """The output's tangent when the parameters move by `dparams` and x stands still; None is zero.

        `dparams` has an entry for each of this layer's parameters, in its shape.
        """
        return None

    def tangent(
        self, params: Tensors, saved: Any, dx: torch.Tensor | None, dparams: Tensors
    ) -> torch.Tensor | None:
        """The output's tangent when x moves by `dx` and the parameters by `dparams`; None is a zero."""
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
        """Output, its tangent for `dx`, and `saved`, of one pass: `forward` and `jvp`.

        A `dx` of None is a tangent of zero, which comes back as None and costs nothing.
        """
        y, saved = self.forward(params, x, mode)
        return y, None if dx is None else self.jvp(params, saved, dx), saved


@dataclass(frozen=True)
class Chain(Layer):
    """Layers one after another; itself a layer.

    What enters a chain, forward or backward, is brought into the layout of the layers, which keep it. Without
    `need_dx`, `vjp` stops at the first layer that has parameters: the product with its transposed weights is
    never computed. `out_shape` raises `UsageError` where a layer does not fit what comes before it.
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
