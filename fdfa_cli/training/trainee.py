"""What the loop moves: one training's state, or several stacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fdfa_cli.data.base import Subset
    from fdfa_cli.lazy import torch
    from fdfa_cli.training.state import TrainState


class Trainee(Protocol):
    """One training's `TrainState`, or a `StackedTrainState` of K of them that are at the same step."""

    device: torch.device
    #: The loss summed over the epoch's samples (see `total`): a number, or K of them.
    loss_sum: torch.Tensor

    @property
    def states(self) -> Sequence[TrainState]:
        """The states that move."""

    @property
    def steps(self) -> int:
        """Steps in an epoch."""

    @property
    def position(self) -> int:
        """Steps done in this epoch."""

    def advance(self, data: Subset) -> None:
        """Take the next step on its batch of `data`, the training set; a stack's trials each on their own."""

    def score(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss of a batch in evaluation mode and how many of it are classified correctly: () or (K)."""

    def settle(self) -> None:
        """Make every state whole, so that it can be stored or go on alone."""
