"""Local greedy forward gradients: every block estimates the gradient of a loss of its own, forwards.

Block l has a linear head, as under local greedy backprop (lg-bp). The gradient of its local loss is estimated
from one tangent:

    lg-fg-a   u ~ N(0, I) at the block's pre-activation, g_b = tangent of sample b's local loss,
              D[b] = g_b u[b] / B
    lg-fg-w   v ~ N(0, I) over the block's parameters, ĝ = (∇L_l·v) v

Heads and output layer have their exact gradient. Random: u or v, and the heads' initial weights. One u serves
all blocks of lg-fg-a: they are cut off from one another, so each block's estimate has the law that a u of its
own would give it. One forward pass; each block's activations are freed before the next block runs, so that
peak memory does not grow with depth but for the parameters, their gradients, and v.

With two hidden blocks there is little to gain from local losses: on MNIST (mnist/compare, 3 paired seeds)
lg-fg-a ends 0.17 ± 0.29 points above fg-a.
Source: Ren, Kornblith, Liao & Hinton, ICLR 2023, arXiv 2210.03310.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from typing_extensions import override

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network, split_at_activation
from fdfa_cli.network.kernels.layout import laid_out
from fdfa_cli.network.layers import Chain
from fdfa_cli.rules.base import RULES, Holding
from fdfa_cli.rules.forward_gradient_activations import gated
from fdfa_cli.rules.local import LocalGreedy
from fdfa_cli.rules.step import Step, Trace
from fdfa_cli.streams import Draw


class LocalForward(LocalGreedy):
    """Every block has a head, and estimates the gradient of its local loss from one tangent."""

    source: ClassVar[str] = "Ren et al. 2023"
    passes: ClassVar[str] = "1 forward with tangent"


@RULES.register
class LocalForwardActivations(LocalForward):
    """Local greedy forward gradients over the activations of every block."""

    name: Literal["lg-fg-a"] = "lg-fg-a"

    @override
    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        # One u (B×N, N the most units of any block) serves all blocks; each takes its first N_l.
        sizes = [math.prod(shape) for shape in network.at_preactivations.block_shapes]
        return {"u": Draw((batch_size, max(sizes)), "gaussian")} if sizes else {}

    @override
    def holding(self) -> Holding:
        return Holding(in_turn=True, perturbations=2)  # u gated as well

    @override
    def block_step(
        self, s: Step, block: Chain, head: Chain, x: torch.Tensor
    ) -> tuple[torch.Tensor, Trace, dict[str, torch.Tensor]]:
        before, activation, after = split_at_activation(block)
        z, saved = before.forward(s.params, x, s.batch.mode)
        u = laid_out(s.perturbations["u"][:, : math.prod(z.shape[1:])].view(z.shape))
        u = gated(activation, z, s.cast(u))
        h, dh, _ = Chain((activation, *after.layers)).dual(s.params, z, u, s.batch.mode)
        local = s.output(h, dh, layer=head)
        assert local.d is not None  # u goes in
        slopes = (local.E * local.d).sum(-1)  # of the mean loss: sample b's own slope over B
        signal = s.cast(slopes).view(-1, *(1,) * (z.ndim - 1)) * u
        return h, local, local.output_gradients() | s.vjp(before, saved, signal)


@RULES.register
class LocalForwardWeights(LocalForward):
    """Local greedy forward gradients over the weights of every block."""

    name: Literal["lg-fg-w"] = "lg-fg-w"
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        "optimizer": {"name": "adam", "lr": 5e-3},
        "schedule": {"name": "cosine"},
    }

    @override
    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        return {
            name: Draw(draw.shape, "gaussian")
            for block in network.blocks
            for name, draw in block.parameters().items()
        }

    @override
    def block_step(
        self, s: Step, block: Chain, head: Chain, x: torch.Tensor
    ) -> tuple[torch.Tensor, Trace, dict[str, torch.Tensor]]:
        h, saved = block.forward(s.params, x, s.batch.mode)
        local = s.output(h, layer=head)
        v = {name: s.perturbations[name] for name in block.parameters()}
        dh = block.tangent(s.params, saved, None, v)
        slope = local.E.new_zeros(())
        if dh is not None:
            slope = (local.E * head.jvp(s.params, local.saved_by_output, dh)).sum()
        return h, local, local.output_gradients() | {name: slope * value for name, value in v.items()}
