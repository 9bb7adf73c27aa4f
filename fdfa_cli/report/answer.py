"""The table that answers a query, with a row for each run, group of runs, epoch or probe."""

from __future__ import annotations

from dataclasses import replace

from fdfa_cli.report.epoch_table import diagnostics_table, epochs_table
from fdfa_cli.report.facts import Facts
from fdfa_cli.report.group_table import groups_table
from fdfa_cli.report.groups import group, without_tuning
from fdfa_cli.report.names import Rows
from fdfa_cli.report.query import Query
from fdfa_cli.report.run_table import runs_table
from fdfa_cli.report.select import select
from fdfa_cli.tables import Table


def answer(facts: Facts, query: Query, details: bool = False, curves: bool = False) -> Table:
    """The table that `query` asks for, of the runs of `facts`.

    `details`: with all that is known, for programs; `curves`: with learning curves, for people. Raises
    `UsageError` for a name that the runs do not have.
    """
    runs = select(facts, query.where)
    if query.rows is Rows.epochs:
        return epochs_table(facts, runs, query)
    if query.rows is Rows.diagnostics:
        return diagnostics_table(facts, runs, query)
    if query.by:
        averaged, apart = without_tuning(facts, runs, query)
        table = groups_table(facts, group(facts, averaged, query.by), query, details, curves)
        return replace(table, notes=(*table.notes, *apart))
    return runs_table(facts, runs, query, details, curves)
