"""The statistics of sweeps and comparisons, on numpy and scipy.

Sources: Student's t interval and paired t test; Holm 1979 (Scand. J. Statist. 6, 65–70); interquartile
mean and probability of improvement with stratified bootstrap intervals after Agarwal et al. 2021 (Deep
reinforcement learning at the edge of the statistical precipice, NeurIPS; the package rliable).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from fdfa_cli.lazy import numpy

if TYPE_CHECKING:
    Array = numpy.ndarray[Any, numpy.dtype[numpy.float64]]

#: Fewer values than this get no interval: with two, t's 97.5 % point is 12.7, and one outlier is half.
FEWEST = 3
LEVEL = 0.95
#: Resamples of a bootstrap.
RESAMPLES = 2000


@dataclass(frozen=True)
class Mean:
    """The mean of `n` values and the half-width of its 95 % t interval, None below `FEWEST`."""

    n: int
    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.half:.4f}" if self.half is not None else "")


@dataclass(frozen=True)
class Paired:
    """The mean difference of pairs with its interval, and p of the two-sided paired t test, or None."""

    difference: Mean
    p: float | None


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def mean(values: Sequence[float]) -> Mean | None:
    """Mean and t interval of `values`; None where there are none."""
    n = len(values)
    if not n:
        return None
    centre = math.fsum(values) / n
    if n < FEWEST:
        return Mean(n, centre, None)
    deviation = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (n - 1))
    return Mean(n, centre, _quantile(n - 1) * deviation / math.sqrt(n))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Paired | None:
    """`ours` minus `theirs` over their common keys (seeds); None where they have none.

    Pairs that all differ by the same amount have no spread to test against: p is then None.
    """
    differences = [ours[key] - theirs[key] for key in sorted(ours.keys() & theirs.keys())]
    difference = mean(differences)
    if difference is None:
        return None
    if difference.n < FEWEST or max(differences) - min(differences) <= 1e-12 * max(map(abs, differences)):
        return Paired(difference, None)
    from scipy.special import stdtr

    assert difference.half is not None
    t = difference.mean / difference.half * _quantile(difference.n - 1)
    return Paired(difference, 2 * float(stdtr(difference.n - 1, -abs(t))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: each may be compared with the error rate of all."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def interquartile_mean(scores: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """Mean of the middle half of all scores, which are one sequence of runs a task; bootstrap by task."""
    return _bootstrap([numpy.asarray(task) for task in scores], _trimmed, seed)


def probability_of_improvement(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], seed: int = 0
) -> Interval:
    """How probably a run of ours beats one of theirs on a task, ties counting half: the mean over tasks.

    `ours` and `theirs` have one sequence of runs for each task. That is the Mann–Whitney U over the
    number of pairs.
    """
    tasks = len(ours)

    def statistic(groups: Sequence[Array]) -> Array:
        parts = [_beats(groups[i], groups[tasks + i]) for i in range(tasks)]
        return numpy.asarray(numpy.mean(parts, axis=0))

    return _bootstrap([numpy.asarray(task) for task in [*ours, *theirs]], statistic, seed)


def _trimmed(groups: Sequence[Array]) -> Array:
    pool = numpy.sort(numpy.concatenate(groups, axis=-1), axis=-1)
    outer = pool.shape[-1] // 4
    return numpy.asarray(pool[..., outer : pool.shape[-1] - outer].mean(axis=-1))


def _beats(ours: Array, theirs: Array) -> Array:
    wins = ours[..., :, None] > theirs[..., None, :]
    ties = ours[..., :, None] == theirs[..., None, :]
    return numpy.asarray((wins + 0.5 * ties).mean(axis=(-2, -1)))


def _bootstrap(
    groups: Sequence[Array],
    statistic: Callable[[Sequence[Array]], Array],
    seed: int,
) -> Interval:
    """`statistic` (over the last axis) of `groups`, and its percentile interval.

    Stratified: each group (n) is resampled within itself, into RESAMPLES×n.
    """
    generator = numpy.random.default_rng(seed)
    resampled = [group[generator.integers(len(group), size=(RESAMPLES, len(group)))] for group in groups]
    tail = 50 * (1 - LEVEL)
    low, high = numpy.percentile(statistic(resampled), [tail, 100 - tail])
    return Interval(float(statistic(groups)), float(low), float(high))


@cache
def _quantile(freedom: int) -> float:
    """Two-sided 95 % point of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))
