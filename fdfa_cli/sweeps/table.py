"""The table of a sweep: its configurations best first."""

from __future__ import annotations

from typing import Any

from fdfa_cli.printable import counted
from fdfa_cli.recipe.sweep import METRICS
from fdfa_cli.recipe.write import plain
from fdfa_cli.stats import FEWEST
from fdfa_cli.storage import STATUSES
from fdfa_cli.sweeps.result import SweepResult
from fdfa_cli.tables import Column, Table, Value

#: How a run can end other than completed, as counted in the table.
OTHERS = STATUSES[1:]


def table(result: SweepResult) -> Table:
    """One row a configuration; columns for other ends than completed only where some run has them."""
    sweep, keys, total = result.plan.sweep, list(result.plan.sweep.parameters), result.statuses
    ends = [status for status in OTHERS if total[status]]
    columns = (
        Column("configuration", "#", "text"),
        *(Column(key, key) for key in keys),
        Column(sweep.metric, sweep.metric.replace("_", " ")),
        Column("n", "n", "count"),
        *(Column(status, status, "count") for status in ends),
    )
    rows: list[tuple[Value, ...]] = [
        (
            str(ranked.configuration.number),
            *(plain(ranked.configuration.overrides[key]) for key in keys),
            None if ranked.metric is None else str(ranked.metric),
            ranked.metric.n if ranked.metric else 0,
            *(ranked.statuses[status] for status in ends),
        )
        for ranked in result.ranking
    ]
    return Table(columns, tuple(rows), tuple(_notes(result)))


def as_json(result: SweepResult) -> dict[str, Any]:
    """What sweep.json holds: the table with the value of each seed, and the winner."""
    metric, best = result.plan.sweep.metric, result.winner
    return {
        "metric": metric,
        "direction": METRICS[metric],
        "winner": best.configuration.number if best else None,
        "tied": [ranked.configuration.number for ranked in result.tied],
        "configurations": [
            {
                "number": ranked.configuration.number,
                "overrides": ranked.configuration.overrides,
                "mean": ranked.metric.mean if ranked.metric else None,
                "half_width": ranked.metric.half if ranked.metric else None,
                "statuses": dict(ranked.statuses),
                "runs": [
                    {
                        "seed": trial.seed,
                        "identity": trial.identity,
                        "value": None if run is None else run.final(metric),
                    }
                    for trial, run in zip(ranked.configuration.trials, ranked.results, strict=True)
                ],
            }
            for ranked in result.ranking
        ],
    }


def _notes(result: SweepResult) -> list[str]:
    total = result.statuses
    parts = ", ".join(f"{total[status]} {status}" for status in (*STATUSES, "missing") if total[status])
    configurations = counted(len(result.ranking), "configuration")
    notes = [f"{configurations}, {counted(total.total(), 'trial')}: {parts}"]
    seeds = len(result.plan.seeds)
    if seeds < FEWEST:
        notes.append(f"no intervals: they need at least {FEWEST} seeds, and this sweep has {seeds}")
    else:
        notes.append("± is half of a 95 % Student-t interval over the seeds")
    if alike := result.tied:
        numbers = [f"#{ranked.configuration.number}" for ranked in alike]
        listed = ", ".join(numbers[:-1]) + f" and {numbers[-1]}"
        metric = result.plan.sweep.metric.replace("_", " ")
        notes.append(f"{listed} tie for the best {metric}; {numbers[0]}, the first of them, is the winner")
    return notes
