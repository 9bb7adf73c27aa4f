"""PEPITA: a second forward pass on an input that the error has changed.

    X' = X + B·E F_0                      F_0: C×N_0; B·E is the error of each sample
    H_l, H_l'                             outputs of block l's activation in the two passes
    (H_l − H_l')/B                        error signal at block l's pre-activation: no derivative of the
                                          activation enters
    ∇W_l = (H_l − H_l')ᵀ H_{l-1}' / B     with no norm between weights and activation
    ∇W_L = Eᵀ H_{L-1}'                    the output layer's error meets the second pass's activity

Where a norm (or a residual branch) stands between the weights and the activation, the signal is pulled
back through it as in every local vjp. Both passes use the same dropout masks; running statistics follow
the first. Two forward passes, no backward pass; the activations of both are kept. No layer is exact; the
output layer nearly is.
Random: F_0 ~ U(±√(6/N_0))·0.05. Inputs should lie in [0, 1], and rates be those of SGD.
Source: Dellaferrera & Kreiman, "Error-driven Input Modulation: Solving the Credit Assignment Problem
without a Backward Pass", ICML 2022, arXiv 2201.11665.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network, split_at_activation
from fdfa_cli.network.layers import Chain, Mode, Tensors
from fdfa_cli.network.losses import Batch
from fdfa_cli.registry import RULES
from fdfa_cli.rules.base import Rule, Update
from fdfa_cli.streams import Draw


@RULES.register
class Pepita(Rule):
    """PEPITA: the difference of two forward passes, the second on an input changed by the error."""

    name: Literal["pepita"] = "pepita"
    feedback_scale: Annotated[float, Field(gt=0, description="of F_0, times √(6/N_0)")] = 0.05

    exact: ClassVar[str] = "none"
    passes: ClassVar[str] = "2 forward"
    source: ClassVar[str] = "Dellaferrera & Kreiman 2022"
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        "optimizer": {"name": "sgd", "lr": 0.1},
        "data": {"normalize": "unit"},
    }

    def state(self, network: Network) -> dict[str, Draw]:
        """F_0 (C×N_0), fixed."""
        inputs = math.prod(network.shape)
        bound = self.feedback_scale * math.sqrt(6 / inputs)
        return {"feedback": Draw((network.classes, inputs), "uniform", bound)}

    def step(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch, perturbations: Tensors
    ) -> Update:
        """See `Rule.step`."""
        first = _activations(network, params, batch.x, batch.mode)
        logits, _ = network.output.forward(params, first.output, batch.mode)
        loss, error = batch.loss(logits)

        change = len(batch) * error @ state["feedback"].to(error.dtype)
        x = batch.x + change.view_as(batch.x).to(batch.x.dtype)
        mode = batch.mode.discarding()
        second = _activations(network, params, x, mode)
        _, kept = network.output.forward(params, second.output, mode)

        grads, _ = network.output.vjp(params, kept, error.to(x.dtype), need_dx=False)
        for before, after, block, saved in zip(
            first.activities, second.activities, first.heads, second.saved, strict=True
        ):
            grads |= block.vjp(params, saved, (before - after) / len(batch), need_dx=False)[0]
        return Update(grads, loss, logits)


class _Pass:
    """One forward pass, seen at every activation.

    `heads` are the blocks up to their pre-activation, `saved` what those kept, `activities` the outputs
    of the activations, `output` H_{L-1}.
    """

    heads: list[Chain]
    saved: list[Any]
    activities: list[torch.Tensor]
    output: torch.Tensor


def _activations(network: Network, params: Tensors, x: torch.Tensor, mode: Mode) -> _Pass:
    seen = _Pass()
    seen.heads, seen.saved, seen.activities = [], [], []
    for block in network.blocks:
        head, activation, tail = split_at_activation(block)
        z, kept = head.forward(params, x, mode)
        h, _ = activation.forward(params, z, mode)
        x, _ = tail.forward(params, h, mode)
        seen.heads.append(head)
        seen.saved.append(kept)
        seen.activities.append(h)
    seen.output = x
    return seen
