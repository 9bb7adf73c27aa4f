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
from typing_extensions import override

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.rules.base import RULES
from fdfa_cli.rules.fdfa_structured import StructuredPerturbation
from fdfa_cli.rules.step import Step, Update
from fdfa_cli.streams import Draw


@RULES.register
class Grape(StructuredPerturbation):
    """GrAPE: direct feedback whose columns turn towards forward estimates of the Jacobian's."""

    name: Literal["grape"] = "grape"
    feedback_rate: Annotated[float, Field(gt=0, description="η, of the step on 1 − cos")] = 0.1
    calibrate_every: Annotated[
        int, Field(ge=0, description="batches from one true backprop step to the next; 0: never")
    ] = 0
    source: ClassVar[str] = "Caillon et al. 2026"

    @override
    def state(self, network: Network) -> dict[str, Draw]:
        zero = super().state(network)
        return {name: replace(draw, law="gaussian", scale=1.0) for name, draw in zero.items()}

    @override
    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        if self.calibrate_every and (step + 1) % self.calibrate_every == 0:
            return {}
        return super().perturbations(network, batch_size, step)

    @override
    def step(self, s: Step) -> Update:
        if not s.perturbations:  # a calibration step
            return s.forward().backward()
        s = s.on(self.injected(s.network))
        trace, jacobians = self.estimate(s)
        turned = {l: self.turn(s.feedback[l], J) for l, J in jacobians.items()}
        return trace.update(self.signals(s, trace), feedback=turned)

    def turn(self, feedback: torch.Tensor, jacobian: torch.Tensor) -> torch.Tensor:
        """One step on 1 − cos of every column of F (C×N) and Ĵ (C×N), columns then of norm 1."""
        size = feedback.norm(dim=0, keepdim=True).clamp_min(torch.finfo(feedback.dtype).tiny)
        f = feedback / size
        j = torch.nn.functional.normalize(jacobian, dim=0)
        gradient = -(j - (f * j).sum(0) * f) / size
        return torch.nn.functional.normalize(feedback - self.feedback_rate * gradient, dim=0)
