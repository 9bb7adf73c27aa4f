"""A table as lines of text: for a terminal of some width, or for a pipe, where a row is a line.

Nothing is ever cut. Where a table is too wide for the terminal, what does not vary is named once above
it, then headings take two lines, then the name of each row goes on a line of its own, and at last every
row becomes a list.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from fdfa_cli.report.tables import Column, Table, printable

#: Pieces of a line with their styles ("" for none). Styles are for a terminal; the text says it all.
Line = list[tuple[str, str]]

GAP = "  "
_STATUS_STYLES = {"completed": "green", "running": "cyan", "interrupted": "yellow", "pruned": "dim"}


def plain(table: Table) -> str:
    """For a pipe: every column, a heading and a line for each row, whatever their length."""
    return "".join(_text(line).rstrip() + "\n" for line in [*_grid(table), *_notes(table)])


def styled(table: Table, width: int) -> Text:
    """For a terminal `width` cells wide."""
    constants, varying = _without_constants(table)
    above: list[Line] = [[(line, "")] for line in textwrap.wrap("   ".join(constants), width)]
    body = (
        _fitting(_grid(varying), width)
        or _fitting(_grid(varying, short=True), width)
        or _fitting(_grid(varying, short=True, named_below=True), width)
        or _lists(varying)
    )
    lines = [*above, *([[]] if above else []), *body, *_notes(table)]
    return Text("\n").join(Text.assemble(*line) for line in lines)


def _fitting(lines: list[Line], width: int) -> list[Line] | None:
    return lines if all(cell_len(_text(line)) <= width for line in lines) else None


def _without_constants(table: Table) -> tuple[list[str], Table]:
    """Of tables with several rows, the recipe's choices that all rows share, and the table without them."""
    shared = [
        i
        for i, column in enumerate(table.columns)
        if i > 0 and column.kind in ("text", "count") and column.name != "status"
        if len(table.rows) > 1 and len(set(table.column(i))) == 1
    ]
    constants = [f"{table.columns[i].title} {table.columns[i].show(table.rows[0][i])}" for i in shared]
    return constants, table.keep([i for i in range(len(table.columns)) if i not in shared])


def _grid(table: Table, short: bool = False, named_below: bool = False) -> list[Line]:
    """Aligned columns under headings; `short` headings take two lines, `named_below` puts names below."""
    first = 1 if named_below else 0
    columns = table.columns[first:]
    cells = [row[first:] for row in table.shown()]
    headings = [_halves(column.heading) if short else ("", column.heading) for column in columns]
    widths = [max(map(cell_len, heading)) for heading in headings]
    for row in cells:
        widths = [max(width, cell_len(cell)) for width, cell in zip(widths, row, strict=True)]
    bold = ["bold"] * len(columns)
    lines = [_aligned(columns, half, widths, bold) for half in zip(*headings, strict=True) if any(half)]
    for (name, *_), row in zip(table.shown(), cells, strict=True):
        styles = [_style(column, cell) for column, cell in zip(columns, row, strict=True)]
        lines.append(_aligned(columns, row, widths, styles))
        if named_below:
            lines.append([(GAP + name, "dim")])
    return lines


def _lists(table: Table) -> list[Line]:
    """Each row as its name and then a line for each value."""
    columns = table.columns[1:]
    width = max((cell_len(column.heading) for column in columns), default=0)
    lines: list[Line] = []
    for key, *row in table.shown():
        lines += [[]] if lines else []
        lines.append([(key, "bold")])
        for column, cell in zip(columns, row, strict=True):
            lines.append([(f"{GAP}{_pad(column.heading, width)}{GAP}", ""), (cell, _style(column, cell))])
    return lines


def _notes(table: Table) -> list[Line]:
    return [[], *([(printable(note), "")] for note in table.notes)] if table.notes else []


def _halves(heading: str) -> tuple[str, str]:
    """`heading` on two lines: its first word, and the rest with its unit; one word goes on the second."""
    first, _, rest = heading.partition(" ")
    return (first, rest) if rest else ("", heading)


def _aligned(columns: Sequence[Column], cells: Sequence[str], widths: list[int], styles: list[str]) -> Line:
    line: Line = []
    for i, (column, cell, width, style) in enumerate(zip(columns, cells, widths, styles, strict=True)):
        line.append((GAP if i else "", ""))
        line.append((_pad(cell, width, right=column.kind != "text"), style))
    return line


def _pad(text: str, width: int, right: bool = False) -> str:
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank


def _style(column: Column, cell: str) -> str:
    return _STATUS_STYLES.get(cell, "bold red") if column.name == "status" else ""


def _text(line: Line) -> str:
    return "".join(text for text, _ in line)
