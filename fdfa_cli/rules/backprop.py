"""Backpropagation, the yardstick.

    G_{L-1} = E W_L,   G_{l-1} = vjp of block l at G_l

Every layer is exact; nothing is random. One forward and one backward pass; all activations are kept.
Source: Rumelhart, Hinton & Williams, Nature 323 (1986).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from typing_extensions import override

from fdfa_cli.rules.base import RULES, Rule
from fdfa_cli.rules.step import Step, Update


@RULES.register
class Backprop(Rule):
    """Backpropagation: the exact gradient, by reverse-mode differentiation."""

    name: Literal["bp"] = "bp"
    exact: ClassVar[str] = "all"
    passes: ClassVar[str] = "1 forward, 1 backward"
    source: ClassVar[str] = "Rumelhart et al. 1986"

    @override
    def step(self, s: Step) -> Update:
        return s.forward().backward()
