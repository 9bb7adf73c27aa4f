"""GrAPE: feedback that aligns itself with forward estimates of the Jacobian.

The forward pass with a tangent, the error signal G_l = E F_l and the estimate Ĵ_l = dᵀ v_l / B are those
of FDFA. The feedback learns directions only: for every column k (one hidden unit's C numbers)

    L_k = 1 − cos(F_l[:, k], Ĵ_l[:, k]),    F_l[:, k] ← F_l[:, k] − η ∂L_k/∂F_l[:, k],   then to norm 1
    ∂L_k/∂f = −(ĵ/|ĵ| − cos(f, ĵ) f/|f|)/|f|

Every `calibrate_every` batches (0: never), the step is one of true backprop instead.
The output layer is exact. One forward pass with a tangent, all activations kept, as in FDFA. Random: v, and
the initial F ~ N(0, 1).
On MNIST (mnist/compare, 3 paired seeds) it ends 0.01 ± 0.07 points above dfa: two hidden blocks of 800 units
learn as well from fixed feedback.
Source: Caillon et al., "GrAPE", 2026 (no public code; written from the equations).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Tensors
from fdfa_cli.network.losses import Batch
from fdfa_cli.registry import RULES
from fdfa_cli.rules.backprop import Backprop
from fdfa_cli.rules.base import Update
from fdfa_cli.rules.fdfa import PerturbedForward
from fdfa_cli.streams import Draw


@RULES.register
class Grape(PerturbedForward):
    """GrAPE: direct feedback whose columns turn towards forward estimates of the Jacobian's."""

    name: Literal["grape"] = "grape"
    feedback_rate: Annotated[float, Field(gt=0, description="η, of the step on 1 − cos")] = 0.1
    calibrate_every: Annotated[
        int, Field(ge=0, description="batches from one true backprop step to the next; 0: never")
    ] = 0
    source: ClassVar[str] = "Caillon et al. 2026"

    def state(self, network: Network) -> dict[str, Draw]:
        """F_l ~ N(0, 1), C×N_l."""
        return {
            name: replace(draw, law="gaussian", scale=1.0) for name, draw in super().state(network).items()
        }

    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        """v_l; none at a calibration step."""
        if self.calibrate_every and (step + 1) % self.calibrate_every == 0:
            return {}
        return super().perturbations(network, batch_size, step)

    def step(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch, perturbations: Tensors
    ) -> Update:
        """See `Rule.step`."""
        if not perturbations:
            return Backprop().step(network, params, state, batch, perturbations)
        update, jacobians = self.forward(network, params, state, batch, perturbations)
        turned = {name: self.turn(state[name], jacobian) for name, jacobian in jacobians.items()}
        return Update(update.grads, update.loss, update.logits, state=turned)

    def turn(self, feedback: torch.Tensor, jacobian: torch.Tensor) -> torch.Tensor:
        """One step on 1 − cos of every column of F (C×N) and Ĵ (C×N), columns then of norm 1."""
        size = feedback.norm(dim=0, keepdim=True).clamp_min(torch.finfo(feedback.dtype).tiny)
        f = feedback / size
        j = torch.nn.functional.normalize(jacobian, dim=0)
        gradient = -(j - (f * j).sum(0) * f) / size
        return torch.nn.functional.normalize(feedback - self.feedback_rate * gradient, dim=0)
