"""Tables before they are drawn: typed columns and plain values, the same for every format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fdfa_cli.runs import STATUSES, Run

Value = str | int | float | None
#: What a column holds: text, a whole number, a share of one, any number, seconds, bytes.
Kind = Literal["text", "count", "fraction", "number", "seconds", "bytes"]

MISSING = "-"
#: In which unit a kind is shown to people, and how many of it make one of the stored unit.
UNITS: dict[Kind, tuple[str, float]] = {"fraction": ("%", 100), "seconds": ("s", 1), "bytes": ("MiB", 2**-20)}


@dataclass(frozen=True)
class Column:
    """A column: its `name` for programs, its `title` for people, who also get the unit of its `kind`.

    `choice`: it says what was asked of a run, not what came out.
    """

    name: str
    title: str
    kind: Kind = "text"
    choice: bool = False

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
        if self.kind in UNITS:
            scaled = value * UNITS[self.kind][1]
            return f"{scaled:.2f}" if self.kind == "fraction" else f"{scaled:.1f}"
        if isinstance(value, int):
            return str(value)
        return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"


@dataclass(frozen=True)
class Table:
    """Rows of values under columns; the first column names the row. `notes` are lines to put below."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = ()

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
    Column("train_loss", "train loss", "number"),
    Column("val_accuracy", "val acc", "fraction"),
    Column("test_accuracy", "test acc", "fraction"),
    Column("train_seconds", "train", "seconds"),
)
#: What programs get besides.
DETAILS = (
    Column("train_accuracy", "train acc", "fraction"),
    Column("val_loss", "val loss", "number"),
    Column("test_loss", "test loss", "number"),
    Column("best_val_accuracy", "best val acc", "fraction"),
    Column("eval_seconds", "eval", "seconds"),
    Column("wall_seconds", "wall", "seconds"),
    Column("peak_memory_bytes", "peak memory", "bytes"),
    Column("device", "device", choice=True),
    Column("created", "created"),
    Column("identity", "identity"),
    Column("error", "error"),
    Column("path", "path"),
)


def runs_table(runs: Sequence[Run], columns: Sequence[Column] = SUMMARY) -> Table:
    """One row a run, in the order given.

    Below it, how many runs there are of each status, and why each one that failed or diverged did.
    """
    rows = []
    for run in runs:
        values = _values(run)
        rows.append(tuple(values.get(column.name) for column in columns))
    return Table(tuple(columns), tuple(rows), tuple(_notes(runs)))


def printable(text: str) -> str:
    """`text` on one line, with control characters and lone surrogates as escapes: none can act."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _values(run: Run) -> dict[str, Value]:
    record = run.record
    device = record.provenance[-1].get("device") if record.provenance else None
    return {
        **record.summary,
        **{name: value for name, value in record.facts.items() if isinstance(value, Value)},
        "run": run.name,
        "status": record.status,
        "device": None if device is None else str(device),
        "created": record.created,
        "error": record.error,
        "path": str(run.path),
    }


def _notes(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return []
    counts = Counter(run.status for run in runs)
    parts = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    notes = [f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {parts}"]
    for run in runs:
        if run.status in ("failed", "diverged"):
            reason = (run.record.error or "no reason was stored").partition("\n")[0]
            notes.append(printable(f"{run.name} {run.status}: {reason}"))
    return notes
