"""Feedback alignment and its sign-symmetric kin: backprop with other weights on the way back.

The backward pass is the chain of vjps of backprop, with every weight W_l replaced by a feedback F_l of
W_l's shape; ∇W_l itself uses the true activations and errors.

    fa     F fixed, drawn like the initial weights
    usf    F = s·sign(W)         s: standard deviation of the initial weights
    brsf   F = |M|·sign(W)       M drawn like the initial weights, anew at every step
    frsf   F = |M|·sign(W)       M drawn once

The sign follows the current W. The output layer is exact. One forward and one backward pass, all
activations kept. Random: F or M.
Sources: Lillicrap et al., Nature Communications 7 (2016); Liao, Leibo & Poggio, AAAI 2016; Sanfiz &
Akrout, arXiv 2108.13446 (biotorch, whose names these are).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Tensors
from fdfa_cli.network.losses import Batch
from fdfa_cli.registry import RULES
from fdfa_cli.rules.base import Rule, Update, require_transposable
from fdfa_cli.streams import Draw


def matrices(network: Network) -> dict[str, Draw]:
    """The weights a backward pass transposes: all of two or more axes but the first layer's."""
    return dict([(name, draw) for name, draw in network.parameters().items() if len(draw.shape) > 1][1:])


class TransportedBackprop(Rule):
    """Backprop whose backward pass reads `feedback(params, …)` in the place of the weights."""

    exact: ClassVar[str] = "output"
    passes: ClassVar[str] = "1 forward, 1 backward"

    def check(self, network: Network, loss: str) -> None:
        """Every layer must let its weights be replaced."""
        require_transposable(self, network)

    @abstractmethod
    def feedback(self, network: Network, params: Tensors, state: Tensors, perturbations: Tensors) -> Tensors:
        """F_l under the name of the weight it replaces."""

    def step(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch, perturbations: Tensors
    ) -> Update:
        """See `Rule.step`."""
        logits, saved = network.chain.forward(params, batch.x, batch.mode)
        loss, error = batch.loss(logits)
        backward = {**params, **self.feedback(network, params, state, perturbations)}
        grads, _ = network.chain.vjp(backward, saved, error.to(logits.dtype), need_dx=False)
        return Update(grads, loss, logits)


class AlignedFeedback(TransportedBackprop):
    """Feedback F_l of W_l's shape and initial law, kept in the state."""

    def state(self, network: Network) -> dict[str, Draw]:
        """F_l for every weight that a backward pass transposes."""
        return {f"feedback.{name}": draw for name, draw in matrices(network).items()}

    def feedback(self, network: Network, params: Tensors, state: Tensors, perturbations: Tensors) -> Tensors:
        """The present F."""
        return {name: state[f"feedback.{name}"] for name in matrices(network)}


@RULES.register
class FeedbackAlignment(AlignedFeedback):
    """Feedback alignment: fixed random weights on the way back."""

    name: Literal["fa"] = "fa"
    source: ClassVar[str] = "Lillicrap et al. 2016"


@RULES.register
class UniformSignFeedback(TransportedBackprop):
    """Uniform sign-concordant feedback: the weights' signs, all of one size."""

    name: Literal["usf"] = "usf"
    source: ClassVar[str] = "Liao et al. 2016"

    def feedback(self, network: Network, params: Tensors, state: Tensors, perturbations: Tensors) -> Tensors:
        """s·sign(W); the standard deviation of U(±b) is b/√3."""
        deviation = {name: draw.scale / math.sqrt(3) for name, draw in matrices(network).items()}
        return {name: params[name].sign() * s for name, s in deviation.items()}


class _RandomSize(TransportedBackprop):
    source: ClassVar[str] = "Liao et al. 2016; Sanfiz & Akrout 2021"

    def feedback(self, network: Network, params: Tensors, state: Tensors, perturbations: Tensors) -> Tensors:
        """|M|·sign(W), with M from the perturbations or the state."""
        size = {**state, **perturbations}
        return {name: torch.copysign(size[f"size.{name}"], params[name]) for name in matrices(network)}


@RULES.register
class BatchwiseRandomSignFeedback(_RandomSize):
    """Batch-wise random sign-concordant feedback: the weights' signs, sizes redrawn every step."""

    name: Literal["brsf"] = "brsf"

    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        """M_t, like the initial weights."""
        return {f"size.{name}": draw for name, draw in matrices(network).items()}


@RULES.register
class FixedRandomSignFeedback(_RandomSize):
    """Fixed random sign-concordant feedback: the weights' signs, sizes drawn once."""

    name: Literal["frsf"] = "frsf"

    def state(self, network: Network) -> dict[str, Draw]:
        """M, like the initial weights."""
        return {f"size.{name}": draw for name, draw in matrices(network).items()}
