"""What a rule is given for one step, the pass that it makes through the network, and what it gives back.

    Step     the network, and every tensor that the rule may read
    Trace    one forward pass: logits, loss, error, and what turns error signals into gradients
    Update   gradients, and what becomes of the rule's own state

A rule reads a `Step`, makes a `Trace` by `Step.forward`, and says which error signal reaches each block by
`Trace.update`. Casts, the output layer, the loop over blocks and the early freeing of activations are here,
so that a rule's file holds its equations and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.kernels import kernels
from fdfa_cli.network.kernels.layout import from_units, units
from fdfa_cli.network.layers import Chain, Tensors
from fdfa_cli.network.losses import Batch, in_full_precision


@dataclass(frozen=True)
class Update:
    """What one step of a rule gives.

    grads        {name: gradient} of every parameter that learns, in the parameter's shape
    loss         the mean training loss, a tensor without axes
    logits       Z (B×C), of which the training accuracy is taken
    state_grads  {name: gradient} of the entries of the state that an optimizer moves
    state        {name: new value} of the entries of the state that are replaced
    """

    grads: Tensors
    loss: torch.Tensor
    logits: torch.Tensor
    state_grads: Tensors = field(default_factory=dict)
    state: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """The arguments of `Rule.step`: the network, and every tensor that the rule may read.

    network        hidden blocks and output layer, as pure functions; it holds no tensor
    params         {name: parameter}, float32, by the names of `Network.parameters`
    state          {name: tensor} as `Rule.state` declares them, float32; `feedback` lists F_l
    batch          inputs x (B, *shape; float32 or bfloat16), labels (B; int64), forward mode, loss
    perturbations  {name: tensor} as `Rule.perturbations` declares them, float32, drawn for this step;
                   `v` are those of the blocks' outputs

    Images lie in memory with their channels last. A rule changes none of these tensors and may keep none of
    them beyond the step. Where trials are stacked, `torch.func.vmap` runs the step over all of them: shapes
    are then still those of one trial, no value may be looked at (``if tensor:``, ``.item()``), and options of
    type float that differ between the trials are tensors without axes, but for `Rule.shared_options`.
    """

    network: Network
    params: Tensors
    state: Tensors
    batch: Batch
    perturbations: Tensors

    @property
    def B(self) -> int:
        """Number of samples in the batch."""
        return len(self.batch)

    @property
    def feedback(self) -> list[torch.Tensor]:
        """F_l (C×N_l, the units in the shape of block l's output) of every hidden block."""
        return [self.state[feedback_name(l)] for l in range(len(self.network.blocks))]

    @property
    def v(self) -> dict[int, torch.Tensor]:
        """v_l (B, *shape) of every block l whose output this step perturbs."""
        names = {l: perturbation_name(l) for l in range(len(self.network.blocks))}
        return {l: self.perturbations[name] for l, name in names.items() if name in self.perturbations}

    def on(self, network: Network) -> Step:
        """The same step on the same network with its blocks cut elsewhere."""
        return replace(self, network=network)

    def without_effect(self) -> Step:
        """The same step, whose passes leave the running statistics as they are."""
        return replace(self, batch=replace(self.batch, mode=self.batch.mode.discarding()))

    def cast(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` in the type of the activations, which is that of the inputs."""
        return tensor.to(self.batch.x.dtype)

    def forward(self, perturbed_by: Mapping[int, torch.Tensor] | None = None, outputs: bool = False) -> Trace:
        """One pass through the whole network.

        With `perturbed_by`, the pass carries a tangent: zero at the input, and at the output of each block l
        named there v_l (B, *shape of block l) is added to it. The logits' tangent is `Trace.d`. With
        `outputs`, the trace keeps the output of every hidden block.
        """
        h, dh = self.batch.x, None
        saved, kept = [], []
        for l, block in enumerate(self.network.blocks):
            h, dh, needed = block.dual(self.params, h, dh, self.batch.mode)
            saved.append(needed)
            if outputs:
                kept.append(h)
            if perturbed_by is not None and l in perturbed_by:
                v = self.cast(perturbed_by[l])
                dh = v if dh is None else dh + v
        return self.output(h, dh, saved, kept)

    def output(
        self,
        h: torch.Tensor,
        dh: torch.Tensor | None = None,
        saved: Sequence[Any] = (),
        outputs: Sequence[torch.Tensor] = (),
        layer: Chain | None = None,
    ) -> Trace:
        """The end of a pass: logits, loss and error of the output layer, or of `layer`, on `h` = H_{L-1}."""
        layer = layer or self.network.output
        logits, d, needed = layer.dual(self.params, h, dh, self.batch.mode)
        loss, error = self.batch.loss(logits)
        d = None if d is None else in_full_precision(d)
        return Trace(self, layer, logits, loss, error, d, [*saved], needed, [*outputs])

    def vjp(self, part: Chain, saved: Any, signal: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gradients of the parameters of `part` for the error signal at its output: its local vjp."""
        return part.vjp(self.params, saved, self.cast(signal), need_dx=False)[0]


@dataclass
class Trace:
    """A forward pass that was made.

    step     what it was made of
    layer    the output layer, or the local classifier that took its place
    Z        logits (B×C), in the type of the inputs
    loss     the mean loss, a tensor without axes
    E        gradient of the mean loss with respect to the logits (B×C), float32 at least; it carries 1/B
    d        tangent of the logits (B×C), float32 at least; None where the pass carried none
    saved    what each hidden block needs for its derivatives
    outputs  H_l of every hidden block, where they were asked for
    """

    step: Step
    layer: Chain
    Z: torch.Tensor
    loss: torch.Tensor
    E: torch.Tensor
    d: torch.Tensor | None
    saved: list[Any]
    saved_by_output: Any
    outputs: list[torch.Tensor]

    def output_gradients(self) -> dict[str, torch.Tensor]:
        """The exact gradients of the output layer."""
        return self.step.vjp(self.layer, self.saved_by_output, self.E)

    def update(
        self,
        signals: Iterable[torch.Tensor] = (),
        feedback_gradients: Mapping[int, torch.Tensor] | None = None,
        feedback: Mapping[int, torch.Tensor] | None = None,
    ) -> Update:
        """The output layer's exact gradient, and the local vjp of every block's error signal.

        `signals` are G_l (B, *shape of block l) from the first block on, made one at a time; without any, no
        block learns. `feedback_gradients` and `feedback` are the gradients, or the new values, of F_l by
        block. Uses the trace up: what a block saved is freed once its vjp is done.
        """
        grads = self.output_gradients()
        for block, signal in zip(self.step.network.blocks, signals, strict=False):
            grads |= self.step.vjp(block, self.saved.pop(0), signal)
        return Update(grads, self.loss, self.Z, _by_name(feedback_gradients), _by_name(feedback))

    def backward(self, params: Tensors | None = None) -> Update:
        """The chain of all vjps from the loss down; `params` may hold other weights to come back through."""
        network = self.step.network
        saved = [*self.saved, self.saved_by_output]
        grads, _ = network.chain.vjp(params or self.step.params, saved, self.step.cast(self.E), need_dx=False)
        return Update(grads, self.loss, self.Z)

    def jvp(self, tangents: Sequence[torch.Tensor]) -> torch.Tensor:
        """Σ_l J_l u_l: the logits' tangent (B×C) when u_l (B, *shape of block l) is added at every block."""
        network, dh = self.step.network, tangents[0]
        for block, kept, u in zip(network.blocks[1:], self.saved[1:], tangents[1:], strict=True):
            dh = block.jvp(self.step.params, kept, dh) + u
        return self.layer.jvp(self.step.params, self.saved_by_output, dh)

    def tangent(self, v: Tensors) -> torch.Tensor:
        """The logits' tangent (B×C) when the parameters move by `v`, {name: tangent} of all of them."""
        saved = [*self.saved, self.saved_by_output]
        d = self.step.network.chain.tangent(self.step.params, saved, None, v)
        assert d is not None  # the output layer has parameters
        return d


def feedback_name(block: int) -> str:
    """Name of block `block`'s feedback in a rule's state."""
    return f"feedback.{block}"


def perturbation_name(block: int) -> str:
    """Name of the perturbation of block `block`'s output, v_l, among a step's perturbations."""
    return f"v.{block}"


def feedback_signal(error: torch.Tensor, feedback: torch.Tensor) -> torch.Tensor:
    """G_l = E F_l (B×N_l) for E (B×C) and F_l (C×N_l); its units lie in the shape of block l's output."""
    error = error.to(feedback.dtype)
    if feedback.ndim == 2:
        return kernels().linear(error, feedback.t())
    return from_units(kernels().inner(error, units(feedback).t()), tuple(feedback.shape[1:]))


def gathered(e: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Eᵀ H_l (C×N_l) for E (B×C) and H_l (B×N_l), with the units in the shape of block l's output."""
    return from_units(kernels().outer_sum(e, units(h.to(e.dtype))), tuple(h.shape[1:]))


def _by_name(values: Mapping[int, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    return {feedback_name(l): value for l, value in (values or {}).items()}
