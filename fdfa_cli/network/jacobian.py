"""Each sample's own Jacobian, from every block's output to the logits.

    J_l[b] = ∂Z[b]/∂H_l[b]    (C×N_l), the batch's statistics held fixed

With batch norm the logits of one sample depend on the others. What a direct feedback stands for, and what
a perturbation of one sample's activity estimates, is a sample's effect on its own logits.
"""

from __future__ import annotations

from collections.abc import Iterator

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Mode, Tensors


def jacobian_rows(
    network: Network, params: Tensors, x: torch.Tensor, mode: Mode
) -> Iterator[list[torch.Tensor]]:
    """Yield for each class c the list of the rows J_l[b, c] of all blocks l, each (B, *shape of block l).

    One forward pass, and a backward pass a class. Raises `Unsupported` on a network with wrapped modules.
    """
    parts, kept = (*network.blocks, network.output), []
    for part in parts:
        x, saved = part.forward(params, x, mode)
        kept.append(part.held(saved))
    for c in range(network.classes):
        cotangent = torch.zeros_like(x)
        cotangent[:, c] = 1
        rows = []
        for part, saved in reversed(list(zip(parts, kept, strict=True))[1:]):
            _, below = part.vjp(params, saved, cotangent)
            assert below is not None  # asked for
            cotangent = below
            rows.append(cotangent)
        yield rows[::-1]
