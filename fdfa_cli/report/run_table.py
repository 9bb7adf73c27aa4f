"""A row for each run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fdfa_cli.printable import printable
from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.query import Query
from fdfa_cli.report.select import SortKey, ordered
from fdfa_cli.report.sparkline import CURVE, curve_column, metric_of_epochs, sparkline
from fdfa_cli.report.varied import varied
from fdfa_cli.storage import STATUSES, RunFolder
from fdfa_cli.tables import DETAILS, SUMMARY, Table, Value

#: More settings than this have no column where people read: a note names them.
MOST_SETTINGS = 6


def runs_table(
    catalog: Catalog, runs: Sequence[RunFolder], query: Query, details: bool = False, curves: bool = False
) -> Table:
    """One row a run, in the order given unless the `query` sorts; those of one sweep by what it varied.

    Unless columns are asked for, settings in which the runs differ have a column, and so has the study where
    there are several. Below it, how many runs there are of each status, and why each one that failed or
    diverged did.
    """
    differing, left = ([], []) if query.columns else _differing(catalog, runs, details)
    names = list(query.columns) or _usual(query, differing, details)
    names += [CURVE] if curves and not query.columns else []
    catalog.check((*names, *query.metrics, *(key.name for key in query.sort)), also=(CURVE,))
    runs = ordered(runs, query.sort or _by_sweep(catalog, runs, differing), catalog.get)
    columns = [catalog.column(name) for name in names if name != CURVE]
    rows: list[list[Value]] = [[catalog.get(run, column.name) for column in columns] for run in runs]
    if CURVE in names:
        lines = [catalog.rows(run) for run in runs]
        metric = metric_of_epochs(lines, query.metrics)
        place = names.index(CURVE)
        columns.insert(place, curve_column(metric))
        for row, line in zip(rows, lines, strict=True):
            row.insert(place, sparkline([epoch.get(metric) for epoch in line]))
    below = notes(runs)
    if left:
        below.append(f"the runs also differ in {', '.join(left)}: --columns shows them")
    tasks = tuple((run.record.facts["data"], run.record.facts["network"]) for run in runs)
    return Table(tuple(columns), tuple(map(tuple, rows)), tuple(below), tasks=tasks)


def _usual(query: Query, differing: Sequence[str], details: bool) -> list[str]:
    """The columns where none are asked for: settings beside the other settings, for programs at the end."""
    usual = [column.name for column in (SUMMARY + DETAILS if details else SUMMARY)]
    at = len(usual) if details else usual.index("seed")
    more = [name for name in query.metrics if name not in usual]
    return [*usual[:at], *(name for name in differing if name not in usual), *usual[at:], *more]


def _differing(catalog: Catalog, runs: Sequence[RunFolder], details: bool) -> tuple[list[str], list[str]]:
    """The names of what the runs differ in besides what has a column, and those there is no room for."""
    found = varied(catalog, runs)
    kept = found if details else found[:MOST_SETTINGS]
    study = ["study"] if len({catalog.get(run, "study") for run in runs}) > 1 else []
    return [*study, *kept], found[len(kept) :]


def _by_sweep(catalog: Catalog, runs: Sequence[RunFolder], differing: Sequence[str]) -> list[SortKey]:
    """How to sort the runs of a single sweep: its trials are stored in no order of their values."""
    studies = {catalog.study(run) for run in runs}
    study = studies.pop() if len(studies) == 1 else None
    if study is None or study.kind != "sweep":
        return []
    return [*(SortKey(name) for name in differing if study.varies(name)), SortKey("rule"), SortKey("seed")]


def notes(runs: Sequence[RunFolder]) -> list[str]:
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
