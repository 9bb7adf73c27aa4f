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

from typing_extensions import override

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Tensors
from fdfa_cli.rules.base import RULES, Holding, Rule, require_transposable
from fdfa_cli.rules.step import Step, Update
from fdfa_cli.streams import Draw


def matrices(network: Network) -> dict[str, Draw]:
    """The weights a backward pass transposes: all of two or more axes but the first layer's."""
    return dict([(name, draw) for name, draw in network.parameters().items() if len(draw.shape) > 1][1:])


class TransportedBackprop(Rule):
    """Backprop whose backward pass reads `backward_weights` in the place of the weights."""

    exact: ClassVar[str] = "output"
    passes: ClassVar[str] = "1 forward, 1 backward"

    @override
    def check(self, network: Network, loss: str) -> None:
        require_transposable(self, network)

    @abstractmethod
    @override
    def backward_weights(self, s: Step) -> Tensors: ...

    @override
    def step(self, s: Step) -> Update:
        return s.forward().backward({**s.params, **self.backward_weights(s)})


class AlignedFeedback(TransportedBackprop):
    """Feedback F_l of W_l's shape and initial law, kept in the state."""

    @override
    def state(self, network: Network) -> dict[str, Draw]:
        return {f"feedback.{name}": draw for name, draw in matrices(network).items()}

    @override
    def backward_weights(self, s: Step) -> Tensors:
        return {name: s.state[f"feedback.{name}"] for name in matrices(s.network)}


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

    @override
    def holding(self) -> Holding:
        return Holding(weights=2)  # the feedback beside the gradients

    @override
    def backward_weights(self, s: Step) -> Tensors:
        # The standard deviation of U(±b) is b/√3.
        deviation = {name: draw.scale / math.sqrt(3) for name, draw in matrices(s.network).items()}
        return {name: s.params[name].sign() * size for name, size in deviation.items()}


class _RandomSize(TransportedBackprop):
    source: ClassVar[str] = "Liao et al. 2016; Sanfiz & Akrout 2021"

    @override
    def holding(self) -> Holding:
        return Holding(weights=2)  # the feedback beside the gradients

    @override
    def backward_weights(self, s: Step) -> Tensors:
        size = {**s.state, **s.perturbations}  # M is in the one or in the other
        return {name: torch.copysign(size[f"size.{name}"], s.params[name]) for name in matrices(s.network)}


@RULES.register
class BatchwiseRandomSignFeedback(_RandomSize):
    """Batch-wise random sign-concordant feedback: the weights' signs, sizes redrawn every step."""

    name: Literal["brsf"] = "brsf"

    @override
    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        return {f"size.{name}": draw for name, draw in matrices(network).items()}


@RULES.register
class FixedRandomSignFeedback(_RandomSize):
    """Fixed random sign-concordant feedback: the weights' signs, sizes drawn once."""

    name: Literal["frsf"] = "frsf"

    @override
    def state(self, network: Network) -> dict[str, Draw]:
        return {f"size.{name}": draw for name, draw in matrices(network).items()}
