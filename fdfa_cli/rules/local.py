"""Local greedy losses: every block learns from a classifier of its own, cut off from the blocks above.

Block l has a linear head (the last hidden block's is the output layer); with the head's logits Z_l, loss
and error E_l:

    G_l = E_l W_head        the exact gradient of the local loss

Heads and output layer have their exact gradient, hidden blocks that of their local loss. Random: the heads'
initial weights. One forward pass; each block's activations are freed before the next block runs, so that peak
memory does not grow with depth but for the parameters and their gradients (`python benchmarks/memory.py`).
Source: Belilovsky, Eickenberg & Oyallon, ICML 2019.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal

from typing_extensions import override

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Chain, Flatten, Linear
from fdfa_cli.rules.base import RULES, Holding, Rule
from fdfa_cli.rules.step import Step, Trace, Update
from fdfa_cli.streams import Draw


class LocalGreedy(Rule):
    """Every block has a head, a linear classifier; `block_step` says how the block learns from it."""

    exact: ClassVar[str] = "output and heads"
    passes: ClassVar[str] = "1 forward"

    def heads(self, network: Network) -> list[Chain]:
        """Linear classifiers on every hidden block's output; the last one is the output layer."""
        own = [
            Chain((Flatten(), Linear(math.prod(shape), network.classes))).named(f"head.{l}")
            for l, shape in enumerate(network.block_shapes[:-1])
        ]
        return [*own, network.output]

    @override
    def state(self, network: Network) -> dict[str, Draw]:
        return {name: draw for head in self.heads(network)[:-1] for name, draw in head.parameters().items()}

    @override
    def holding(self) -> Holding:
        return Holding(in_turn=True)  # no block waits for another

    @override
    def step(self, s: Step) -> Update:
        if not s.network.blocks:
            return s.output(s.batch.x).update()
        s = replace(s, params={**s.params, **s.state})
        h, grads = s.batch.x, dict[str, torch.Tensor]()
        for block, head in zip(s.network.blocks, self.heads(s.network), strict=True):
            h, local, some = self.block_step(s, block, head, h)
            grads |= some
        head_grads = {name: grads.pop(name) for name in s.state}
        return Update(grads, local.loss, local.Z, head_grads)

    @abstractmethod
    def block_step(
        self, s: Step, block: Chain, head: Chain, x: torch.Tensor
    ) -> tuple[torch.Tensor, Trace, dict[str, torch.Tensor]]:
        """H_l, the local classification, and the gradients of block and head, for the block's input `x`."""


@RULES.register
class LocalBackprop(LocalGreedy):
    """Local greedy backprop: the exact gradient of every block's own loss."""

    name: Literal["lg-bp"] = "lg-bp"
    source: ClassVar[str] = "Belilovsky et al. 2019"

    @override
    def block_step(
        self, s: Step, block: Chain, head: Chain, x: torch.Tensor
    ) -> tuple[torch.Tensor, Trace, dict[str, torch.Tensor]]:
        h, saved = block.forward(s.params, x, s.batch.mode)
        local = s.output(h, layer=head)
        grads, signal = head.vjp(s.params, local.saved_by_output, s.cast(local.E))
        assert signal is not None  # asked for
        return h, local, grads | s.vjp(block, saved, signal)
