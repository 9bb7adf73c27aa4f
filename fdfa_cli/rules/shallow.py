"""The floor every rule must beat: only the output layer learns, on the features of a random network.

    ∇W_L exact, nothing else moves (running statistics of batch norm do, as in every forward pass)

One forward pass; no activation is kept but the output layer's input.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from typing_extensions import override

from fdfa_cli.rules.base import RULES, Holding, Rule
from fdfa_cli.rules.step import Step, Update


@RULES.register
class Shallow(Rule):
    """Only the output layer learns: the floor every rule must beat."""

    name: Literal["shallow"] = "shallow"
    exact: ClassVar[str] = "output (the only one that learns)"
    passes: ClassVar[str] = "1 forward"
    source: ClassVar[str] = "baseline"

    @override
    def holding(self) -> Holding:
        return Holding(in_turn=True, passing=1, weights=0)  # nothing comes back to hidden blocks

    @override
    def step(self, s: Step) -> Update:
        h = s.batch.x
        for block in s.network.blocks:
            h = block.forward(s.params, h, s.batch.mode)[0]
        return s.output(h).update()
