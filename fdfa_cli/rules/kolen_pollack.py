"""Feedback alignment with feedback that learns to be the transposed weights.

    kp     ∇F_l = ∇W_l, and both decay: ∇W_l + λW_l, ∇F_l + λF_l
    wm     between steps, noise x goes in at a layer, and F_l ← normalise(F_l + η (y − ȳ)ᵀ x / M)

Kolen-Pollack: both receive the same increments, so W − F shrinks by the factor 1 − ηλ at every step of
SGD and dies out; without decay it would stay what it was at the start.

Weight mirror: x is zero-mean noise at the layer's input (M samples) and y = f_l(x) the layer's response.
Since E[yᵀx] = W for x of unit variance, F grows along W. The mean of y over the samples is removed, for
a bias would add a term that is not W; the norm of F is kept at its initial value.

The backward pass is that of feedback alignment; the output layer is exact. One forward and one backward
pass, all activations kept (wm: and one more forward and one weight gradient a layer, of M samples).
Random: initial F; in wm, x.
Source: Akrout, Wilson, Humphreys, Lillicrap & Tweed, "Deep Learning without Weight Transport",
NeurIPS 2019, arXiv 1904.05391.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Layer, Mode
from fdfa_cli.rules.alignment import AlignedFeedback, matrices
from fdfa_cli.rules.base import RULES, Holding
from fdfa_cli.rules.step import Step, Update
from fdfa_cli.streams import Draw, Shape


@RULES.register
class KolenPollack(AlignedFeedback):
    """Kolen-Pollack: feedback receives the weights' own increments, and both decay."""

    name: Literal["kp"] = "kp"
    decay: Annotated[float, Field(ge=0, description="λ, of weights and feedback alike")] = 1e-3
    source: ClassVar[str] = "Akrout et al. 2019"
    # Rates that adapt to each entry would give W and F different increments for the same gradient.
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}
    }

    @override
    def holding(self) -> Holding:
        return Holding(weights=2)  # the feedback's gradients beside the weights'

    @override
    def step(self, s: Step) -> Update:
        update, names = super().step(s), matrices(s.network)
        grads = {
            name: grad + self.decay * s.params[name] if name in names else grad
            for name, grad in update.grads.items()
        }
        feedback_grads = {
            f"feedback.{name}": update.grads[name] + self.decay * s.state[f"feedback.{name}"]
            for name in names
        }
        return replace(update, grads=grads, state_grads=feedback_grads)


@RULES.register
class WeightMirror(AlignedFeedback):
    """Weight mirror: between steps, noise through each layer turns its feedback towards its weights."""

    name: Literal["wm"] = "wm"
    mirror_rate: Annotated[float, Field(gt=0, description="η, of the mirror's increments")] = 0.1
    mirror_samples: Annotated[int, Field(ge=2, description="M, noise samples a step")] = 16
    source: ClassVar[str] = "Akrout et al. 2019"
    passes: ClassVar[str] = "1 forward, 1 backward, and a layerwise forward of M noise samples"

    @override
    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        return {
            layer.name: Draw((self.mirror_samples, *shape), "gaussian")
            for layer, shape in mirrored_layers(network)
        }

    @override
    def holding(self) -> Holding:
        return Holding(weights=2)  # the turned feedback beside the gradients

    @override
    def step(self, s: Step) -> Update:
        laws, mirrored = matrices(s.network), {}
        for layer, _ in mirrored_layers(s.network):
            name = layer.key("weight")
            x, feedback = s.perturbations[layer.name], s.state[f"feedback.{name}"]
            y, kept = layer.forward(s.params, x, Mode(training=True))
            increment = layer.vjp(s.params, kept, y - y.mean(0), need_dx=False)[0][name]
            grown = feedback + self.mirror_rate * increment / (y.numel() // y.shape[1])
            mirrored[f"feedback.{name}"] = grown * (_expected_norm(laws[name]) / grown.norm())
        return replace(super().step(s), state=mirrored)


def mirrored_layers(network: Network) -> list[tuple[Layer, Shape]]:
    """Every layer whose weights a backward pass transposes, with the shape of its input."""
    names = matrices(network)
    return [(layer, shape) for layer, shape in network.leaves() if layer.key("weight") in names]


def _expected_norm(draw: Draw) -> float:
    """The norm to expect of a tensor drawn from U(±scale): every entry has variance scale²/3."""
    return draw.scale * math.sqrt(math.prod(draw.shape) / 3)
