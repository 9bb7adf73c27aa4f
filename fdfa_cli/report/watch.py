"""A report that follows what is being trained: redrawn on a terminal, a block a change in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Self

from fdfa_cli.printable import printable
from fdfa_cli.report import terminal
from fdfa_cli.report.console import show, styled, writable
from fdfa_cli.report.poll import PollResult, RunPoller
from fdfa_cli.report.query import Query
from fdfa_cli.report.query_table import query_table
from fdfa_cli.storage import RunFolder
from fdfa_cli.tables import Table

#: Seconds between two looks; longer where a look takes long, so that watching never takes a whole core.
INTERVAL = 1.0
REST = 4.0


def watch(poller: RunPoller, query: Query, see: Callable[[PollResult], None]) -> None:
    """Show what `poller` finds until an exception (Ctrl-C) ends it; `see` is told of every look.

    Raises `UsageError` for a name of the `query` that the runs do not have.
    """
    with _Screen() if sys.stdout.isatty() else _Pipe() as screen:
        while True:
            began = time.perf_counter()
            result = poller.poll()
            see(result)
            screen.show(result, query)
            time.sleep(max(INTERVAL, REST * (time.perf_counter() - began)))


def heading(result: PollResult) -> list[str]:
    """The lines above the table: how far everything is, and what cannot be read."""
    waiting = [] if result.runs else ["waiting for runs"]
    return [*waiting, *result.progress(), *(f"cannot be read: {error}" for error in result.damaged)]


class _Pipe:
    """Prints everything again when something has changed."""

    def __init__(self) -> None:
        self._before = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, result: PollResult, query: Query) -> None:
        """Print what `result` found, unless it is what was printed last."""
        table = terminal.for_pipe(writable(query_table(result.catalog, query), sys.stdout.encoding))
        parts = ["".join(f"{printable(line)}\n" for line in heading(result)), table if result.runs else ""]
        text = "\n".join(filter(None, parts))
        if text != self._before:
            sys.stdout.write(f"\n{text}" if self._before else text)
            sys.stdout.flush()
            self._before = text


class _Screen:
    """Draws over itself; at the end, what was seen last stays on the terminal."""

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        self._table: Table | None = None
        self._runs: tuple[RunFolder, ...] = ()
        self._lines: list[terminal.Line] = []
        self._drawn: tuple[list[terminal.Line], tuple[int, int]] | None = None
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the screen as it was, and below it the last table, whole."""
        self._live.stop()
        for line in self._lines:
            self._console.print(styled([line], self._console), soft_wrap=True, end="")
        if self._table is not None and self._table.rows:
            show(self._table)

    def show(self, result: PollResult, query: Query) -> None:
        """Draw what `result` found, as far as the window is high enough; what is left out is counted."""
        if self._table is None or result.runs != self._runs:
            self._runs = result.runs
            table = query_table(result.catalog, query, curves=True)
            self._table = writable(table, sys.stdout.encoding)
        width, height = self._console.size
        self._lines = terminal.wrapped(list(map(printable, heading(result))), width)
        above = [*self._lines, *([[]] if self._lines else [])]
        below = (
            fitting(self._table, width, height - len(above), first=bool(query.sort)) if result.runs else []
        )
        drawn = [*above, *below]
        if (drawn, (width, height)) != self._drawn:
            self._drawn = drawn, (width, height)
            self._live.update(styled(drawn, self._console), refresh=True)


def fitting(table: Table, width: int, height: int, first: bool) -> list[terminal.Line]:
    """The lines of as many rows of `table` as `height` lines hold: the `first` ones, or the last."""
    kept = min(len(table.rows), max(height, 1))
    while True:
        rows = table.rows[:kept] if first else table.rows[len(table.rows) - kept :]
        left = len(table.rows) - kept
        notes = (f"{left} {'more' if first else 'earlier'} rows: the window is too low", *table.notes[:1])
        lines = terminal.for_terminal(replace(table, rows=rows, notes=notes if left else table.notes), width)
        if len(lines) <= height or kept <= 1:
            return lines
        kept = max(1, min(kept - 1, kept * height // len(lines)))
