"""Batch norm's kernels on rows (B×C), and what `torch.func.vmap` makes of them for stacked trials.

Left to itself vmap takes γ, β and their gradients out of torch's kernel, into five passes of their own. But
to the kernel the channels of K trials are so many channels more: one call on B×KC does all. What is handed to
it again and again is laid out so once, by `lay_out`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from fdfa_cli.lazy import torch

Three = tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]


def lay_out(x: torch.Tensor) -> torch.Tensor:
    """Rows (B×C) that lie in memory as the kernels take them: those of a trial alone do."""
    laid_out: tuple[torch.Tensor] = _stackable(_view).apply(x)
    return laid_out[0]


def normalise(*given: Any) -> Three:
    """`aten.native_batch_norm` of rows (B×C)."""
    three: Three = _stackable(torch.ops.aten.native_batch_norm).apply(*given)
    return three


def normalise_vjp(*given: Any) -> Three:
    """`aten.native_batch_norm_backward` of rows (B×C); None for what is not asked for."""
    three: Three = _stackable(torch.ops.aten.native_batch_norm_backward).apply(*given)
    return three


def _view(x: torch.Tensor) -> tuple[torch.Tensor]:
    """A kernel that does nothing; not x itself, which autograd takes for an input changed in place."""
    return (x.view_as(x),)


@cache
def _stackable(kernel: Callable[..., tuple[torch.Tensor, ...]]) -> Any:
    """`kernel` with a rule for vmap."""

    class Stackable(torch.autograd.Function):
        @staticmethod
        def forward(*given: Any) -> Any:
            return kernel(*given)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            """Nothing is kept: nobody differentiates it."""

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *given: Any) -> Any:
            trials = info.batch_size
            inputs = (_channels(value, dim, trials) for value, dim in zip(given, in_dims, strict=True))
            outputs = [part if part is None else _trials(part, trials) for part in kernel(*inputs)]
            return tuple(outputs), tuple(part if part is None else 0 for part in outputs)

    return Stackable


def _channels(value: Any, dim: Any, trials: int) -> Any:
    """Rows of trials (K×B×C) as rows of all channels (B×KC), and what each channel has (K×C) as one (KC)."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.expand(trials, *value.shape) if dim is None else value.movedim(dim, 0)
    return value.movedim(0, -2).flatten(-2)


def _trials(value: torch.Tensor, trials: int) -> torch.Tensor:
    """The inverse of `_channels`."""
    return value.view(*value.shape[:-1], trials, -1).movedim(-2, 0)
