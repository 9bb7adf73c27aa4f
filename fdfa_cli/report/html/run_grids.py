"""The other tables of the page: every run, what went wrong, and where the runs come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fdfa_cli.printable import printable, printable_lines
from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.html.grid import Detail, Grid, grid
from fdfa_cli.report.html.reproduce import blocks, command, line, shown
from fdfa_cli.report.query import Query
from fdfa_cli.report.run_table import runs_table
from fdfa_cli.report.select import ordered
from fdfa_cli.storage import RunFolder
from fdfa_cli.tables import DETAILS, Column, Table

#: What a process that wrote a run says of itself, with the name that readers see.
ORIGIN = {
    "fdfa": "fdfa", "commit": "commit", "python": "Python", "torch": "PyTorch", "platform": "platform",
    "cores": "cores", "device": "device", "threads": "threads", "workers": "trained at a time",
}  # fmt: skip


def runs_grid(catalog: Catalog, runs: Sequence[RunFolder], query: Query) -> Grid:
    """A row a run; what was asked of all alike is left out, unless columns were asked for."""
    runs = ordered(runs, query.sort, catalog.get)
    table = runs_table(catalog, runs, replace(query, sort=()))
    if not query.columns:
        shared = {column.name for column in _shared(table)}
        table = table.keep([i for i, column in enumerate(table.columns) if column.name not in shared])
    details = [Detail(printable(run.name), _facts(catalog, run), blocks(catalog, [run])) for run in runs]
    return grid("runs", "Runs", replace(table, notes=()), details, [run.status for run in runs])


def shared(catalog: Catalog, runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """What was asked of all runs alike, as title and value."""
    table = runs_table(catalog, runs, Query())
    return [(c.title, c.show(catalog.get(runs[0], c.name))) for c in _shared(table)]


def troubles(runs: Sequence[RunFolder]) -> list[tuple[str, str, str]]:
    """Name and status of the runs that ended otherwise than completed, with the stored reason."""
    return [
        (printable(run.name), run.status, printable_lines(run.record.error or "no reason was stored"))
        for run in runs
        if run.status != "completed"
    ]


def origins_grid(runs: Sequence[RunFolder]) -> Grid:
    """A row for each set of versions, machine and settings that wrote runs, the last of every run."""
    counts = Counter(tuple(_origin(run).values()) for run in runs)
    columns = [*(Column(key, title) for key, title in ORIGIN.items()), Column("runs", "runs", "count")]
    rows = tuple((*values, n) for values, n in counts.items())
    return grid("origins", "Provenance", Table(tuple(columns), rows))


def commands(runs: Sequence[RunFolder]) -> list[tuple[str, int]]:
    """Each command line that trained runs, and how many."""
    return list(Counter(shown(line(command(run))) for run in runs).items())


def _shared(table: Table) -> list[Column]:
    """The columns that choose (never what came out) and have one value in all of several rows."""
    return [
        column
        for i, column in enumerate(table.columns)
        if column.choice and len(table.rows) > 1 and len({row[i] for row in table.rows}) == 1
    ]


def _facts(catalog: Catalog, run: RunFolder) -> list[tuple[str, str]]:
    known: list[tuple[str, str]] = [("status", run.status)]
    if run.record.error:
        known.append(("error", printable_lines(run.record.error)))
    for column in DETAILS:
        value = catalog.get(run, column.name)
        if value is not None and column.name != "error":
            known.append((column.heading, column.show(value)))
    return known + [
        (ORIGIN[key], printable(value)) for key, value in _origin(run).items() if value and key != "device"
    ]


def _origin(run: RunFolder) -> dict[str, str | None]:
    """What the last process that wrote `run` said of itself."""
    entry: dict[str, Any] = run.record.provenance[-1] if run.record.provenance else {}
    found = {key: None if entry.get(key) is None else str(entry[key]) for key in ORIGIN}
    if found["commit"]:
        found["commit"] = found["commit"][:12] + (" with changes" if entry.get("dirty") else "")
    return found
