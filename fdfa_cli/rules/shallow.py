"""The floor every rule must beat: only the output layer learns, on the features of a random network.

    ∇W_L exact, nothing else moves (running statistics of batch norm do, as in every forward pass)

One forward pass; no activation is kept but the output layer's input.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Tensors
from fdfa_cli.network.losses import Batch
from fdfa_cli.registry import RULES
from fdfa_cli.rules.base import Rule, Update


@RULES.register
class Shallow(Rule):
    """Only the output layer learns: the floor every rule must beat."""

    name: Literal["shallow"] = "shallow"
    exact: ClassVar[str] = "output (the only one that learns)"
    passes: ClassVar[str] = "1 forward"
    source: ClassVar[str] = "baseline"

    def step(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch, perturbations: Tensors
    ) -> Update:
        """See `Rule.step`."""
        h = batch.x
        for block in network.blocks:
            h, _ = block.forward(params, h, batch.mode)
        logits, kept = network.output.forward(params, h, batch.mode)
        loss, error = batch.loss(logits)
        grads, _ = network.output.vjp(params, kept, error.to(h.dtype), need_dx=False)
        return Update(grads, loss, logits)
