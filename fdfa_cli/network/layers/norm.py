"""Normalisation, by the mean μ and variance s² of each channel or of each sample.

Batch norm, per channel over batch and positions, in training (see `normalise`):

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

from fdfa_cli.errors import UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.network.layers.base import Layer, Mode, Tensors
from fdfa_cli.network.layers.memory import cast, unit_by_unit
from fdfa_cli.network.layers.normalise import Running, normalise, normalise_vjp
from fdfa_cli.streams import Draw, Shape


class _Normalised(NamedTuple):
    """What both derivatives of batch norm read; in evaluation the statistics are the running ones.

    Of vectors x is (1×C×B), see `_positions`.
    """

    x: torch.Tensor
    mean: torch.Tensor
    rstd: torch.Tensor
    training: bool
    stacked: bool = False


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch norm over vectors (B×N) or images (B×C×H×W), as `torch.nn.BatchNorm1d` and ``2d``."""

    independent: ClassVar[bool] = False

    channels: int
    momentum: float = 0.1
    eps: float = 1e-5
    name: str = field(default="norm", kw_only=True)

    def out_shape(self, shape: Shape) -> Shape:
        """Unchanged."""
        if shape[0] != self.channels:
            raise UsageError(f"batch norm of {self.channels} channels cannot take a sample of shape {shape}")
        return shape

    def parameters(self) -> dict[str, Draw]:
        """`weight` γ and `bias` β, one a channel."""
        return {
            self.key("weight"): Draw((self.channels,), "constant", 1.0),
            self.key("bias"): Draw((self.channels,), "constant", 0.0),
        }

    def buffers(self) -> dict[str, Draw]:
        """Running mean and (unbiased) variance."""
        return {
            self.key("running_mean"): Draw((self.channels,), "constant", 0.0),
            self.key("running_var"): Draw((self.channels,), "constant", 1.0),
        }

    def forward(self, params: Tensors, x: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, _Normalised]:
        """Batch statistics in training (the running ones move towards them), running ones otherwise."""
        weight, bias = params[self.key("weight")], params[self.key("bias")]
        running_mean = mode.buffers[self.key("running_mean")]
        running_var = mode.buffers[self.key("running_var")]
        x = _positions(x)
        if not mode.training:
            y, _, _ = torch.native_batch_norm(
                x, weight, bias, running_mean, running_var, False, self.momentum, self.eps
            )
            return _vectors(y), _Normalised(x, running_mean, (running_var + self.eps).rsqrt(), False)
        stacked = mode.stacked and x.ndim == 3  # vectors only: an image's channels lie between other axes
        running = Running(running_mean, running_var)
        y, mean, rstd, moved = normalise(x, weight, bias, running, self.momentum, self.eps, stacked)
        mode.updates[self.key("running_mean")] = moved.mean
        mode.updates[self.key("running_var")] = moved.var
        return _vectors(y), _Normalised(x, mean, rstd, True, stacked)

    def jvp(self, params: Tensors, saved: _Normalised, dx: torch.Tensor) -> torch.Tensor:
        """The input's cotangent for dx: the Jacobian is symmetric.

        In the parameters' precision: stacked over tangents by `torch.func.vmap`, the kernel takes no bfloat16
        input beside float32 statistics.
        """
        precision = params[self.key("weight")].dtype
        saved = saved._replace(x=cast(saved.x, precision))
        tangent, _, _ = self._backward(params, saved, cast(dx, precision), (True, False, False))
        return cast(tangent, dx.dtype)

    def held(self, saved: _Normalised) -> _Normalised:
        """The batch's mean and variance in the place of running ones."""
        return saved._replace(training=False)

    def parameter_tangent(self, params: Tensors, saved: _Normalised, dparams: Tensors) -> torch.Tensor:
        """X̂ dγ + dβ."""
        x, mean, rstd, *_ = saved
        scale = dparams[self.key("weight")] * rstd
        shift = dparams[self.key("bias")] - mean * scale
        return _vectors(x * _per_channel(scale, x).to(x.dtype) + _per_channel(shift, x).to(x.dtype))

    def vjp(
        self, params: Tensors, saved: _Normalised, dy: torch.Tensor, need_dx: bool = True
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """See `Layer.vjp`."""
        dx, weight, bias = self._backward(params, saved, dy, (need_dx, True, True))
        return {self.key("weight"): weight, self.key("bias"): bias}, dx if need_dx else None

    def _backward(
        self, params: Tensors, saved: _Normalised, dy: torch.Tensor, mask: tuple[bool, bool, bool]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, mean, rstd, training, stacked = saved
        weight, dy = params[self.key("weight")], _positions(dy)
        if training:
            dx, grad_weight, grad_bias = normalise_vjp(dy, x, weight, mean, rstd, mask, stacked)
        else:
            dx, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                dy, x, weight, mean, rstd.pow(-2) - self.eps, mean, rstd, False, self.eps, mask
            )
        return _vectors(dx) if mask[0] else dx, grad_weight, grad_bias


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Layer norm (Ba et al. 2016) over all units of a sample, with an affine map of each channel.

    `torch.nn.LayerNorm` for vectors (B×N), `torch.nn.GroupNorm` of one group for images (B×C×H×W).
    """

    channels: int
    eps: float = 1e-5
    name: str = field(default="norm", kw_only=True)

    def out_shape(self, shape: Shape) -> Shape:
        """Unchanged."""
        if shape[0] != self.channels:
            raise UsageError(f"layer norm of {self.channels} channels cannot take a sample of shape {shape}")
        return shape

    def parameters(self) -> dict[str, Draw]:
        """`weight` γ and `bias` β, one a channel."""
        return {
            self.key("weight"): Draw((self.channels,), "constant", 1.0),
            self.key("bias"): Draw((self.channels,), "constant", 0.0),
        }

    def forward(
        self, params: Tensors, x: torch.Tensor, mode: Mode
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Saves x, each sample's mean and its 1/√(s² + ε)."""
        weight, bias = (params[self.key(name)].to(x.dtype) for name in ("weight", "bias"))
        given = (_by_sample(x), weight, bias, *self._sizes(x), self.eps)
        y, mean, rstd = torch.ops.aten.native_group_norm(*given)
        return unit_by_unit(y), (x, mean, rstd)

    def jvp(
        self, params: Tensors, saved: tuple[torch.Tensor, torch.Tensor, torch.Tensor], dx: torch.Tensor
    ) -> torch.Tensor:
        """γ (S dx)."""
        tangent = self._backward(saved, dx, None, (True, False, False))[0]
        return tangent * _per_channel(params[self.key("weight")].to(dx.dtype), dx)

    def parameter_tangent(
        self,
        params: Tensors,
        saved: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        dparams: Tensors,
    ) -> torch.Tensor:
        """X̂ dγ + dβ."""
        return self.forward(dparams, saved[0], Mode(training=False))[0]

    def vjp(
        self,
        params: Tensors,
        saved: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        dy: torch.Tensor,
        need_dx: bool = True,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """See `Layer.vjp`."""
        gamma = params[self.key("weight")].to(dy.dtype)
        dx, weight, bias = self._backward(saved, dy, gamma, (need_dx, True, True))
        return {self.key("weight"): weight, self.key("bias"): bias}, dx if need_dx else None

    def _backward(
        self,
        saved: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        dy: torch.Tensor,
        gamma: torch.Tensor | None,
        mask: tuple[bool, bool, bool],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, mean, rstd = saved
        result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten.native_group_norm_backward(
            _by_sample(dy), _by_sample(x), mean, rstd, gamma, *self._sizes(x), mask
        )
        return (unit_by_unit(result[0]), *result[1:]) if mask[0] else result

    def _sizes(self, x: torch.Tensor) -> tuple[int, int, int, int]:
        """Samples, channels, positions and groups, as torch's operators take them."""
        return len(x), self.channels, x[0, 0].numel(), 1


def _by_sample(t: torch.Tensor) -> torch.Tensor:
    """Vectors (B×N) sample by sample in memory, and images as they lie.

    Torch does that itself, but 2.11 refuses other vectors in one kernel and misreads them in the other.
    """
    return t if t.ndim == 4 else t.contiguous()


def _positions(x: torch.Tensor) -> torch.Tensor:
    """Vectors (B×C) as the positions of one image (1×C×B), which is how they lie; images as they are."""
    return x.t().unsqueeze(0) if x.ndim == 2 else x


def _vectors(y: torch.Tensor) -> torch.Tensor:
    """The inverse of `_positions`."""
    return y.squeeze(0).t() if y.ndim == 3 else y


def _per_channel(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`values` (C,) in a shape that broadcasts along axis 1 of `like` (B, C, …)."""
    return values.view(-1, *(1,) * (like.ndim - 2))
