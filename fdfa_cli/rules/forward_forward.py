"""Forward-Forward: every block learns to tell true labels from false ones, both written into the input.

The first C entries of a sample are replaced by a one-hot label: the true one (positive data), or a wrong
one drawn uniformly (negative data). Block l's goodness is g = mean_n H_l[b, n]², and it minimises, over
positive and negative samples alike (s = ±1),

    L_l = mean softplus(−s (g − θ)),     ∂L_l/∂H_l[b] = −s σ(−s (g − θ))/(2B) · 2 H_l[b]/N_l

by its local vjp. Between blocks the activity is scaled to root mean square 1, so that a block cannot
read its predecessor's goodness.

Evaluation is part of the rule: a sample is scored with every label in turn, by the goodness summed over
all blocks but the first (over the first where it is the only one). The output layer learns by its exact
gradient from the activity under a neutral label (1/C everywhere); training loss and accuracy are its.

The output layer is exact; hidden blocks have the exact gradient of their own goodness loss. Three forward
passes (positive, negative, neutral); each block's activations are freed before the next block runs.
Random: the wrong labels. Inputs should lie in [0, 1].
Source: Hinton, "The Forward-Forward Algorithm: Some Preliminary Investigations", arXiv 2212.13345.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.errors import Unsupported
from fdfa_cli.lazy import F, torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Mode, Tensors
from fdfa_cli.network.losses import in_full_precision, one_hot
from fdfa_cli.rules.base import RULES, Holding, Rule
from fdfa_cli.rules.step import Step, Update
from fdfa_cli.streams import Draw


@RULES.register
class ForwardForward(Rule):
    """Forward-Forward: layer-local goodness of samples with true and with false labels."""

    name: Literal["ff"] = "ff"
    threshold: Annotated[float, Field(gt=0, description="θ, goodness that divides true from false")] = 3.0

    exact: ClassVar[str] = "output"
    passes: ClassVar[str] = "3 forward; C forward in evaluation"
    source: ClassVar[str] = "Hinton 2022"
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        "optimizer": {"name": "adam", "lr": 2e-3},
        "schedule": {"name": "cosine"},
        "data": {"normalize": "unit"},
    }

    @override
    def check(self, network: Network, loss: str) -> None:
        inputs = math.prod(network.shape)
        if inputs < network.classes:
            raise Unsupported(
                f"rule 'ff' writes the label into the first {network.classes} entries of the input, which "
                f"has only {inputs}; lg-bp and lg-fg-a learn locally without that"
            )
        if not network.blocks:
            raise Unsupported("rule 'ff' trains hidden blocks, and this network has none; try bp or shallow")
        if loss != "cross_entropy":
            raise Unsupported(
                f"rule 'ff' evaluates by goodness, which {loss} would compare with targets of 0 and 1; take "
                "training.loss=cross_entropy"
            )

    @override
    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        return {"wrong": Draw((batch_size,), "uniform")}  # in (−1, 1), see `wrong_labels`

    @override
    def holding(self) -> Holding:
        return Holding(passes=2, in_turn=True, passing=4)  # positive and negative samples pass together

    @override
    def step(self, s: Step) -> Update:
        classes, x = s.network.classes, s.batch.x
        wrong = wrong_labels(s.batch.labels, s.perturbations["wrong"], classes)
        labels = torch.cat((s.batch.labels, wrong))
        h = embed(torch.cat((x, x)), one_hot(labels, classes, x.dtype))
        sign = torch.ones_like(labels, dtype=torch.float32)
        sign[s.B :] = -1
        neutral = embed(x, torch.full_like(x.flatten(1)[:, :classes], 1 / classes))
        # Positive and negative sample share a dropout mask: they differ in their label alone.
        mode = s.batch.mode
        both = replace(mode, noise={name: torch.cat((mask, mask)) for name, mask in mode.noise.items()})

        grads: dict[str, torch.Tensor] = {}
        for block in s.network.blocks:
            h, kept = block.forward(s.params, h, both)
            slope = -sign * torch.sigmoid(-sign * (goodness(h) - self.threshold)) / len(labels)
            signal = (2 / h[0].numel()) * slope.view(-1, *(1,) * (h.ndim - 1)) * h
            grads |= s.vjp(block, kept, signal)
            del kept  # before the next block runs
            h = normalised(h)
            neutral = normalised(block.forward(s.params, neutral, mode.discarding())[0])
        trace = s.without_effect().output(neutral)
        return Update(grads | trace.output_gradients(), trace.loss, trace.Z)

    @override
    def predict(self, network: Network, params: Tensors, buffers: Tensors, x: torch.Tensor) -> torch.Tensor:
        mode = Mode(training=False, buffers=buffers)
        scores = []
        for label in range(network.classes):
            labels = torch.full((len(x),), label, device=x.device)
            h = embed(x, one_hot(labels, network.classes, x.dtype))
            total: list[torch.Tensor] = []
            for block in network.blocks:
                h = block.forward(params, h, mode)[0]
                total.append(goodness(h))
                h = normalised(h)
            scores.append(torch.stack(total[1:] or total).sum(0))
        return torch.stack(scores, dim=1)


def embed(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """`x` (B, …) with its first C entries replaced by `label` (B×C)."""
    return torch.cat((label, x.flatten(1)[:, label.shape[1] :]), dim=1).view_as(x)


def wrong_labels(labels: torch.Tensor, draw: torch.Tensor, classes: int) -> torch.Tensor:
    """A label other than the true one, uniform over the C − 1 others, from `draw` ~ U(−1, 1) (B)."""
    offset = 1 + ((draw + 1) / 2 * (classes - 1)).long().clamp(max=max(classes - 2, 0))
    return (labels + offset) % classes


def goodness(h: torch.Tensor) -> torch.Tensor:
    """Mean square activity of every sample (B), in fp32."""
    return in_full_precision(h.flatten(1)).square().mean(1)


def normalised(h: torch.Tensor) -> torch.Tensor:
    """Every sample's activity scaled to root mean square 1."""
    return F.rms_norm(h, h.shape[1:], eps=1e-8)
