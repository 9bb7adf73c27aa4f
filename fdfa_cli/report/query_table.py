"""The table that answers a query, with a row for each run, group of runs, epoch or probe."""

from __future__ import annotations

from dataclasses import replace

from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.enums import RowKind
from fdfa_cli.report.epoch_table import diagnostics_table, epochs_table
from fdfa_cli.report.group_table import groups_table
from fdfa_cli.report.groups import group, without_tuning
from fdfa_cli.report.query import Query
from fdfa_cli.report.run_table import runs_table
from fdfa_cli.report.select import select
from fdfa_cli.tables import Table


def query_table(catalog: Catalog, query: Query, details: bool = False, curves: bool = False) -> Table:
    """The table that `query` asks for, of the runs of `catalog`.

    `details`: with all that is known, for programs; `curves`: with learning curves, for people. Raises
    `UsageError` for a name that the runs do not have.
    """
    runs = select(catalog, query.where)
    if query.rows is RowKind.epochs:
        return epochs_table(catalog, runs, query)
    if query.rows is RowKind.diagnostics:
        return diagnostics_table(catalog, runs, query)
    if query.by:
        averaged, apart = without_tuning(catalog, runs, query)
        table = groups_table(catalog, group(catalog, averaged, query.by), query, details, curves)
        return replace(table, notes=(*table.notes, *apart))
    return runs_table(catalog, runs, query, details, curves)
