"""What a learning rule is.

A rule answers one question: which error signal `G_l` (B×N_l) reaches the output of block l? Everything
else is the layers' own calculus. In the notation of every file here (row vectors):

    H_0 = X, H_l        output of block l;     Z_L   logits (B×C)
    E  (B×C)            gradient of the mean loss with respect to the logits; carries the 1/B
    G_l (B×N_l)         error signal at block l's output
    J_l[b] (C×N_l)      Jacobian of sample b's logits with respect to H_l
    local vjp at l      pull G_l back through block l's pool, activation, norm and weights, no further

A rule is a frozen model: its fields are its options, `state` declares the tensors it keeps between steps
and `perturbations` the random tensors of one step, both as `Draw`s, and `step` is a pure function of
parameters, state, batch and perturbations. The loop samples the draws, applies the optimizers, and knows
no rule by name; `torch.func.vmap` may stack trials over `step`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fdfa_cli.errors import Unsupported
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Mode, Tensors
from fdfa_cli.network.layers.memory import from_units, units
from fdfa_cli.network.layers.products import inner, times_transposed
from fdfa_cli.network.losses import Batch
from fdfa_cli.registry import Named
from fdfa_cli.streams import Draw
from fdfa_cli.train.optimizers import Optimizer
from fdfa_cli.train.schedules import Schedule


@dataclass(frozen=True)
class Update:
    """What one step of a rule gives.

    `grads` are gradients for every parameter that learns, `state_grads` those for entries of the state
    that learn (applied by the rule's feedback optimizer), `state` new values for entries that are
    simply replaced. `loss` is the mean training loss, `logits` B×C.
    """

    grads: Tensors
    loss: torch.Tensor
    logits: torch.Tensor
    state_grads: Tensors = field(default_factory=dict)
    state: Tensors = field(default_factory=dict)


class Rule(Named):
    """A learning rule, by its options."""

    #: Which layers receive their exact gradient.
    exact: ClassVar[str]
    #: Cost of a step in passes through the network, forward and backward.
    passes: ClassVar[str]
    #: The paper.
    source: ClassVar[str]
    #: Section defaults under which the rule works; a recipe's own values come first.
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {"optimizer": {"name": "adam", "lr": 1e-3}}

    def check(self, network: Network, loss: str) -> None:
        """Raise `Unsupported` where the rule cannot run on `network` or `loss`. Needs no data."""

    def state(self, network: Network) -> dict[str, Draw]:
        """Tensors kept between steps, with the law of their initial value."""
        return {}

    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        """Random tensors of step number `step` (from 0) on a batch of `batch_size`."""
        return {}

    def weight_training(self, optimizer: Optimizer, schedule: Schedule) -> tuple[Optimizer, Schedule]:
        """Optimizer and schedule for the weights; by default the recipe's, given here."""
        return optimizer, schedule

    def feedback_training(self, optimizer: Optimizer, schedule: Schedule) -> tuple[Optimizer, Schedule]:
        """Optimizer and schedule for the state's gradients; by default the weights' own, given here."""
        return optimizer, schedule

    @abstractmethod
    def step(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch, perturbations: Tensors
    ) -> Update:
        """Gradients and new state of one batch; pure."""

    # --- what diagnostics may ask; no training depends on it ------------------------------------------

    def direct_feedback(self, network: Network, state: Tensors) -> dict[int, torch.Tensor]:
        """F_l (C×N_l) of every block whose output hears from the logits through such a matrix."""
        return {}

    def feedback(self, network: Network, params: Tensors, state: Tensors, perturbations: Tensors) -> Tensors:
        """What a backward pass reads in the place of weights, by the weight's name."""
        return {}

    def gradient_variance(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch
    ) -> dict[int, float]:
        """Closed form of Σ_i Var ĝ_i over the parameters of block l, for the blocks where there is one.

        Over fresh perturbations on `batch`, with the weights held still; a state that follows the
        perturbations is at its stationary law.
        """
        return {}

    def predict(self, network: Network, params: Tensors, buffers: Tensors, x: torch.Tensor) -> torch.Tensor:
        """Scores (B×C) of `x` in evaluation mode, highest for the predicted class."""
        return network.predict(params, buffers, x)


def forward_blocks(
    network: Network, params: Tensors, x: torch.Tensor, mode: Mode
) -> tuple[torch.Tensor, list[Any]]:
    """The last hidden block's output H_{L-1}, and what every block saved.

    Whoever takes a block's out of the list before its vjp lets it be freed after.
    """
    saved = []
    for block in network.blocks:
        x, kept = block.forward(params, x, mode)
        saved.append(kept)
    return x, saved


def require_transposable(rule: Rule, network: Network) -> None:
    """Raise `Unsupported` where a layer's weights cannot be replaced in the backward pass."""
    for layer, _ in network.leaves():
        if not layer.transposable:
            raise Unsupported(
                f"rule {rule.name!r} replaces the weights in the backward pass, which {layer.name!r}, a "
                "wrapped module, does not allow; dfa, fdfa and bp work there"
            )


def feedback_name(block: int) -> str:
    """Name of block `block`'s feedback in a rule's state."""
    return f"feedback.{block}"


def feedback_signal(error: torch.Tensor, feedback: torch.Tensor) -> torch.Tensor:
    """G_l = E F_l for E (B×C) and F_l (C×N_l), both with their units in the shape of block l's output."""
    if feedback.ndim == 2:
        return times_transposed(error.to(feedback.dtype), feedback.t())
    return from_units(inner(error.to(feedback.dtype), units(feedback).t()), tuple(feedback.shape[1:]))


def gathered(e: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Eᵀ H_l (C×N_l) for E (B×C) and H_l (B×N_l), both with their units in the shape of block l's output."""
    rows = e.t().contiguous()  # contiguous: two thirds of the time
    return from_units(inner(rows, units(h).t()), tuple(h.shape[1:]))
