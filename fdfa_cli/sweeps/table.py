"""What a sweep found: its configurations best first, and the winner."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fdfa_cli.recipe.sweep import METRICS
from fdfa_cli.recipe.write import plain
from fdfa_cli.stats import FEWEST, Mean, mean
from fdfa_cli.storage import STATUSES
from fdfa_cli.sweeps.plan import Plan
from fdfa_cli.sweeps.run import score
from fdfa_cli.tables import Column, Table, Value
from fdfa_cli.trials.plan import Configuration
from fdfa_cli.trials.store import Store

#: How a run can end other than completed, as counted in the table.
OTHERS = STATUSES[1:]


@dataclass(frozen=True)
class Standing:
    """A configuration with the mean of the metric over its completed runs, and how all of them ended."""

    configuration: Configuration
    metric: Mean | None
    statuses: Counter[str]


def standings(plan: Plan, store: Store) -> list[Standing]:
    """All configurations, best first.

    First those of which every seed was completed, by their mean; those with a seed that was pruned, failed
    or diverged have not earned their mean, and come after.
    """

    def rank(standing: Standing) -> tuple[bool, float, int]:
        configuration = standing.configuration
        whole = standing.statuses["completed"] == len(configuration.trials)
        found = score(configuration, plan, store) if whole else None
        if found is None and standing.metric is not None:
            found = plan.sweep.better(standing.metric.mean)
        return (not whole, float("inf") if found is None else -found, configuration.number)

    return sorted((_standing(c, plan, store) for c in plan.configurations), key=rank)


def winner(standings: Sequence[Standing]) -> Standing | None:
    """The best of those whose every seed was completed, if there is one."""
    first = next(iter(standings), None)
    if first is None or first.statuses["completed"] < len(first.configuration.trials):
        return None
    return first


def tied(standings: Sequence[Standing]) -> list[Standing]:
    """The configurations that are as good as the winner, the winner first; none: no tie."""
    best = winner(standings)
    if best is None or best.metric is None:
        return []
    whole = [s for s in standings if s.statuses["completed"] == len(s.configuration.trials)]
    alike = [s for s in whole if s.metric is not None and math.isclose(s.metric.mean, best.metric.mean)]
    return alike if len(alike) > 1 else []


def table(plan: Plan, standings: Sequence[Standing]) -> Table:
    """One row a configuration; columns for the other ends of runs only where there are some."""
    keys = list(plan.sweep.parameters)
    ends = [status for status in OTHERS if any(s.statuses[status] for s in standings)]
    columns = (
        Column("configuration", "#", "text"),
        *(Column(key, key) for key in keys),
        Column(plan.sweep.metric, plan.sweep.metric.replace("_", " ")),
        Column("n", "n", "count"),
        *(Column(status, status, "count") for status in ends),
    )
    rows: list[tuple[Value, ...]] = [
        (
            str(s.configuration.number),
            *(plain(s.configuration.overrides[key]) for key in keys),
            None if s.metric is None else str(s.metric),
            s.metric.n if s.metric else 0,
            *(s.statuses[status] for status in ends),
        )
        for s in standings
    ]
    return Table(columns, tuple(rows), tuple(_notes(plan, standings)))


def stored(plan: Plan, store: Store, standings: Sequence[Standing]) -> dict[str, Any]:
    """What sweep.json holds: the table with each seed's values, and the winner."""
    best = winner(standings)
    return {
        "metric": plan.sweep.metric,
        "direction": METRICS[plan.sweep.metric],
        "winner": best.configuration.number if best else None,
        "tied": [s.configuration.number for s in tied(standings)],
        "configurations": [
            {
                "number": s.configuration.number,
                "overrides": s.configuration.overrides,
                "mean": s.metric.mean if s.metric else None,
                "half_width": s.metric.half if s.metric else None,
                "statuses": dict(s.statuses),
                "runs": [
                    {
                        "seed": trial.seed,
                        "identity": trial.identity,
                        "value": store.value(trial, plan.sweep.metric),
                    }
                    for trial in s.configuration.trials
                ],
            }
            for s in standings
        ],
    }


def test_accuracy(standing: Standing, store: Store) -> Mean | None:
    """The winner's score on test data, which chose nothing."""
    results = [store.get(trial) for trial in standing.configuration.trials]
    values = [result.summary.get("test_accuracy") for result in results if result is not None]
    return mean([value for value in values if value is not None])


def _standing(configuration: Configuration, plan: Plan, store: Store) -> Standing:
    results = [store.get(trial) for trial in configuration.trials]
    values = [store.value(trial, plan.sweep.metric) for trial in configuration.trials]
    statuses = Counter(result.status if result else "missing" for result in results)
    return Standing(configuration, mean([value for value in values if value is not None]), statuses)


def _notes(plan: Plan, standings: Sequence[Standing]) -> list[str]:
    total = sum((s.statuses for s in standings), Counter[str]())
    parts = ", ".join(f"{total[status]} {status}" for status in (*STATUSES, "missing") if total[status])
    notes = [f"{len(standings)} configurations, {total.total()} trials: {parts}"]
    fewest = min((len(s.configuration.trials) for s in standings), default=0)
    if fewest < FEWEST:
        seeds = "1 seed" if fewest == 1 else f"{fewest} seeds"
        notes.append(f"no intervals: they need at least {FEWEST} seeds, and this sweep has {seeds}")
    else:
        notes.append("± half a 95 % Student-t interval over seeds")
    if alike := tied(standings):
        numbers = [f"#{s.configuration.number}" for s in alike]
        listed = ", ".join(numbers[:-1]) + f" and {numbers[-1]}"
        metric = plan.sweep.metric.replace("_", " ")
        notes.append(f"{listed} tie for the best {metric}; {numbers[0]}, the first of them, is the winner")
    return notes
