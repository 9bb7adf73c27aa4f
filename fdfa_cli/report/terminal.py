"""A table as lines of text: for a terminal of some width, or for a pipe, where a row is a line.

Nothing is ever cut. Where a table is too wide for the terminal, headings take two lines, then the name
of each row goes on a line of its own, and at last every row becomes a list.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len

from fdfa_cli.printable import printable
from fdfa_cli.tables import Column, Table

#: Pieces of a line with their styles ("" for none). Styles are for a terminal; the text says it all.
Line = list[tuple[str, str]]

GAP = "  "
_STATUS_STYLES = {"completed": "green", "running": "cyan", "interrupted": "yellow", "pruned": "dim"}


def for_pipe(table: Table) -> str:
    """Every column, a heading and a line for each row, whatever their length; no style."""
    lines = ["".join(text for text, _ in line).rstrip() for line in _Grid(table).lines()]
    lines = [printable(table.shared), "", *lines] if table.shared else lines
    lines += ["", *map(printable, table.notes)] if table.notes else []
    return "".join(f"{line}\n" for line in lines)


def for_terminal(table: Table, width: int) -> list[Line]:
    """Lines for a terminal `width` cells wide; choices that all rows share are named once, above."""
    shared = _shared(table)
    constants = "   ".join(
        [
            *([printable(table.shared)] if table.shared else []),
            *(
                f"{printable(table.columns[i].title)} {table.columns[i].show(table.rows[0][i])}"
                for i in shared
            ),
        ]
    )
    table = table.keep([i for i in range(len(table.columns)) if i not in shared])
    grids = (_Grid(table, short, below) for short, below in ((False, False), (True, False), (True, True)))
    body = next((grid.lines() for grid in grids if grid.width() <= width), None) or _lists(table, width)
    above = wrapped([constants], width) if constants else []
    below = wrapped([printable(note) for note in table.notes], width)
    return [*above, *([[]] if above else []), *body, *([[]] if below else []), *below]


class _Grid:
    """Aligned columns under headings.

    `short` headings take two lines; `named_below` puts the name of each row below it.
    """

    def __init__(self, table: Table, short: bool = False, named_below: bool = False) -> None:
        first = 1 if named_below else 0
        self.columns = table.columns[first:]
        self.names = [row[0] for row in table.shown] if named_below else None
        self.cells = [row[first:] for row in table.shown]
        self.headings = [_halves(c.heading) if short else ("", c.heading) for c in self.columns]
        self.widths = [
            max(map(_width, (*heading, *(row[i] for row in self.cells))))
            for i, heading in enumerate(self.headings)
        ]

    def width(self) -> int:
        """The number of cells that the longest line takes."""
        names = [len(GAP) + _width(name) for name in self.names or ()]
        return max(sum(self.widths) + len(GAP) * (len(self.widths) - 1), *names, 0)

    def lines(self) -> list[Line]:
        lines = [
            self._line(half, ["bold"] * len(half)) for half in zip(*self.headings, strict=True) if any(half)
        ]
        for i, cells in enumerate(self.cells):
            lines.append(self._line(cells, list(map(_style, self.columns, cells))))
            if self.names:
                lines.append([(GAP + self.names[i], "dim")])
        return lines

    def _line(self, cells: Sequence[str], styles: list[str]) -> Line:
        padded = [
            _pad(cell, width, right=not column.left)
            for column, cell, width in zip(self.columns, cells, self.widths, strict=True)
        ]
        return list(zip([*(cell + GAP for cell in padded[:-1]), padded[-1]], styles, strict=True))


def _shared(table: Table) -> list[int]:
    """The columns that choose (never what came out) and have one value in all of several rows."""
    return [
        i
        for i, column in enumerate(table.columns)
        if i > 0 and column.choice and len(table.rows) > 1 and len({row[i] for row in table.rows}) == 1
    ]


def _lists(table: Table, room: int) -> list[Line]:
    """Each row as its name and a line for each value, which is broken between words to fit the `room`."""
    columns = table.columns[1:]
    width = max((_width(column.heading) for column in columns), default=0)
    indent = 2 * len(GAP) + width
    lines: list[Line] = []
    for name, *cells in table.shown:
        lines += [[]] if lines else []
        lines.append([(name, "bold")])
        for column, cell in zip(columns, cells, strict=True):
            first, *more = _broken(cell, room - indent)
            lines.append([(f"{GAP}{_pad(column.heading, width)}{GAP}", ""), (first, _style(column, cell))])
            lines += [[(f"{' ' * indent}{part}", "")] for part in more]
    return lines


def _broken(text: str, width: int) -> list[str]:
    """`text` in lines of `width` cells, broken between words; a word that is longer stays whole."""
    wrapper = textwrap.TextWrapper(max(width, 1), break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text) or [""]


def wrapped(texts: Sequence[str], width: int) -> list[Line]:
    """`texts` broken between words, never inside the name of a run."""
    wrapper = textwrap.TextWrapper(
        width, subsequent_indent=GAP, break_long_words=False, break_on_hyphens=False
    )
    return [[(line, "")] for text in texts for line in wrapper.wrap(text)]


def _halves(heading: str) -> tuple[str, str]:
    """`heading` on two lines: its first word, and the rest with its unit; one word goes on the second."""
    first, _, rest = heading.partition(" ")
    return (first, rest) if rest else ("", heading)


def _pad(text: str, width: int, right: bool = False) -> str:
    size = width + len(text) - _width(text)
    return text.rjust(size) if right else text.ljust(size)


def _width(text: str) -> int:
    """How many cells of a terminal `text` takes."""
    return len(text) if text.isascii() else cell_len(text)


def _style(column: Column, cell: str) -> str:
    return _STATUS_STYLES.get(cell, "bold red") if column.name == "status" else ""
