"""The metrics of a probe, as pure functions of tensors. A metric that is not defined is None."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fdfa_cli.lazy import torch

#: Metrics by name, as a row of metrics stores them.
Metrics = dict[str, Any]


def ratio(a: float, b: float) -> float | None:
    """The quotient a/b; None where b is zero."""
    return a / b if b else None


def norm(t: torch.Tensor) -> float:
    """Euclidean norm of all entries."""
    return float(torch.linalg.vector_norm(_measurable(t), dtype=torch.float64))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float | None:
    """Cosine between all entries of `a` and of `b`; None where either is zero or not finite."""
    value = ratio(_dot(a.flatten(), b.flatten()), norm(a) * norm(b))
    return None if value is None or math.isnan(value) else min(1.0, max(-1.0, value))


def angle(value: float | None) -> float | None:
    """The angle in degrees whose cosine is `value`."""
    return None if value is None else math.degrees(math.acos(value))


def alignment(name: str, estimate: torch.Tensor, true: torch.Tensor) -> Metrics:
    """Cosine, angle and ratio of norms, under names that begin with `name`."""
    value = cosine(estimate, true)
    return {
        f"{name}_cosine": value,
        f"{name}_angle_degrees": angle(value),
        f"{name}_norm_ratio": ratio(norm(estimate), norm(true)),
    }


def concatenated(tensors: Mapping[str, torch.Tensor], names: Iterable[str]) -> torch.Tensor:
    """All entries of the tensors called `names`, side by side."""
    return torch.cat([tensors[name].flatten() for name in names])


class RunningMoments:
    """Mean and total variance of a stream of vectors, by deviations from the first one.

    There is one mean for the first `half` vectors and one for the rest. Their product is an unbiased estimate
    of the squared mean; the square of a single mean would also contain the variance of that mean.
    """

    def __init__(self, half: int) -> None:
        self.half, self.count = half, 0

    def add(self, vector: torch.Tensor) -> None:
        """Take one more vector into the mean and the variance."""
        if not self.count:
            self.first = vector
            self._sums = vector.new_zeros(2, *vector.shape)
            self._squares = torch.zeros((), dtype=torch.float64, device=_measurable(vector).device)
        deviation = vector - self.first
        self._sums[int(self.count >= self.half)] += deviation
        self._squares += torch.linalg.vector_norm(_measurable(deviation), dtype=torch.float64).square()
        self.count += 1

    def variance(self) -> float:
        """Sum over entries of their variance; 0 of a single vector."""
        total = norm(self._sums.sum(0)) ** 2 / self.count
        return max(self._squares.item() - total, 0.0) / max(self.count - 1, 1)

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The means of the two parts; where a part is empty, the mean of all vectors twice."""
        counts = (min(self.count, self.half), self.count - self.half)
        if min(counts) < 1:
            mean = self.first + self._sums.sum(0) / self.count
            return mean, mean
        one, other = (self.first + total / count for total, count in zip(self._sums, counts, strict=True))
        return one, other


def spread(moments: RunningMoments, true: torch.Tensor) -> Metrics:
    """Bias and variance of an estimate of the gradient `true`, relative to its norm and its square."""
    size, variance = norm(true), moments.variance()
    one, other = moments.means()
    bias, signal = _dot(one - true, other - true), _dot(one, other)
    return {
        "bias": ratio(math.sqrt(max(bias, 0.0)), size),
        "bias_error": ratio(norm(one - other) / 2, size),
        "variance": ratio(variance, size**2),
        "snr": math.sqrt(max(signal, 0.0) / variance) if variance > 0 else None,
    }


def feedback(mean: torch.Tensor, energy: float, matrix: torch.Tensor | None) -> Metrics:
    """Compare the feedback `matrix` (C×N) with the `mean` Jacobian (C×N); `energy` is the mean of ‖J[b]‖²."""
    kept = ratio(norm(mean) ** 2, energy)
    found: Metrics = {"jacobian_spread": None if kept is None else 1 - kept}
    if matrix is not None:
        found["feedback_cosine"] = cosine(matrix, mean)
        found["feedback_error"] = ratio(norm(matrix - mean), norm(mean))
    return found


def dead(slope: torch.Tensor) -> float:
    """Share of units, or channels, whose slope is zero at every sample and position; `slope` (B, N, …)."""
    alive = (slope != 0).transpose(0, 1).flatten(1).any(1)
    return 1 - _measurable(alive).double().mean().item()


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.dot(_measurable(a).double(), _measurable(b).double()))


def _measurable(t: torch.Tensor) -> torch.Tensor:
    """`t` where float64 can be computed: on the CPU if it lies on an Apple GPU."""
    return t.cpu() if t.device.type == "mps" else t
