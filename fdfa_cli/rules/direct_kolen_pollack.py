"""Direct Kolen-Pollack: direct feedback that learns from the product of error and activity.

    G_l = E F_l               as in direct feedback alignment
    ∇F_l = Eᵀ H_l             followed by an optimizer of its own; W and F decay alike

F learns as Kolen and Pollack had it: F_l moves with the product of the same two signals as the weights it
stands for (at the last hidden block ∇F_l = ∇W_L), and the decay on both makes their difference die out. The
output layer is exact. One forward pass, no backward pass. Random: the initial F.
Source: Webster, Choi & Ahn, "Learning the Connections in Direct Feedback Alignment", arXiv 2104.08078.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.optim.optimizers import OPTIMIZERS, Adam, Optimizer
from fdfa_cli.optim.schedules import Constant, Schedule
from fdfa_cli.registry import Choice
from fdfa_cli.rules.base import RULES
from fdfa_cli.rules.direct import DirectFeedback
from fdfa_cli.rules.step import Step, Update, feedback_signal, gathered


@RULES.register
class DirectKolenPollack(DirectFeedback):
    """Direct Kolen-Pollack: direct feedback that learns from the product of error and activity."""

    name: Literal["dkp"] = "dkp"
    decay: Annotated[float, Field(ge=0, description="λ, of weights and feedback alike; part of the rule")] = (
        1e-6
    )
    feedback_optimizer: Annotated[Optimizer, Choice(OPTIMIZERS), Field(description="that follows ∇F")] = Adam(
        lr=1e-4
    )
    source: ClassVar[str] = "Webster et al. 2021"

    @override
    def weight_training(self, optimizer: Optimizer, schedule: Schedule) -> tuple[Optimizer, Schedule]:
        return self._decaying(optimizer), schedule

    @override
    def feedback_training(self, optimizer: Optimizer, schedule: Schedule) -> tuple[Optimizer, Schedule]:
        return self._decaying(self.feedback_optimizer), Constant()

    def _decaying(self, optimizer: Optimizer) -> Optimizer:
        return optimizer.model_copy(update={"weight_decay": optimizer.weight_decay + self.decay})

    @override
    def step(self, s: Step) -> Update:
        trace = s.forward(outputs=True)
        learning = {l: gathered(trace.E, H) for l, H in enumerate(trace.outputs)}
        return trace.update((feedback_signal(trace.E, F) for F in s.feedback), feedback_gradients=learning)
