"""Tables before they are drawn: typed columns and plain values, the same for every format."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from fdfa_cli.printable import printable
from fdfa_cli.stats import Interval, Mean

Value = str | int | float | Mean | Interval | None
#: What a column holds: text, a whole number, a share of one, a difference of two of these, any number,
#: seconds, bytes, a sparkline.
Kind = Literal["text", "count", "fraction", "difference", "number", "seconds", "bytes", "curve"]

MISSING = "-"
#: In which unit a kind is shown to people, and how many of it make one of the stored unit.
UNITS: dict[Kind, tuple[str, float]] = {
    "fraction": ("%", 100),
    "difference": ("%", 100),
    "seconds": ("s", 1),
    "bytes": ("MiB", 2**-20),
}


@dataclass(frozen=True)
class Column:
    """A column: its `name` for programs, its `title` for people, who also get the unit of its `kind`.

    `choice`: it says what was asked of a run, not what came out. `best`: which of its values is the best
    one, where that is a matter of more or less. `averaged`: its values are means over runs (`Mean`).
    """

    name: str
    title: str
    kind: Kind = "text"
    choice: bool = False
    best: Literal["max", "min"] | None = None
    averaged: bool = False

    @property
    def left(self) -> bool:
        """Whether it is aligned to the left, as text is."""
        return self.kind in ("text", "curve")

    @property
    def heading(self) -> str:
        """Title and unit; no control character survives."""
        title = printable(self.title)  # a name that a run gave to one of its numbers
        return f"{title} {UNITS[self.kind][0]}" if self.kind in UNITS else title

    def show(self, value: Value) -> str:
        """`value` as people read it, in the unit of the heading; no control character survives."""
        if value is None:
            return MISSING
        if isinstance(value, str):
            return printable(value)
        if isinstance(value, Mean):
            return self._number(value.mean) + (
                f" ± {self._spread(value.half)}" if value.half is not None else ""
            )
        if isinstance(value, Interval):
            return f"{self._number(value.value)} [{self._number(value.low)}, {self._number(value.high)}]"
        return self._number(value)

    def _number(self, value: float) -> str:
        if self.kind in UNITS:
            scaled = value * UNITS[self.kind][1]
            formats = {"fraction": ".2f", "difference": "+.2f"}
            return format(scaled, formats.get(self.kind, ".1f"))
        if isinstance(value, int):
            return str(value)
        if self.kind == "count" or self.choice:  # as it was written, not as a measurement
            return f"{value:g}"
        return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"

    def _spread(self, half: float) -> str:
        """A half-width: as a number of the column, without a sign."""
        return self._number(half).removeprefix("+")


@dataclass(frozen=True)
class Table:
    """Rows of values under columns; the first column names the row.

    `notes` are lines to put below; `shared` is what all rows have in common, to put above. `tasks` has an
    entry for each row: rows of different tasks have no best value in common; where it is empty, all do.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = ()
    shared: str = ""
    tasks: tuple[Hashable, ...] = ()

    @cached_property
    def shown(self) -> list[list[str]]:
        """The rows as people read them."""
        return [[c.show(value) for c, value in zip(self.columns, row, strict=True)] for row in self.rows]

    @cached_property
    def best(self) -> set[tuple[int, int]]:
        """Row and column of the best value of each task in each column that has one.

        All that look equally good are among them. A task with one value has none: there is nothing to be
        better than.
        """
        found: set[tuple[int, int]] = set()
        for j, column in enumerate(self.columns):
            if column.best is None:
                continue
            by_task: dict[Hashable, dict[int, float]] = {}
            for i, row in enumerate(self.rows):
                if (x := number_of(row[j])) is not None:
                    by_task.setdefault(self.tasks[i] if self.tasks else None, {})[i] = x
            for numbers in by_task.values():
                best = column.show((max if column.best == "max" else min)(numbers.values()))
                alike = {(i, j) for i, x in numbers.items() if column.show(x) == best}
                found |= alike if len(numbers) > 1 else set()
        return found

    def keep(self, indices: Sequence[int]) -> Table:
        """The table of these columns, in this order."""
        return replace(
            self,
            columns=tuple(self.columns[i] for i in indices),
            rows=tuple(tuple(row[i] for i in indices) for row in self.rows),
        )


#: What people are shown of a run.
SUMMARY = (
    Column("run", "run"),
    Column("status", "status"),
    Column("data", "data", choice=True),
    Column("network", "network", choice=True),
    Column("rule", "rule", choice=True),
    Column("seed", "seed", "count", choice=True),
    Column("epochs", "epochs", "count", choice=True),
    Column("train_loss", "train loss", "number", best="min"),
    Column("val_accuracy", "val acc", "fraction", best="max"),
    Column("test_accuracy", "test acc", "fraction", best="max"),
    Column("train_seconds", "train", "seconds"),
)
#: What programs get besides.
DETAILS = (
    Column("train_accuracy", "train acc", "fraction", best="max"),
    Column("val_loss", "val loss", "number", best="min"),
    Column("test_loss", "test loss", "number", best="min"),
    Column("best_val_accuracy", "best val acc", "fraction", best="max"),
    Column("eval_seconds", "eval", "seconds"),
    Column("wall_seconds", "wall", "seconds"),
    Column("peak_memory_bytes", "peak memory", "bytes"),
    Column("device", "device", choice=True),
    Column("created", "created"),
    Column("identity", "identity"),
    Column("error", "error"),
    Column("study", "study", choice=True),
    Column("path", "path"),
)


def number_of(value: Value) -> float | None:
    """`value` as one number: of a mean or an interval its centre; None where it is none."""
    if isinstance(value, Mean):
        return value.mean
    if isinstance(value, Interval):
        return value.value
    return None if isinstance(value, str) else value
