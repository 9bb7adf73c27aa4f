"""What a learning rule is.

A rule answers one question: which error signal `G_l` (B×N_l) reaches the output of block l? Everything
else is the layers' own calculus. In the notation of every file here (row vectors):

    H_0 = X, H_l        output of block l;     Z_L   logits (B×C)
    E  (B×C)            gradient of the mean loss with respect to the logits; carries the 1/B
    G_l (B×N_l)         error signal at block l's output
    J_l[b] (C×N_l)      Jacobian of sample b's logits with respect to H_l
    local vjp at l      pull G_l back through block l's pool, activation, norm and weights, no further

A rule is a frozen model: its fields are its options, `state` declares the tensors it keeps between steps
and `perturbations` the random tensors of one step, both as `Draw`s; `step` is a pure function of a `Step`.
The loop samples the draws, applies the optimizers, and knows no rule by name; `torch.func.vmap` may stack
trials over `step`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fdfa_cli.errors import Unsupported
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Tensors
from fdfa_cli.optim.optimizers import Optimizer
from fdfa_cli.optim.schedules import Schedule
from fdfa_cli.registry import Named, Registry
from fdfa_cli.rules.step import Step, Update
from fdfa_cli.streams import Draw


@dataclass(frozen=True)
class Holding:
    """What a step of a rule holds in memory at its peak, by which a training's memory is estimated.

    passes         how many sets of activations are kept for the derivatives
    in_turn        whether they are those of one block at a time, freed before the next block runs
    passing        how many inputs and outputs of the widest layer are held at once: values and tangents
    weights        how many tensors as large as all parameters: gradients, other weights on the way back
    perturbations  how many copies of the step's perturbations, themselves included
    """

    passes: float = 1
    in_turn: bool = False
    passing: float = 2
    weights: float = 1
    perturbations: float = 1


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
    #: Options of type float that `step` needs as Python numbers: it branches on them, or hands them to a
    #: function that takes no tensor (``if self.decay:``, ``math.sqrt(self.rate)``). Trials that differ in one
    #: are not stacked; all other floats enter a stacked `step` as tensors without axes where trials differ.
    shared_options: ClassVar[frozenset[str]] = frozenset()

    def check(self, network: Network, loss: str) -> None:
        """Raise `Unsupported` where the rule cannot run on `network` or with `loss`, naming what would work.

        Called before any data is loaded.
        """

    def state(self, network: Network) -> dict[str, Draw]:
        """Tensors that the rule keeps between steps, by name, with the law of their initial value.

        A `step` changes them by `Update.state`, or has an optimizer move them along `Update.state_grads`.
        """
        return {}

    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        """Random tensors that step number `step` (from 0) needs on a batch of `batch_size`, by name.

        They are drawn anew for every step, and handed to it as `Step.perturbations`.
        """
        return {}

    def weight_training(self, optimizer: Optimizer, schedule: Schedule) -> tuple[Optimizer, Schedule]:
        """Optimizer and schedule of the weights: by default those of the recipe, which are given here."""
        return optimizer, schedule

    def feedback_training(self, optimizer: Optimizer, schedule: Schedule) -> tuple[Optimizer, Schedule]:
        """Optimizer and schedule that follow `Update.state_grads`: by default the recipe's, given here."""
        return optimizer, schedule

    def holding(self) -> Holding:
        """What a step holds in memory at its peak: by default all activations, as backprop does."""
        return Holding()

    @abstractmethod
    def step(self, s: Step) -> Update:
        """The gradients and the new state that the rule makes of one batch.

        `s` holds everything that the rule may read (see `Step` for names, shapes and types). A rule is a pure
        function of it: it holds no generator, changes no tensor, and branches on no tensor's value, so it can
        be resumed exactly, stacked over trials, and tested with fixed perturbations. The update names every
        parameter that learns; parameters without a gradient stay as they are.
        """

    def predict(self, network: Network, params: Tensors, buffers: Tensors, x: torch.Tensor) -> torch.Tensor:
        """Scores (B×C) of `x` in evaluation mode, highest for the predicted class."""
        return network.predict(params, buffers, x)

    # --- what diagnostics may ask; no training depends on it ------------------------------------------

    def direct_feedback(self, s: Step) -> dict[int, torch.Tensor]:
        """F_l (C×N_l) of every block whose output hears from the logits through such a matrix."""
        return {}

    def backward_weights(self, s: Step) -> Tensors:
        """{name of a weight: what a backward pass reads in its place}, in the weight's shape."""
        return {}

    def gradient_variance(self, s: Step) -> dict[int, float]:
        """Closed form of Σ_i Var ĝ_i over the parameters of block l, for the blocks where there is one.

        The variance is over fresh perturbations on the batch of `s`, with the weights held still; a state
        that follows the perturbations is at its stationary law.
        """
        return {}


RULES: Registry[Rule] = Registry("rule", "fdfa_cli.rules")


def require_transposable(rule: Rule, network: Network) -> None:
    """Raise `Unsupported` where a layer's weights cannot be replaced in the backward pass."""
    for layer, _ in network.leaves():
        if not layer.transposable:
            raise Unsupported(
                f"rule {rule.name!r} replaces the weights in the backward pass, which {layer.name!r}, a "
                "wrapped module, does not allow; dfa, fdfa and bp work there"
            )
