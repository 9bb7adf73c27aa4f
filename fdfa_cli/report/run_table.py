"""A row for each run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fdfa_cli.report.facts import Facts
from fdfa_cli.report.query import Query
from fdfa_cli.report.select import ordered
from fdfa_cli.report.sparkline import CURVE, curve_column, metric_of_epochs, sparkline
from fdfa_cli.report.tables import DETAILS, SUMMARY, Table, Value, printable
from fdfa_cli.runs import STATUSES, Run


def runs_table(
    facts: Facts, runs: Sequence[Run], query: Query, details: bool = False, curves: bool = False
) -> Table:
    """One row a run, in the order given unless the `query` sorts.

    Below it, how many runs there are of each status, and why each one that failed or diverged did.
    """
    usual = [column.name for column in (SUMMARY + DETAILS if details else SUMMARY)]
    names = list(query.columns) or [*usual, *(name for name in query.metrics if name not in usual)]
    names += [CURVE] if curves and not query.columns else []
    facts.check((*names, *query.metrics, *(key.name for key in query.sort)), also=(CURVE,))
    runs = ordered(runs, query.sort, facts.get)
    columns = [facts.column(name) for name in names if name != CURVE]
    rows: list[list[Value]] = [[facts.get(run, column.name) for column in columns] for run in runs]
    if CURVE in names:
        lines = [facts.rows(run) for run in runs]
        metric = metric_of_epochs(lines, query.metrics)
        place = names.index(CURVE)
        columns.insert(place, curve_column(metric))
        for row, line in zip(rows, lines, strict=True):
            row.insert(place, sparkline([epoch.get(metric) for epoch in line]))
    return Table(tuple(columns), tuple(map(tuple, rows)), tuple(notes(runs)))


def notes(runs: Sequence[Run]) -> list[str]:
    """How many of `runs` ended how, and why each one that failed or diverged did."""
    if not runs:
        return []
    counts = Counter(run.status for run in runs)
    parts = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    lines = [f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {parts}"]
    for run in runs:
        if run.status in ("failed", "diverged"):
            reason = (run.record.error or "no reason was stored").partition("\n")[0]
            lines.append(printable(f"{run.name} {run.status}: {reason}"))
    return lines
