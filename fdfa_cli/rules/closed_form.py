"""What the closed forms of variances need: a block as one linear map, and each sample's own slopes.

For a block that is a linear layer, elementwise functions after it and nothing else that has parameters,
the gradients of its parameters for an error signal G (B×N) at its output are

    ∇[W b] = (G ∘ S)ᵀ [X 1]          S: slope from the linear layer's output to the block's,  X: its input
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.jacobian import jacobian_rows
from fdfa_cli.network.layers import Activation, Chain, Dropout, Flatten, Linear, Tensors
from fdfa_cli.network.losses import Batch


class LinearBlock(NamedTuple):
    """`inputs` [X 1] (B×(N_in + 1), or B×N_in without a bias) and `slope` S (B×N)."""

    inputs: torch.Tensor
    slope: torch.Tensor


class Pass(NamedTuple):
    """One forward pass: every block's output and what it saved, the output layer last; and E (B×C)."""

    outputs: list[torch.Tensor]
    saved: list[Any]
    error: torch.Tensor


def samples_are_independent(network: Network) -> bool:
    """Whether each sample's logits depend on that sample alone."""
    return all(layer.independent for layer, _ in network.leaves())


def forward_pass(network: Network, params: Tensors, batch: Batch) -> Pass:
    """A pass without effect on running statistics."""
    x, outputs, saved, mode = batch.x, [], [], batch.mode.discarding()
    for block in (*network.blocks, network.output):
        x, kept = block.forward(params, x, mode)
        outputs.append(x)
        saved.append(kept)
    return Pass(outputs, saved, batch.loss(x)[1].to(x.dtype))


def as_linear(block: Chain, params: Tensors, saved: list[Any]) -> LinearBlock | None:
    """`block` as one linear map of what came in; None where it is none."""
    own = block.first_with_parameters
    if own == len(block.layers):
        return None
    linear, before, after = block.layers[own], block.layers[:own], block.layers[own + 1 :]
    elementwise = all(isinstance(layer, Activation | Dropout) for layer in after)
    plain = all(isinstance(layer, Activation | Dropout | Flatten) for layer in before)
    if not isinstance(linear, Linear) or not elementwise or not plain:
        return None
    x = saved[own]
    slope: torch.Tensor | None = x.new_ones(len(x), linear.outputs)
    for i in reversed(range(own + 1, len(block.layers))):
        assert slope is not None
        _, slope = block.layers[i].vjp(params, saved[i], slope)
    assert slope is not None
    inputs = torch.cat((x, x.new_ones(len(x), 1)), 1) if linear.bias else x
    return LinearBlock(inputs, slope)


def jacobians(network: Network, params: Tensors, batch: Batch) -> list[torch.Tensor]:
    """J_l[b] of every block, B×C×N_l."""
    rows = list(jacobian_rows(network, params, batch.x, batch.mode.discarding()))
    return [torch.stack([row[l].flatten(1) for row in rows], 1) for l in range(len(network.blocks))]
