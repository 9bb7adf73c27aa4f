"""What a probe needs of a training in progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from fdfa_cli.lazy import torch
    from fdfa_cli.network.base import Network
    from fdfa_cli.network.layers import Mode
    from fdfa_cli.network.losses import Batch
    from fdfa_cli.recipe.schema import Recipe
    from fdfa_cli.rules.step import Update


class Training(Protocol):
    """A training in progress, whose tensors a probe reads; what it tries, it tries on a `twin`."""

    recipe: Recipe
    network: Network
    device: torch.device
    batch_size: int
    params: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    rule_state: dict[str, torch.Tensor]

    @property
    def steps(self) -> int:
        """Steps in an epoch."""

    @property
    def taken(self) -> int:
        """Steps taken so far, in all epochs."""

    def batch(self, x: torch.Tensor, labels: torch.Tensor, mode: Mode) -> Batch:
        """The batch that the rule gets of these inputs and labels."""

    def apply(self, update: Update) -> None:
        """Let the optimizers follow an update's gradients."""

    def twin(self) -> Self:
        """Another training in the same state; what is done to it does not reach this one."""
