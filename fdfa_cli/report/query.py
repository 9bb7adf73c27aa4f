"""What is asked of stored runs."""

from __future__ import annotations

from dataclasses import dataclass

from fdfa_cli.errors import UsageError
from fdfa_cli.report.enums import RowKind
from fdfa_cli.report.select import Condition, SortKey


@dataclass(frozen=True)
class Query:
    """Which runs (`where`), what a row is (`rows`, or a group by the names `by`), `columns` and order.

    `metrics` are the figures of groups; the first of them that epochs have is drawn as a curve. What is
    empty is as usual. `baseline` says which groups others are compared with. Raises `UsageError` where two
    wishes exclude each other.
    """

    where: tuple[Condition, ...] = ()
    by: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    sort: tuple[SortKey, ...] = ()
    columns: tuple[str, ...] = ()
    rows: RowKind = RowKind.runs
    baseline: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        if self.rows is not RowKind.runs and (self.by or self.metrics):
            option = "--group-by averages" if self.by else "--metric is of"
            raise UsageError(f"{option} runs at their end: it does not go with --rows {self.rows}")
