"""Rules that `torch.func.vmap` follows for batch norm's kernels on vectors, in stacks of trials.

Without a rule, vmap takes γ, β and their gradients out of the kernels, into five passes of their own. But to
a kernel the channels of K trials are K times as many channels, and one call on 1×KC×B does all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from fdfa_cli.lazy import torch
from fdfa_cli.network.kernels.reference import Three


@cache
def stackable(kernel: Callable[..., Three]) -> Any:
    """`kernel`, of vectors as the positions of one image (1×C×B), with a rule for vmap."""

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
    """All K trials' channels side by side: values (K×1×C×B) as 1×KC×B, one number a channel (K×C) as KC."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.expand(trials, *value.shape) if dim is None else value.movedim(dim, 0)
    flat = value.flatten(0, -2 if value.ndim == 4 else -1)
    return flat.unsqueeze(0) if value.ndim == 4 else flat


def _trials(value: torch.Tensor, trials: int) -> torch.Tensor:
    """The inverse of `_channels`."""
    return value.view(trials, 1, -1, value.shape[-1]) if value.ndim == 3 else value.view(trials, -1)
