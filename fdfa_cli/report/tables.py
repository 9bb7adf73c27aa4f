"""Tables before they are drawn: typed columns and plain values, the same for every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fdfa_cli.compare.stats import Interval, Mean

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
    one, where that is a matter of more or less. `figures`: its values are means over runs (`Mean`).
    """

    name: str
    title: str
    kind: Kind = "text"
    choice: bool = False
    best: Literal["max", "min"] | None = None
    figures: bool = False

    @property
    def left(self) -> bool:
        """Whether it is aligned to the left, as text is."""
        return self.kind in ("text", "curve")

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} {UNITS[self.kind][0]}" if self.kind in UNITS else self.title

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

    `notes` are lines to put below; `shared` is what all rows have in common, to put above.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = ()
    shared: str = ""

    @cached_property
    def shown(self) -> list[list[str]]:
        """The rows as people read them."""
        return [[c.show(value) for c, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def keep(self, indices: Sequence[int]) -> Table:
        """The table of these columns, in this order."""
        return Table(
            tuple(self.columns[i] for i in indices),
            tuple(tuple(row[i] for i in indices) for row in self.rows),
            self.notes,
            self.shared,
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
    Column("path", "path"),
)


def number_of(value: Value) -> float | None:
    """`value` as one number: of a mean or an interval its centre; None where it is none."""
    if isinstance(value, Mean):
        return value.mean
    if isinstance(value, Interval):
        return value.value
    return None if isinstance(value, str) else value


def printable(text: str) -> str:
    """`text` on one line, with control characters and lone surrogates as escapes: none can act."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
