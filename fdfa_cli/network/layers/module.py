"""Any `torch.nn.Module` as a layer.

Its derivatives are torch's own (`torch.func.jvp`, `torch.func.vjp`) of the module run once more: a layer
written by hand keeps what its derivatives need and is about twice as fast. Its buffers, running statistics
among them, are explicit state like any layer's.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Any, ClassVar, NamedTuple

from typing_extensions import override

from fdfa_cli.errors import Unsupported, UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.network.layers.base import Layer, Mode, Tensors
from fdfa_cli.streams import Draw, Shape

#: Tensors by the module's own names.
Own = dict[str, "torch.Tensor"]


class _Call(NamedTuple):
    """The arguments of one forward pass besides the parameters."""

    x: torch.Tensor
    buffers: Own
    training: bool


@dataclass(frozen=True)
class ModuleLayer(Layer):
    """`module` as a map from (B, …) to (B, …). Its own values are the initial ones and stay untouched.

    Parameters that require no gradient stand still, among the buffers. A module that draws random numbers
    or cannot run under `torch.func.vmap` is refused by `out_shape`.
    """

    module: torch.nn.Module
    name: str = field(default="module", kw_only=True)

    #: A module's transposed products cannot be told from the rest of its derivative.
    transposable: ClassVar[bool] = False
    #: A module may have a batch norm inside.
    independent: ClassVar[bool] = False

    @override
    def out_shape(self, shape: Shape) -> Shape:
        """Found by running the module.

        Raises `UsageError` where it does not take samples of `shape`, `Unsupported` where it cannot be a
        layer.
        """
        return _probe(self, shape)

    @override
    def parameters(self) -> dict[str, Draw]:
        """The module's parameters that require a gradient, under its own names."""
        return {self.key(name): Draw.given(p) for name, p in self._learning.items()}

    @override
    def buffers(self) -> dict[str, Draw]:
        """The module's buffers and its other parameters, under their own names."""
        return {self.key(name): Draw.given(b) for name, b in self._still.items()}

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, _Call]:
        """The module's output; saves its arguments but the parameters."""
        call = _Call(x, self._own(self._still, mode.buffers), mode.training)
        y, updates = self._run(call, self._own(self._learning, params), x)
        self._update(mode, updates)
        return y, call

    @override
    def jvp(self, params: Tensors, saved: _Call, dx: torch.Tensor) -> torch.Tensor:
        """The tangent, by forward-mode differentiation of another run of the module."""
        return self._jvp(params, saved, dx)[1]

    @override
    def parameter_tangent(self, params: Tensors, saved: _Call, dparams: Tensors) -> torch.Tensor:
        """The tangent, by forward-mode differentiation of another run of the module."""
        at, along = (self._own(self._learning, tensors) for tensors in (params, dparams))
        _load_forward_mode()
        jvp: Any = torch.func.jvp(lambda own: self._run(saved, own, saved.x)[0], (at,), (along,))
        y, tangent = jvp
        moved: torch.Tensor = tangent.to(y.dtype)
        return moved

    @override
    def vjp(
        self, params: Tensors, saved: _Call, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Gradients by reverse-mode differentiation of another run, with respect to x only where asked."""
        own = self._own(self._learning, params)
        moving = (own, saved.x) if need_dx else (own,)
        vjp: Any = torch.func.vjp(lambda own, x=saved.x: self._run(saved, own, x)[0], *moving)
        grads, *dx = vjp[1](dy)
        return {self.key(name): grad for name, grad in grads.items()}, dx[0] if need_dx else None

    @override
    def dual(
        self, params: Tensors, x: torch.Tensor, dx: torch.Tensor | None, mode: Mode
    ) -> tuple[torch.Tensor, torch.Tensor | None, _Call]:
        """Output and tangent of a single run of the module, by forward-mode differentiation."""
        if dx is None:
            y, call = self.forward(params, x, mode)
            return y, None, call
        call = _Call(x, self._own(self._still, mode.buffers), mode.training)
        y, tangent, updates = self._jvp(params, call, dx)
        self._update(mode, updates)
        return y, tangent, call

    @override
    def held(self, saved: _Call) -> _Call:
        """Raises `Unsupported`: which of the module's buffers are batch statistics is not known."""
        raise Unsupported(f"{self.name!r}, a wrapped module, cannot hold its batch statistics fixed")

    def _jvp(self, params: Tensors, call: _Call, dx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Own]:
        """The module's output, its tangent for `dx`, and the buffers as the run leaves them."""
        _load_forward_mode()
        own = self._own(self._learning, params)
        jvp: Any = torch.func.jvp(lambda x: self._run(call, own, x), (call.x,), (dx,), has_aux=True)
        y, tangent, buffers = jvp
        return y, tangent.to(y.dtype), buffers  # autocast may leave the tangent of a norm in float32

    def _run(self, call: _Call, own: Own, x: torch.Tensor) -> tuple[torch.Tensor, Own]:
        """The module's output in the type of x, and its buffers as it leaves them."""
        buffers = {name: buffer.clone() for name, buffer in call.buffers.items()}
        self.module.train(call.training)
        half = x.dtype.itemsize < 4  # autocast runs products in x's type, on parameters of another
        with torch.autocast(x.device.type, x.dtype if half else None, enabled=half, cache_enabled=False):
            y: torch.Tensor = torch.func.functional_call(self.module, own | buffers, (x,))
        return y.to(x.dtype), buffers

    def _update(self, mode: Mode, buffers: Own) -> None:
        if mode.training:
            mode.updates.update({self.key(name): buffer for name, buffer in buffers.items()})

    def _own(self, names: Own, tensors: Tensors) -> Own:
        return {name: tensors[self.key(name)] for name in names}

    @cached_property
    def _learning(self) -> Own:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @cached_property
    def _still(self) -> Own:
        fixed = {name: p for name, p in self.module.named_parameters() if not p.requires_grad}
        return fixed | dict(self.module.named_buffers())


@lru_cache(maxsize=256)
def _probe(layer: ModuleLayer, shape: Shape) -> Shape:
    """Shape of a sample's output: found by running two samples of zeros, alone and as one of two trials."""
    kind = type(layer.module).__name__
    own, buffers = layer._learning, layer._still
    x = next(iter(own.values()), torch.empty(0)).new_zeros(2, *shape)

    def run(own: Own, buffers: Own, x: torch.Tensor, training: bool) -> torch.Tensor:
        return layer._run(_Call(x, buffers, training), own, x)[0]

    def twice(tensors: Own) -> Own:
        return {name: tensor.expand(2, *tensor.shape).clone() for name, tensor in tensors.items()}

    with torch.no_grad():
        try:
            y = run(own, buffers, x, False)
        except Exception as error:
            raise UsageError(f"module {kind} cannot take a sample of shape {shape}: {error}") from error
        if y.ndim < 2 or len(y) != len(x):
            raise UsageError(
                f"module {kind} makes {tuple(y.shape)} of {tuple(x.shape)}: the batch axis must stay first"
            )
        try:
            for training in (True, False):
                trial = torch.func.vmap(run, in_dims=(0, 0, 0, None), randomness="error")
                trial(twice(own), twice(buffers), x.expand(2, *x.shape), training)
        except Exception as error:
            raise Unsupported(
                f"module {kind} cannot be a layer: {str(error).splitlines()[0]}; a layer makes the same "
                "of the same tensors and runs under torch.func.vmap, so leave out random operations "
                "(fdfa_cli.network.layers.Dropout is one) and branches on values"
            ) from error
    return tuple(y.shape[1:])


@cache
def _load_forward_mode() -> None:
    """Load torch's rules of forward mode, which it scripts at their first use with a warning of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".torch\.jit\.script. is", FutureWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))
