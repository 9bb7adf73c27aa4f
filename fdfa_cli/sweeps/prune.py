"""Which configurations go on after a rung: a pure function of their scores there."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from fdfa_cli.recipe.sweep import Prune


def survivors(scores: Sequence[float | None], prune: Prune) -> list[int]:
    """The positions in `scores` of the configurations that go on, in order.

    A score is the mean over the seeds of a configuration, and a larger one is better. None, for one that
    diverged or has no value, never goes on. `median` keeps those at or above the median of all (Golovin et
    al. 2017), `halving` the best ⌈n/factor⌉ of n, and of equals the earlier (Jamieson & Talwalkar 2016).
    """
    ranked = [-math.inf if score is None else score for score in scores]
    if not ranked:
        return []
    if prune.rule == "median":
        middle = statistics.median_high(ranked)
        kept = [i for i, score in enumerate(ranked) if score >= middle]
    else:
        count = math.ceil(len(ranked) / prune.factor)
        kept = sorted(sorted(range(len(ranked)), key=lambda i: -ranked[i])[:count])
    return [i for i in kept if scores[i] is not None]
