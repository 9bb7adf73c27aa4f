"""Local greedy losses: every block learns from a classifier of its own, cut off from the blocks above.

Block l has a linear head (the last hidden block's is the output layer); with the head's logits Z_l, loss
and error E_l:

    lg-bp     G_l = E_l W_head                  the exact gradient of the local loss
    lg-fg-a   u ~ N(0, I) at the block's pre-activation, g_b = tangent of sample b's local loss,
              D[b] = g_b u[b] / B
    lg-fg-w   v ~ N(0, I) over the block's parameters, ĝ = (∇L_l·v) v

Heads and output layer have their exact gradient; hidden blocks that of their local loss, or a forward
estimate of it. Random: u or v, and the heads' initial weights. One u serves all blocks of lg-fg-a: they are
cut off from one another, so each block's estimate has the law that a u of its own would give it.

One forward pass; each block's activations are freed before the next block runs, so that peak memory does not
grow with depth but for the parameters, their gradients, and v (`python benchmarks/memory.py`).

With two hidden blocks there is little to gain from local losses: on MNIST (mnist/compare, 3 paired seeds)
lg-fg-a ends 0.17 ± 0.29 points above fg-a.
Sources: Belilovsky, Eickenberg & Oyallon, ICML 2019 (lg-bp); Ren, Kornblith, Liao & Hinton, ICLR 2023,
arXiv 2210.03310 (lg-fg-a, lg-fg-w).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network, split_at_activation
from fdfa_cli.network.layers import Chain, Flatten, Linear, Tensors
from fdfa_cli.network.layers.memory import laid_out
from fdfa_cli.network.losses import Batch
from fdfa_cli.registry import RULES
from fdfa_cli.rules.base import Rule, Update
from fdfa_cli.rules.forward_gradient import gated
from fdfa_cli.streams import Draw


class LocalGreedy(Rule):
    """A head for every block; `block_gradient` says how a block learns from its own."""

    exact: ClassVar[str] = "output and heads"
    passes: ClassVar[str] = "1 forward"

    def heads(self, network: Network) -> list[Chain]:
        """Linear classifiers on every hidden block's output; the last one is the output layer."""
        own = [
            Chain((Flatten(), Linear(math.prod(shape), network.classes))).named(f"head.{l}")
            for l, shape in enumerate(network.block_shapes[:-1])
        ]
        return [*own, network.output]

    def state(self, network: Network) -> dict[str, Draw]:
        """The heads' weights and biases."""
        return {name: draw for head in self.heads(network)[:-1] for name, draw in head.parameters().items()}

    def step(
        self, network: Network, params: Tensors, state: Tensors, batch: Batch, perturbations: Tensors
    ) -> Update:
        """See `Rule.step`."""
        every, h = {**params, **state}, batch.x
        if not network.blocks:
            logits, kept = network.output.forward(params, h, batch.mode)
            loss, error = batch.loss(logits)
            grads, _ = network.output.vjp(params, kept, error.to(h.dtype), need_dx=False)
            return Update(grads, loss, logits)
        grads = {}
        for l, (block, head) in enumerate(zip(network.blocks, self.heads(network), strict=True)):
            h, logits, loss, some = self.block_gradient(l, block, head, every, h, batch, perturbations)
            grads |= some
        state_grads = {name: grads.pop(name) for name in state}
        return Update(grads, loss, logits, state_grads)

    @abstractmethod
    def block_gradient(
        self,
        l: int,
        block: Chain,
        head: Chain,
        params: Tensors,
        x: torch.Tensor,
        batch: Batch,
        perturbations: Tensors,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Tensors]:
        """H_l, the local logits and loss, and gradients for block l and its head."""


@RULES.register
class LocalBackprop(LocalGreedy):
    """Local greedy backprop: the exact gradient of every block's own loss."""

    name: Literal["lg-bp"] = "lg-bp"
    source: ClassVar[str] = "Belilovsky et al. 2019"

    def block_gradient(
        self,
        l: int,
        block: Chain,
        head: Chain,
        params: Tensors,
        x: torch.Tensor,
        batch: Batch,
        perturbations: Tensors,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Tensors]:
        """See `LocalGreedy.block_gradient`."""
        h, saved = block.forward(params, x, batch.mode)
        logits, kept = head.forward(params, h, batch.mode)
        loss, error = batch.loss(logits)
        grads, signal = head.vjp(params, kept, error.to(h.dtype))
        assert signal is not None
        return h, logits, loss, grads | block.vjp(params, saved, signal, need_dx=False)[0]


class _LocalForward(LocalGreedy):
    source: ClassVar[str] = "Ren et al. 2023"
    passes: ClassVar[str] = "1 forward with tangent"


@RULES.register
class LocalForwardActivations(_LocalForward):
    """Local greedy forward gradients over the activations of every block."""

    name: Literal["lg-fg-a"] = "lg-fg-a"

    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        """One u ~ N(0, 1) for all blocks (B×N, N the most units of any); each takes its first N_l."""
        sizes = [math.prod(shape) for shape in network.at_preactivations.block_shapes]
        return {"u": Draw((batch_size, max(sizes)), "gaussian")} if sizes else {}

    def block_gradient(
        self,
        l: int,
        block: Chain,
        head: Chain,
        params: Tensors,
        x: torch.Tensor,
        batch: Batch,
        perturbations: Tensors,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Tensors]:
        """See `LocalGreedy.block_gradient`."""
        before, activation, after = split_at_activation(block)
        z, saved = before.forward(params, x, batch.mode)
        u = laid_out(perturbations["u"][:, : math.prod(z.shape[1:])].view(z.shape))
        u = gated(activation, z, u.to(z.dtype))
        h, dh, _ = Chain((activation, *after.layers)).dual(params, z, u, batch.mode)
        logits, d, kept = head.dual(params, h, dh, batch.mode)
        loss, error = batch.loss(logits)
        assert d is not None  # u goes in
        slopes = (error * d).sum(-1)  # of the mean loss: sample b's own slope over B
        signal = slopes.to(z.dtype).view(-1, *(1,) * (z.ndim - 1)) * u
        grads, _ = head.vjp(params, kept, error.to(h.dtype), need_dx=False)
        return h, logits, loss, grads | before.vjp(params, saved, signal, need_dx=False)[0]


@RULES.register
class LocalForwardWeights(_LocalForward):
    """Local greedy forward gradients over the weights of every block."""

    name: Literal["lg-fg-w"] = "lg-fg-w"
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        "optimizer": {"name": "adam", "lr": 5e-3},
        "schedule": {"name": "cosine"},
    }

    def perturbations(self, network: Network, batch_size: int, step: int) -> dict[str, Draw]:
        """A tangent v ~ N(0, 1) of every parameter of the hidden blocks."""
        return {
            name: Draw(draw.shape, "gaussian")
            for block in network.blocks
            for name, draw in block.parameters().items()
        }

    def block_gradient(
        self,
        l: int,
        block: Chain,
        head: Chain,
        params: Tensors,
        x: torch.Tensor,
        batch: Batch,
        perturbations: Tensors,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Tensors]:
        """See `LocalGreedy.block_gradient`."""
        h, saved = block.forward(params, x, batch.mode)
        logits, kept = head.forward(params, h, batch.mode)
        loss, error = batch.loss(logits)
        v = {name: perturbations[name] for name in block.parameters()}
        dh = block.tangent(params, saved, None, v)
        slope = (error * head.jvp(params, kept, dh)).sum() if dh is not None else error.new_zeros(())
        grads, _ = head.vjp(params, kept, error.to(h.dtype), need_dx=False)
        return h, logits, loss, grads | {name: slope * value for name, value in v.items()}
