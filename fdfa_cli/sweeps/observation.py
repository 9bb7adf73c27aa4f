"""What the configurations of a sweep came to, by the metric that it is to improve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fdfa_cli.recipe.sweep import Sweep
from fdfa_cli.trials.plan import Configuration
from fdfa_cli.trials.store import Store


@dataclass(frozen=True)
class Observation:
    """A configuration that was tried, and its `score` after `epoch` (None: at the end of training).

    A larger score is better. It is None where the configuration diverged, or failed under every seed.
    """

    overrides: Mapping[str, Any]
    score: float | None
    epoch: int | None = None


def observe(configuration: Configuration, sweep: Sweep, store: Store) -> Observation:
    """What `configuration` came to: at the end of training, or at the epoch after which it was pruned."""
    results = [store.get(trial) for trial in configuration.trials]
    pruned = [result.epochs for result in results if result is not None and result.status == "pruned"]
    epoch = min(pruned, default=None)
    return Observation(configuration.overrides, score(configuration, sweep, store, epoch), epoch)


def score(configuration: Configuration, sweep: Sweep, store: Store, epoch: int | None = None) -> float | None:
    """The mean over seeds of the metric after `epoch`, or at the end, turned so that a larger one is better.

    None where a seed had diverged by then, or where no seed has a value: seeds that failed are left out.
    """
    values = []
    for trial in configuration.trials:
        value, result = store.value(trial, sweep.metric, epoch), store.get(trial)
        if value is not None:
            values.append(sweep.better(value))
        elif result is not None and result.status == "diverged":
            return None
    return math.fsum(values) / len(values) if values else None
