"""What is known of a run by name: its status, choices and figures, and any key of its recipe.

``rule``, ``seed``, ``test_accuracy`` come from run.json, which is small and already read. A dotted key
(``optimizer.lr``) comes from the resolved recipe, which is opened when such a key is asked for; runs of one
configuration that differ in the seed share one reading.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fdfa_cli.errors import RecipeError, RunDamaged, UsageError, did_you_mean
from fdfa_cli.recipe.execution import EXECUTION_FIELDS
from fdfa_cli.storage import RunFolder
from fdfa_cli.tables import DETAILS, SUMMARY, Column, Kind, Value

if TYPE_CHECKING:
    from fdfa_cli.report.studies import Study

SEED = "training.seed"
_COLUMNS = {column.name: column for column in (*SUMMARY, *DETAILS)}
#: What a name that ends so holds.
_KINDS: dict[str, Kind] = {"_seconds": "seconds", "_bytes": "bytes", "_accuracy": "fraction"}
_TRAINING = re.compile(r"(?m)^training:\n(?:  .*\n?)*")
_SEED_LINE = re.compile(r"(?m)^  seed: .*\n?")
_EXECUTION_LINES = re.compile(rf"(?m)^  (?:{'|'.join(sorted(EXECUTION_FIELDS))}): .*\n?")

T = TypeVar("T")


@dataclass
class _Known:
    """What was read of one run."""

    values: dict[str, Value] | None = None
    text: str | None = None
    choices: dict[str, Any] | None = None
    rows: list[dict[str, Any]] | None = None
    damaged: list[RunDamaged] = field(default_factory=list)


class Catalog:
    """What is known of some `runs`; files that cannot be read on the way are kept in `damaged`.

    With `before`, what that already knew of the same runs is not read again.
    """

    def __init__(self, runs: Sequence[RunFolder], before: Catalog | None = None) -> None:
        self.runs = runs
        self._known: dict[RunFolder, _Known] = {}
        if before is not None:
            self._known |= {run: before._known[run] for run in runs if run in before._known}
        self._parsed: dict[str, dict[str, Any]] = before._parsed if before else {}

    @property
    def damaged(self) -> list[RunDamaged]:
        """Why files of runs could not be read, sorted."""
        found = {str(error): error for known in self._known.values() for error in known.damaged}
        return [found[message] for message in sorted(found)]

    def get(self, run: RunFolder, name: str) -> Value:
        """The value of `name` for `run`; None where it has none. A section alone means its name."""
        if name == "study":
            study = self.study(run)
            return study.name if study else None
        if name in self._names:
            return self.values(run).get(name)
        choices = self.choices(run)
        value = choices.get(name, choices.get(f"{name}.name"))
        if value is None or type(value) in (str, int, float):
            return value
        return json.dumps(value, ensure_ascii=False, default=str)

    @cached_property
    def studies(self) -> dict[Path, Study]:
        """The sweeps and comparisons that the runs were trained for, by folder."""
        from fdfa_cli.report.studies import studies

        return studies(self.runs)

    def study(self, run: RunFolder) -> Study | None:
        """The sweep or comparison in whose folder `run` is."""
        return self.studies.get(run.path.parent)

    def values(self, run: RunFolder) -> dict[str, Value]:
        """All that run.json says of `run`."""
        known = self._of(run)
        if known.values is None:
            known.values = _values(run)
        return known.values

    def choices(self, run: RunFolder) -> dict[str, Any]:
        """Every value of the recipe of `run` by its dotted key; nothing where it cannot be read."""
        known = self._of(run)
        if known.choices is None:
            text = self.recipe_text(run)
            key = _without(_SEED_LINE, text)
            if key not in self._parsed and text:
                self._attempt(run, lambda: self._parsed.update({key: _flat(_parse(run, text))}), None)
            common = self._parsed.get(key)
            known.choices = common | {SEED: run.record.facts["seed"]} if common else {}
        return known.choices

    def recipe_text(self, run: RunFolder) -> str:
        """The resolved recipe of `run` as it is stored; empty where it cannot be read."""
        known = self._of(run)
        if known.text is None:
            known.text = self._attempt(run, run.recipe_text, "")
        return known.text

    def configuration(self, run: RunFolder) -> str:
        """The recipe of `run` without its seed and without where it computes: equal for runs to average."""
        return _without(_EXECUTION_LINES, _without(_SEED_LINE, self.recipe_text(run)))

    def rows(self, run: RunFolder) -> list[dict[str, Any]]:
        """The metrics of `run`, a row an epoch; none where they cannot be read."""
        known = self._of(run)
        if known.rows is None:
            nothing: list[dict[str, Any]] = []
            known.rows = self._attempt(run, run.metrics, nothing)
        return known.rows

    def check(self, names: Iterable[str], also: Sequence[str] = ()) -> None:
        """Raise `UsageError`, with the nearest name there is, for one that no run has a value of.

        `also` are further names that may stand there.
        """
        for name in names:
            if name in self._names or name in also or not self.runs or self._in_recipes(name):
                continue
            near = did_you_mean(name, [*self._names, *also, *self._keys])
            known = ", ".join([*self._names, *also])
            unread = "".join(f"\n  could not be read: {error}" for error in self.damaged)
            raise UsageError(
                f"unknown name {name!r}{near} (known: {known}, and every key of a recipe){unread}"
            )

    def column(self, name: str) -> Column:
        """The column of `name`, its kind as its name and its values say."""
        if name in _COLUMNS:
            return _COLUMNS[name]
        values = [value for run in self.runs if (value := self.get(run, name)) is not None]
        title = name if "." in name else name.replace("_", " ")
        choice = "." in name or not any(name in run.record.summary for run in self.runs)
        if any(isinstance(value, str) for value in values):
            return Column(name, title, choice=choice)
        for end, kind in _KINDS.items():
            if name.endswith(end):
                title = title if kind == "fraction" else title.removesuffix(f" {kind}")
                return Column(name, title, kind, choice, _best(name))
        whole = all(isinstance(value, int) for value in values)
        return Column(name, title, "count" if whole else "number", choice, _best(name))

    def _of(self, run: RunFolder) -> _Known:
        return self._known.setdefault(run, _Known())

    def _attempt(self, run: RunFolder, read: Callable[[], T], otherwise: T) -> T:
        """What `read` returns; `otherwise` where it finds damage, which is kept."""
        try:
            return read()
        except RunDamaged as error:
            self._of(run).damaged.append(error)
            return otherwise

    @cached_property
    def _names(self) -> dict[str, None]:
        """Names of run.json, in the order of the columns, then of the alphabet."""
        there = {name for run in self.runs for name in (*run.record.facts, *run.record.summary)}
        return dict.fromkeys([*_COLUMNS, *sorted(there - _COLUMNS.keys())])

    @cached_property
    def _keys(self) -> dict[str, None]:
        return dict.fromkeys(key for run in self.runs for key in self.choices(run))

    def _in_recipes(self, name: str) -> bool:
        keys = (self.choices(run) for run in self.runs)  # most often the first run settles it
        return any(name in choices or f"{name}.name" in choices for choices in keys)


def _values(run: RunFolder) -> dict[str, Value]:
    record = run.record
    device = record.provenance[-1].get("device") if record.provenance else None
    return {
        **record.summary,
        **{name: value for name, value in record.facts.items() if isinstance(value, str | int | float)},
        "run": run.name,
        "status": record.status,
        "device": None if device is None else str(device),
        "created": record.created,
        "error": record.error,
        "path": str(run.path),
    }


def _best(name: str) -> Literal["max", "min"] | None:
    if name.endswith("_accuracy"):
        return "max"
    return "min" if name.endswith("_loss") else None


def _without(lines: re.Pattern[str], text: str) -> str:
    """A recipe's `text` without some `lines` of its section training."""
    return _TRAINING.sub(lambda section: lines.sub("", section[0]), text)


def _parse(run: RunFolder, text: str) -> dict[str, Any]:
    """The values of a stored recipe; raises `RunDamaged` where it is none."""
    from fdfa_cli.document.load import values  # takes longer than a table of a few runs

    try:
        return values(text, str(run.path / "recipe.yaml"))
    except RecipeError as error:
        first, *more = error.problems
        others = f" (and {len(more)} more)" if more else ""
        raise RunDamaged(f"{first.where}: {first.message}{others}") from error


def _flat(tree: Any, above: str = "") -> dict[str, Any]:
    """Every value of a recipe by its dotted key."""
    if not isinstance(tree, dict):
        return {above: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{above}.{key}" if above else str(key))
    return found
