"""Tables on standard output: to fit a terminal, or for a pipe with a line a row."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from fdfa_cli.printable import printable
from fdfa_cli.report import terminal
from fdfa_cli.report.sparkline import BLOCKS, GAP
from fdfa_cli.tables import Column, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.segment import Segments

#: How to write, where an encoding lacks it, what tables are made of: curves, ± and the minus sign.
_PLAIN = str.maketrans(dict(zip(BLOCKS, "_.-~=+*#", strict=True)) | {GAP: "?", "±": "+/-", "−": "-"})


def show(table: Table) -> None:
    """Print `table` on standard output."""
    table = writable(table, sys.stdout.encoding)
    if not sys.stdout.isatty():
        sys.stdout.write(terminal.for_pipe(table))
        return
    from rich.console import Console

    console = Console()
    console.print(styled(terminal.for_terminal(table, console.width), console), soft_wrap=True, end="")


def show_texts(titles: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str] = ()) -> None:
    """Print `rows` of text under `titles`; the columns in `numbers` are aligned to the right."""
    columns = tuple(Column(title, title, "count" if title in numbers else "text") for title in titles)
    show(Table(columns, tuple(map(tuple, rows))))


def styled(lines: Iterable[terminal.Line], console: Console) -> Segments:
    """`lines` as rich draws them, no text read as markup."""
    from rich.segment import Segment, Segments

    style_of = cache(console.get_style)
    return Segments(Segment(text, style_of(style)) for line in lines for text, style in [*line, ("\n", "")])


def writable(table: Table, encoding: str | None) -> Table:
    """`table` in characters that `encoding` has (None: all): itself, or all of its text in ASCII."""
    try:
        text = [table.shared, *table.notes, *(column.title for column in table.columns)]
        text += [cell for row in table.shown for cell in row]
        (printable("".join(text)) + BLOCKS + GAP + "±−").encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return Table(
            tuple(replace(column, title=_ascii(column.title)) for column in table.columns),
            tuple(tuple(map(_ascii, row)) for row in table.shown),
            tuple(map(_ascii, table.notes)),
            _ascii(table.shared),
        )
    return table


def _ascii(text: str) -> str:
    return text.translate(_PLAIN).encode("ascii", "backslashreplace").decode()
