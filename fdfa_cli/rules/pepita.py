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
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field
from typing_extensions import override

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network, split_at_activation
from fdfa_cli.network.layers import Chain, Mode
from fdfa_cli.rules.base import RULES, Holding, Rule
from fdfa_cli.rules.step import Step, Update
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

    @override
    def state(self, network: Network) -> dict[str, Draw]:
        inputs = math.prod(network.shape)
        bound = self.feedback_scale * math.sqrt(6 / inputs)
        return {"feedback": Draw((network.classes, inputs), "uniform", bound)}

    @override
    def holding(self) -> Holding:
        return Holding(passes=2)  # the activations of both passes

    @override
    def step(self, s: Step) -> Update:
        first = seen_at_activations(s, s.batch.x, s.batch.mode)
        trace = s.output(first.output)
        change = s.cast((s.B * trace.E @ s.state["feedback"]).view_as(s.batch.x))
        second = seen_at_activations(s, s.batch.x + change, s.batch.mode.discarding())

        _, kept = s.network.output.forward(s.params, second.output, s.batch.mode.discarding())
        grads = s.vjp(s.network.output, kept, trace.E)
        for head, saved, before, after in zip(
            second.heads, second.saved, first.activities, second.activities, strict=True
        ):
            grads |= s.vjp(head, saved, (before - after) / s.B)
        return Update(grads, trace.loss, trace.Z)


class Pass(NamedTuple):
    """One forward pass, seen at every activation.

    heads       the blocks up to their pre-activation
    saved       what those need for their derivatives
    activities  the outputs of the activations
    output      H_{L-1}
    """

    heads: list[Chain]
    saved: list[Any]
    activities: list[torch.Tensor]
    output: torch.Tensor


def seen_at_activations(s: Step, x: torch.Tensor, mode: Mode) -> Pass:
    """A pass through the hidden blocks on the input `x` (B, *shape)."""
    heads, kept, activities = [], [], []
    for block in s.network.blocks:
        head, activation, tail = split_at_activation(block)
        z, saved = head.forward(s.params, x, mode)
        h, _ = activation.forward(s.params, z, mode)
        x, _ = tail.forward(s.params, h, mode)
        heads.append(head)
        kept.append(saved)
        activities.append(h)
    return Pass(heads, kept, activities, x)
