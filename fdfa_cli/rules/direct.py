"""Direct feedback alignment: the output error reaches every block through a fixed random matrix.

    G_l = E F_l              F_l: C×N_l, drawn once

The output layer is exact; hidden blocks follow a random direction that the forward weights come to align
with. No backward pass through the network: each block needs its local vjp only, in any order.
Source: Nøkland, "Direct Feedback Alignment Provides Learning in Deep Neural Networks", NeurIPS 2016.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Tensors
from fdfa_cli.network.losses import Batch
from fdfa_cli.registry import RULES
from fdfa_cli.rules.base import Rule, Update, feedback_name, feedback_signal
from fdfa_cli.streams import Draw, kaiming

FeedbackInit = Annotated[
    Literal["kaiming_uniform", "uniform"],
    Field(description="U(±√(6/N)) as the FDFA authors draw it, or U(±1/√N)"),
]


@RULES.register
class DirectFeedbackAlignment(Rule):
    """Direct feedback alignment: fixed random matrices carry the output error to every block."""

    name: Literal["dfa"] = "dfa"
    feedback_init: FeedbackInit = "kaiming_uniform"
    exact: ClassVar[str] = "output"
    passes: ClassVar[str] = "1 forward"
    source: ClassVar[str] = "Nøkland 2016"

    def state(self, network: Network) -> dict[str, Draw]:
        """F_l, C×N_l for every hidden block."""
        draws = {}
        for l, shape in enumerate(network.block_shapes):
            draw = kaiming((network.classes, math.prod(shape)))
            if self.feedback_init == "uniform":
                draw = Draw(draw.shape, "uniform", 1 / math.sqrt(draw.shape[1]))
            draws[feedback_name(l)] = draw
        return draws

    def step(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch, perturbations: Tensors
    ) -> Update:
        """See `Rule.step`."""
        h, saved = batch.x, []
        for block in network.blocks:
            h, kept = block.forward(params, h, batch.mode)
            saved.append(kept)
        logits, kept = network.output.forward(params, h, batch.mode)
        loss, error = batch.loss(logits)

        grads, _ = network.output.vjp(params, kept, error, need_dx=False)
        for l, block in enumerate(network.blocks):
            signal = feedback_signal(error, state[feedback_name(l)], network.block_shapes[l])
            grads |= block.vjp(params, saved[l], signal, need_dx=False)[0]
        return Update(grads, loss, logits)
