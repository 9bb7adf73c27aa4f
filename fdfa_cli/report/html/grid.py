"""Tables of the page: what is read, what is sorted by, and what opens beside a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fdfa_cli.tables import Column, Table, number_of


@dataclass(frozen=True)
class Cell:
    """What is read, and what the row is sorted by (None: last, whichever way)."""

    text: str
    sort: str | float | None


@dataclass(frozen=True)
class Block:
    """Text under a label, with a button that copies it."""

    label: str
    text: str


@dataclass(frozen=True)
class Detail:
    """What a row's button opens: facts as pairs, and blocks to copy."""

    title: str
    facts: list[tuple[str, str]]
    blocks: list[Block]


@dataclass(frozen=True)
class GridRow:
    """Cells in the order of the columns; `status` is that of a run."""

    cells: list[Cell]
    detail: Detail | None = None
    status: str = ""


@dataclass(frozen=True)
class Grid:
    """A table under `caption`; `id` tells the tables of a page apart."""

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: list[GridRow]
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def statuses(self) -> list[str]:
        """What rows can be filtered by."""
        return list(dict.fromkeys(row.status for row in self.rows if row.status))


def grid(
    id: str, caption: str, table: Table, details: Sequence[Detail] = (), statuses: Sequence[str] = ()
) -> Grid:
    """`table` for the page, with a detail and a status for each row, or for none."""
    rows = [
        GridRow(
            [
                Cell(text, text if isinstance(value, str) else number_of(value))
                for text, value in zip(texts, values, strict=True)
            ],
            details[i] if details else None,
            statuses[i] if statuses else "",
        )
        for i, (texts, values) in enumerate(zip(table.shown, table.rows, strict=True))
    ]
    return Grid(id, caption, table.columns, rows, table.notes)
