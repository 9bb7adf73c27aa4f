"""Residual connection (He et al. 2016): y = body(x) + shortcut(x)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

from typing_extensions import override

from fdfa_cli.errors import UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.network.layers.base import Chain, Layer, Mode, Tensors
from fdfa_cli.streams import Draw, Shape


@dataclass(frozen=True)
class Residual(Layer):
    """Sum of two chains of the same input; an empty `shortcut` is the identity."""

    body: Chain
    shortcut: Chain = Chain(())  # noqa: RUF009 frozen
    name: str = field(default="residual", kw_only=True)

    @override
    def named(self, name: str) -> Self:
        """The same layer, whose chains are named ``{name}.body`` and ``{name}.shortcut``."""
        return replace(
            self,
            name=name,
            body=self.body.named(f"{name}.body"),
            shortcut=self.shortcut.named(f"{name}.shortcut"),
        )

    @override
    def out_shape(self, shape: Shape) -> Shape:
        """The body's, which the shortcut must share.

        Raises `UsageError` where it does not.
        """
        out, short = self.body.out_shape(shape), self.shortcut.out_shape(shape)
        if out != short:
            raise UsageError(f"a residual body's output {out} cannot be added to its shortcut's {short}")
        return out

    @override
    def parameters(self) -> dict[str, Draw]:
        return self.body.parameters() | self.shortcut.parameters()

    @override
    def buffers(self) -> dict[str, Draw]:
        return self.body.buffers() | self.shortcut.buffers()

    @override
    def noise(self, shape: Shape) -> dict[str, Draw]:
        return self.body.noise(shape) | self.shortcut.noise(shape)

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, tuple[Any, Any]]:
        """y = body(x) + shortcut(x); saves the pair of what both chains save."""
        y, body = self.body.forward(params, x, mode)
        short, shortcut = self.shortcut.forward(params, x, mode)
        return y + short, (body, shortcut)

    @override
    def jvp(self, params: Tensors, saved: tuple[Any, Any], dx: torch.Tensor) -> torch.Tensor:
        """The sum of both chains' tangents."""
        return self.body.jvp(params, saved[0], dx) + self.shortcut.jvp(params, saved[1], dx)

    @override
    def tangent(
        self, params: Tensors, saved: tuple[Any, Any], dx: torch.Tensor | None, dparams: Tensors
    ) -> torch.Tensor | None:
        """The sum of both chains' tangents."""
        return _sum(
            self.body.tangent(params, saved[0], dx, dparams),
            self.shortcut.tangent(params, saved[1], dx, dparams),
        )

    @override
    def held(self, saved: tuple[Any, Any]) -> tuple[Any, Any]:
        return self.body.held(saved[0]), self.shortcut.held(saved[1])

    @override
    def leaves(self, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        yield from self.body.leaves(shape)
        yield from self.shortcut.leaves(shape)

    @override
    def vjp(
        self, params: Tensors, saved: tuple[Any, Any], dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Gradients of both chains, and the sum of their cotangents."""
        grads, dx = self.body.vjp(params, saved[0], dy, need_dx)
        more, short = self.shortcut.vjp(params, saved[1], dy, need_dx)
        return grads | more, _sum(dx, short)

    @override
    def dual(
        self, params: Tensors, x: torch.Tensor, dx: torch.Tensor | None, mode: Mode
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple[Any, Any]]:
        y, dy, body = self.body.dual(params, x, dx, mode)
        short, dshort, shortcut = self.shortcut.dual(params, x, dx, mode)
        return y + short, _sum(dy, dshort), (body, shortcut)


def _sum(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
    """The sum a + b, where None is zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b
