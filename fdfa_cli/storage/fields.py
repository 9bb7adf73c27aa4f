"""Checks of every field in the files of a run: they accept what the writers write, and nothing else.

Every function raises `ValueError` with a sentence at the first field that does not fit. Values that pass can
be summed, squared, compared, sorted and shown without further checks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

#: Bytes that a file may have.
MAX_RECORD = 16 * 2**20
MAX_METRICS = 256 * 2**20
MAX_RECIPE = 256 * 2**10
#: The same of what sweeps and comparisons leave beside their runs.
MAX_SUMMARY = 64 * 2**20
#: A number this large counts as not finite: the square of a larger one, as statistics need it, is not.
LARGEST = 1e150
#: Whole numbers fit in 64 bits with a sign.
MOST = 2**63
#: Epochs and steps are counted exactly by whoever reads them as JSON numbers.
MOST_EPOCHS = 2**53
#: Entries of one object.
MOST_NAMES = 1000
#: Characters of a name, of a text in a table, and of an error message.
LONGEST_NAME, LONGEST_TEXT, LONGEST_ERROR = 200, 10_000, 100_000
#: What tables call other things than numbers, under which no number would be found.
RESERVED = frozenset(
    ("run", "status", "data", "network", "rule", "seed", "identity", "device", "created", "error", "path")
)
#: Objects and lists inside one another.
DEEPEST = 8

#: What a process says of itself, see `fdfa_cli.storage.provenance`; what else there is must be plain.
_TEXTS = frozenset(("fdfa", "commit", "python", "torch", "platform", "device"))
_COUNTS = frozenset(("cores", "threads", "workers", "stacked"))


def is_finite(value: object) -> bool:
    """Whether `value` is a number, and neither infinite nor NaN nor too large to calculate with."""
    if isinstance(value, float):
        return -LARGEST < value < LARGEST
    return type(value) is int and -MOST < value < MOST


def check_created(created: object) -> None:
    """Raise `ValueError` unless `created` is a time in UTC as ISO 8601 writes it."""
    if isinstance(created, str) and len(created) <= 40:
        try:
            moment = datetime.fromisoformat(created)
        except ValueError:
            pass
        else:
            if moment.utcoffset() == timedelta(0):
                return
    raise ValueError(f"created is not a time in UTC, as 2026-01-02T03:04:05Z: {shown(created)}")


def check_summary(summary: Mapping[str, Any]) -> None:
    """Check the numbers that run.json says of the end of a run."""
    check_numbers(summary, "summary.")
    epochs = summary.get("epochs", 0)
    if type(epochs) is not int or not 0 <= epochs < MOST_EPOCHS:
        raise ValueError(f"summary.epochs is not a number of epochs: {shown(epochs)}")


def check_numbers(numbers: Mapping[str, Any], where: str = "") -> None:
    """Check finite numbers (null stands for others) by their names, some of which imply a range."""
    if len(numbers) > MOST_NAMES:
        raise ValueError(f"{where or 'a row '}has more than {MOST_NAMES} entries")
    for name, value in numbers.items():
        # The types first: this is most of the time that reading a large store takes.
        if isinstance(value, float):  # numpy's as well
            if not -LARGEST < value < LARGEST:
                raise ValueError(f"{where}{shown_name(name)} is not a finite number: {shown(value)}")
        elif value is not None and not (type(value) is int and -MOST < value < MOST):
            raise ValueError(f"{where}{shown_name(name)} is not a finite number: {shown(value)}")
        low, high = _range(name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{where}{name} must be from {low:g} to {high:g}, not {shown(value)}")


def check_row(row: object, before: int) -> None:
    """Check a line of metrics.jsonl that follows the row of epoch `before` (0 for the first line)."""
    if not isinstance(row, dict):
        raise ValueError("not an object")
    epoch = row.get("epoch")
    if type(epoch) is not int or not before < epoch < MOST_EPOCHS:
        raise ValueError(f"epoch must be a whole number above {before}, not {shown(epoch)}")
    if "diagnostics" in row:
        check_numbers({name: value for name, value in row.items() if name != "diagnostics"})
        check_probes(row["diagnostics"])
    else:
        check_numbers(row)


def check_probes(probes: object) -> None:
    """Check the diagnostics of an epoch, as `fdfa_cli.diagnostics.probe` measures them."""
    if not isinstance(probes, list):
        raise ValueError("diagnostics is not a list")
    for probe in probes:
        if not isinstance(probe, dict) or not isinstance(probe.get("blocks"), list):
            raise ValueError("diagnostics must be objects with a list of blocks")
        step, epoch, phases = probe.get("step"), probe.get("epoch"), probe.get("phases", {})
        if type(step) is not int or not 0 <= step < MOST_EPOCHS:
            raise ValueError(f"diagnostics.step is not a number of steps: {shown(step)}")
        if not is_finite(epoch) or not 0 <= epoch < MOST_EPOCHS:  # type: ignore[operator]
            raise ValueError(f"diagnostics.epoch is not a number of epochs: {shown(epoch)}")
        if not isinstance(phases, dict) or not all(isinstance(entry, dict) for entry in phases.values()):
            raise ValueError("diagnostics.phases must be an object of objects")
        for name, entry in phases.items():
            check_name(name, "diagnostics.phases.")
            check_numbers(entry, f"diagnostics.phases.{name}.")
        others = {name: value for name, value in probe.items() if name not in ("blocks", "phases")}
        check_numbers(others, "diagnostics.")
        for block in probe["blocks"]:
            _check_block(block)


def check_provenance(entries: object) -> None:
    """Check what each process that wrote a run has recorded about itself."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("provenance must be a list of objects")
    for entry in entries:
        for name, value in entry.items():
            if value is None:
                fits = True
            elif name in _TEXTS:
                fits = type(value) is str and len(value) <= LONGEST_TEXT
            elif name in _COUNTS:
                fits = type(value) is int and 0 <= value < 2**31
            elif name == "dirty":
                fits = type(value) is bool
            elif name == "command":
                fits = type(value) is list and all(type(word) is str for word in value)
            else:
                check_name(name, "provenance.")
                check_plain(value, f"provenance.{name}")
                fits = True
            if not fits:
                raise ValueError(f"provenance.{name} cannot be {shown(value)}")


def check_plain(value: object, where: str, depth: int = 0) -> None:
    """Check that `value` is null, a boolean, a finite number, text, or shallow lists and objects of these."""
    if value is None or type(value) is bool or is_finite(value):
        return
    if isinstance(value, str) and len(value) <= LONGEST_TEXT:
        return
    if isinstance(value, list | dict) and depth < DEEPEST:
        for item in value.values() if isinstance(value, dict) else value:
            check_plain(item, where, depth + 1)
        return
    raise ValueError(f"{where} cannot be {shown(value)}")


def check_name(name: object, where: str = "") -> None:
    """Check a name that can head a column: it consists of letters, digits and underscores."""
    if not isinstance(name, str) or not name.isidentifier() or len(name) > LONGEST_NAME:
        raise ValueError(f"{where}{shown_name(name)} is not a name: letters, digits and underscores")


def check_text(value: object, where: str) -> None:
    """Check a text of one short line, which tables show: no character of it acts on a terminal."""
    if not isinstance(value, str):
        raise ValueError(f"{where} is not text")
    if not 0 < len(value) <= LONGEST_NAME or not value.isprintable():
        raise ValueError(f"{where} cannot be {shown(value)}")


def shown(value: object) -> str:
    """`value` as a message shows it: short, and without a character that acts on a terminal."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if type(value) is int and abs(value) >= MOST:
        return "a number of more than 64 bits"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def shown_name(name: object) -> str:
    """`name`, which need not be a valid name, as a message shows it."""
    return name if isinstance(name, str) and name.isidentifier() and len(name) <= 60 else shown(name)


#: The range of numbers by what their names end with: shares, cosines, seconds, variances.
_RANGES = {
    "_accuracy": (0.0, 1.0),
    "_cosine": (-1.0, 1.0),
    "weight_alignment": (-1.0, 1.0),
    "dead_units": (0.0, 1.0),
    "seconds": (0.0, LARGEST),
    "variance": (0.0, LARGEST),
}


@lru_cache(maxsize=4096)
def _range(name: str) -> tuple[float, float]:
    """The least and the greatest value that a number called `name` may have."""
    check_name(name)
    if name in RESERVED:
        raise ValueError(f"{name} is not a name of a number")
    return next((r for end, r in _RANGES.items() if name.endswith(end)), (-math.inf, math.inf))


def _check_block(block: object) -> None:
    if not isinstance(block, dict) or type(block.get("block")) is not int or not 0 < block["block"] < 2**31:
        raise ValueError("diagnostics.blocks must be objects with the number of their block")
    place = block.get("signal_at")
    if place is not None and place not in ("output", "preactivation"):
        raise ValueError(f"diagnostics.blocks.signal_at cannot be {shown(place)}")
    numbers = {name: value for name, value in block.items() if name != "signal_at"}
    check_numbers(numbers, "diagnostics.blocks.")
