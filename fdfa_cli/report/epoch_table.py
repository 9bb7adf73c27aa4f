"""A row for each epoch, or for each probe of the diagnostics: tidy tables for pandas, Polars, DuckDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.query import Query
from fdfa_cli.report.run_table import notes
from fdfa_cli.report.select import ordered
from fdfa_cli.report.varied import varied
from fdfa_cli.storage import RunFolder
from fdfa_cli.tables import Column, Table, Value

#: What is repeated of the run in every row.
IDS = ("run", "identity", "data", "network", "rule", "seed", "status")

Entry = dict[str, Value]


def epochs_table(catalog: Catalog, runs: Sequence[RunFolder], query: Query) -> Table:
    """One row an epoch of every run, with all of its metrics."""
    entries = [
        (run, {name: value for name, value in row.items() if not isinstance(value, dict | list)})
        for run in runs
        for row in catalog.rows(run)
    ]
    return _table(catalog, runs, entries, query)


def diagnostics_table(catalog: Catalog, runs: Sequence[RunFolder], query: Query) -> Table:
    """One row a probe and block, and one of each whole probe, whose block is missing.

    The latter holds what it took, and the seconds and bytes of each phase of a step.
    """
    entries = [
        (run, entry)
        for run in runs
        for row in catalog.rows(run)
        for probe in row.get("diagnostics") or ()
        for entry in _entries(probe)
    ]
    table = _table(catalog, runs, entries, query)
    if entries or not runs:
        return table
    return replace(
        table, notes=(*table.notes, "no diagnostics: the section diagnostics of a recipe asks for them")
    )


def _entries(probe: dict[str, Any]) -> Iterator[Entry]:
    at = {name: probe.get(name) for name in ("step", "epoch")}
    whole = {name: value for name, value in probe.items() if not isinstance(value, dict | list)}
    for phase, figures in probe.get("phases", {}).items():
        whole |= {f"{phase}_{name}": value for name, value in figures.items()}
    yield {**at, "block": None, **whole}
    for block in probe["blocks"]:
        yield at | block


def _table(
    catalog: Catalog, runs: Sequence[RunFolder], entries: list[tuple[RunFolder, Entry]], query: Query
) -> Table:
    own = dict.fromkeys(name for _, entry in entries for name in entry)
    names = query.columns or tuple(dict.fromkeys((*IDS, *varied(catalog, runs), *own)))
    unknown = [n for n in (*names, *(key.name for key in query.sort)) if n not in own]
    catalog.check(unknown, also=tuple(own))

    def get(pair: tuple[RunFolder, Entry], name: str) -> Value:
        run, entry = pair
        return entry.get(name) if name in own else catalog.get(run, name)

    rows = [tuple(get(pair, name) for name in names) for pair in ordered(entries, query.sort, get)]
    columns = tuple(catalog.column(name) if name not in own else _column(name, entries) for name in names)
    return Table(columns, tuple(rows), tuple(notes(runs)))


def _column(name: str, entries: Sequence[tuple[RunFolder, Entry]]) -> Column:
    values = [value for _, entry in entries if (value := entry.get(name)) is not None]
    if any(isinstance(value, str) for value in values):
        return Column(name, name.replace("_", " "))
    whole = all(isinstance(value, int) for value in values)
    return Column(name, name.replace("_", " "), "count" if whole else "number")
