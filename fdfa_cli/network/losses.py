"""Losses, each with its gradient at the logits: `E` (B×C), the error every rule starts from.

All are means over the batch, so E already carries 1/B and no rule divides again. Values and gradients
equal torch's `cross_entropy`, `mse_loss` and `binary_cross_entropy_with_logits` (the last two against
one-hot targets, mean over the B×C entries).

Targets and log-probabilities lie in memory class by class: along a short last axis torch's `log_softmax` goes
sample by sample, which for a stack of trials takes six times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from fdfa_cli.lazy import F, torch
from fdfa_cli.network.layers.base import Mode

#: (logits B×C, labels B) ↦ (loss, E); the loss a 0-dimensional tensor.
Loss = Callable[["torch.Tensor", "torch.Tensor"], "tuple[torch.Tensor, torch.Tensor]"]


def one_hot(labels: torch.Tensor, classes: int, dtype: torch.dtype) -> torch.Tensor:
    """Targets T (B×C): 1 at each sample's label, 0 elsewhere."""
    return _hot(labels, classes, dtype).mT


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """−mean_b log softmax(z_b)[label_b];  E = (softmax(z) − T)/B."""
    log_probabilities = logits.mT.log_softmax(-2)
    target = _hot(labels, logits.shape[-1], logits.dtype)
    loss = (log_probabilities * target).sum() / -len(logits)
    return loss, ((log_probabilities.exp() - target) / len(logits)).mT


def mse(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over B×C of (z − T)²;  E = 2(z − T)/(BC)."""
    difference = logits - one_hot(labels, logits.shape[-1], logits.dtype)
    return difference.square().mean(), difference * (2 / difference.numel())


def bce(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over B×C of the binary cross-entropy of σ(z) against T;  E = (σ(z) − T)/(BC)."""
    target = one_hot(labels, logits.shape[-1], logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, target)
    return loss, (logits.sigmoid() - target) / logits.numel()


def correct(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How many samples have their highest score at their label.

    Found by ``max``, because ``argmax`` takes eight times as long on logits that lie class by class.
    """
    return (logits.max(-1).indices == labels).sum()


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mse, "bce": bce}


@dataclass(frozen=True)
class Batch:
    """One step's data: inputs `x` (B, …), `labels` (B) int64, the forward mode, and the loss."""

    x: torch.Tensor
    labels: torch.Tensor
    mode: Mode
    loss_function: Loss

    def __len__(self) -> int:
        return len(self.x)

    def loss(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss and its gradient E (B×C) at the logits, in fp32 at least."""
        return self.loss_function(in_full_precision(logits), self.labels)


def in_full_precision(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in float32 where it is of a narrower type."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def _hot(labels: torch.Tensor, classes: int, dtype: torch.dtype) -> torch.Tensor:
    """The targets transposed, Tᵀ (C×B)."""
    return (labels.unsqueeze(-2) == _numbers(classes, labels.device)).to(dtype)


@cache
def _numbers(classes: int, device: torch.device) -> torch.Tensor:
    """The labels 0 … C − 1 as a column (C×1)."""
    return torch.arange(classes, device=device)[:, None]
