"""Normalisation, by the mean μ and variance s² of each channel or of each sample.

Batch norm, per channel over batch and positions, in training:

    x̂ = (x − μ)/√(s² + ε),   y = γ x̂ + β
    dx = γ/√(s² + ε) · (dy − mean(dy) − x̂ mean(x̂ dy))

The Jacobian of y with respect to x is symmetric, so the tangent is the same expression with dx in the
place of dy: one kernel serves both derivatives.

Layer norm takes the means over all units of a sample, so γ, one a channel, no longer commutes with them.
With S the Jacobian of x̂, symmetric again, y's cotangent becomes S(γ dy) and its tangent γ (S dx).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from typing_extensions import override

from fdfa_cli.errors import UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.network.kernels import Mask, Running, kernels
from fdfa_cli.network.kernels.layout import as_positions, as_vectors, cast
from fdfa_cli.network.layers.base import Layer, Mode, Tensors
from fdfa_cli.streams import Draw, Shape

#: y (or dx), and two tensors that come with it.
Three = tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]


class _Normalised(NamedTuple):
    """What both derivatives of batch norm read.

    x         the input; vectors as (1×C×B), see `as_positions`
    mean      μ of each channel (C): the batch's in training, the running one in evaluation
    rstd      1/√(s² + ε) of each channel (C)
    training  whether μ and s² depend on x
    stacked   see `Mode`
    """

    x: torch.Tensor
    mean: torch.Tensor
    rstd: torch.Tensor
    training: bool
    stacked: bool = False


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch norm (Ioffe & Szegedy 2015) of vectors (B×N) or images (B×C×H×W), as torch's modules."""

    independent: ClassVar[bool] = False

    channels: int
    momentum: float = 0.1
    eps: float = 1e-5
    name: str = field(default="norm", kw_only=True)

    @override
    def out_shape(self, shape: Shape) -> Shape:
        if shape[0] != self.channels:
            raise UsageError(f"batch norm of {self.channels} channels cannot take a sample of shape {shape}")
        return shape

    @override
    def parameters(self) -> dict[str, Draw]:
        """`weight` γ and `bias` β, one a channel."""
        return {
            self.key("weight"): Draw((self.channels,), "constant", 1.0),
            self.key("bias"): Draw((self.channels,), "constant", 0.0),
        }

    @override
    def buffers(self) -> dict[str, Draw]:
        """Running mean and (unbiased) variance."""
        return {
            self.key("running_mean"): Draw((self.channels,), "constant", 0.0),
            self.key("running_var"): Draw((self.channels,), "constant", 1.0),
        }

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, _Normalised]:
        """y = γ x̂ + β, by the batch's statistics in training and by the running ones in evaluation."""
        weight, bias = params[self.key("weight")], params[self.key("bias")]
        running = Running(mode.buffers[self.key("running_mean")], mode.buffers[self.key("running_var")])
        x = as_positions(x)
        if not mode.training:
            y = kernels().batch_norm_fixed(x, weight, bias, running, self.eps)
            return as_vectors(y), _Normalised(x, running.mean, (running.var + self.eps).rsqrt(), False)
        y, mean, rstd, moved = kernels().batch_norm(
            x, weight, bias, running, self.momentum, self.eps, mode.stacked
        )
        mode.updates[self.key("running_mean")] = moved.mean
        mode.updates[self.key("running_var")] = moved.var
        return as_vectors(y), _Normalised(x, mean, rstd, True, mode.stacked)

    @override
    def jvp(self, params: Tensors, saved: _Normalised, dx: torch.Tensor) -> torch.Tensor:
        """The input's cotangent for dx: the Jacobian is symmetric.

        In the parameters' precision: stacked over tangents by `torch.func.vmap`, the kernel takes no bfloat16
        input beside float32 statistics.
        """
        precision = params[self.key("weight")].dtype
        saved = saved._replace(x=cast(saved.x, precision))
        tangent, _, _ = self._vjp(params, saved, cast(dx, precision), (True, False, False))
        return cast(tangent, dx.dtype)

    @override
    def held(self, saved: _Normalised) -> _Normalised:
        """The batch's mean and variance in the place of running ones."""
        return saved._replace(training=False)

    @override
    def parameter_tangent(self, params: Tensors, saved: _Normalised, dparams: Tensors) -> torch.Tensor:
        """dy = x̂ dγ + dβ."""
        x, mean, rstd, *_ = saved
        scale = dparams[self.key("weight")] * rstd
        shift = dparams[self.key("bias")] - mean * scale
        return as_vectors(x * _per_channel(scale, x).to(x.dtype) + _per_channel(shift, x).to(x.dtype))

    @override
    def vjp(
        self, params: Tensors, saved: _Normalised, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """∇γ = Σ x̂ dy, ∇β = Σ dy, and dx as above."""
        dx, weight, bias = self._vjp(params, saved, dy, (need_dx, True, True))
        return {self.key("weight"): weight, self.key("bias"): bias}, dx if need_dx else None

    def _vjp(self, params: Tensors, saved: _Normalised, dy: torch.Tensor, mask: Mask) -> Three:
        """Those of dx, ∇γ and ∇β that `mask` asks for."""
        x, mean, rstd, training, stacked = saved
        weight, dy = params[self.key("weight")], as_positions(dy)
        if training:
            three = kernels().batch_norm_vjp(dy, x, weight, mean, rstd, mask, stacked)
        else:
            three = kernels().batch_norm_fixed_vjp(dy, x, weight, mean, rstd, self.eps, mask)
        return (as_vectors(three[0]), three[1], three[2]) if mask[0] else three


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Layer norm (Ba et al. 2016) over all units of a sample, with an affine map of each channel.

    `torch.nn.LayerNorm` for vectors (B×N), `torch.nn.GroupNorm` of one group for images (B×C×H×W).
    """

    channels: int
    eps: float = 1e-5
    name: str = field(default="norm", kw_only=True)

    @override
    def out_shape(self, shape: Shape) -> Shape:
        if shape[0] != self.channels:
            raise UsageError(f"layer norm of {self.channels} channels cannot take a sample of shape {shape}")
        return shape

    @override
    def parameters(self) -> dict[str, Draw]:
        """`weight` γ and `bias` β, one a channel."""
        return {
            self.key("weight"): Draw((self.channels,), "constant", 1.0),
            self.key("bias"): Draw((self.channels,), "constant", 0.0),
        }

    @override
    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, Three]:
        """y = γ x̂ + β; saves x, each sample's mean and its 1/√(s² + ε)."""
        weight, bias = (params[self.key(name)].to(x.dtype) for name in ("weight", "bias"))
        y, mean, rstd = kernels().layer_norm(x, weight, bias, self.eps)
        return y, (x, mean, rstd)

    @override
    def jvp(self, params: Tensors, saved: Three, dx: torch.Tensor) -> torch.Tensor:
        """dy = γ (S dx)."""
        x, mean, rstd = saved
        tangent, _, _ = kernels().layer_norm_vjp(dx, x, None, mean, rstd, (True, False, False))
        return tangent * _per_channel(params[self.key("weight")].to(dx.dtype), dx)

    @override
    def parameter_tangent(self, params: Tensors, saved: Three, dparams: Tensors) -> torch.Tensor:
        """dy = x̂ dγ + dβ."""
        return self.forward(dparams, saved[0], Mode(training=False))[0]

    @override
    def vjp(
        self, params: Tensors, saved: Three, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """∇γ = Σ x̂ dy, ∇β = Σ dy, dx = S (γ dy)."""
        x, mean, rstd = saved
        gamma = params[self.key("weight")].to(dy.dtype)
        dx, weight, bias = kernels().layer_norm_vjp(dy, x, gamma, mean, rstd, (need_dx, True, True))
        return {self.key("weight"): weight, self.key("bias"): bias}, dx if need_dx else None


def _per_channel(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`values` (C,) in a shape that broadcasts along axis 1 of `like` (B, C, …)."""
    return values.view(-1, *(1,) * (like.ndim - 2))
