"""Printing a list of things: columns on a terminal, and nothing wrapped or cut in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Literal

#: Wider than any line: rich wraps at the width it is told.
UNLIMITED = 10_000


def print_listing(titles: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Print `rows` under `titles`, the columns named in `right` aligned to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, title in enumerate(titles):
        side: Literal["left", "right"] = "right" if title in right else "left"
        table.add_column(title, overflow="fold", justify=side, no_wrap=i == 0)  # the first is a name
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    console.width = UNLIMITED
    with console.capture() as captured:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
