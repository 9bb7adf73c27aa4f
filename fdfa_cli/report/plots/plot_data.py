"""What figures are drawn from: groups of runs by task, named by what sets them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from fdfa_cli.recipe.write import plain
from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.groups import Group, group, without_tuning
from fdfa_cli.report.plots.style import legible
from fdfa_cli.report.query import Query
from fdfa_cli.report.sparkline import FALLBACKS
from fdfa_cli.report.studies import Study
from fdfa_cli.report.varied import varied
from fdfa_cli.storage import RunFolder

#: The names of which every figure has a panel a value, and every group one value.
TASK = ("data", "network")


@dataclass(frozen=True)
class Series:
    """A group of runs of one `task` (data and network).

    `label` says how it differs from the other groups of the task, `key` from all; `rule` is that of its first
    run, and `choices` are the values of its recipe by dotted key.
    """

    task: str
    label: str
    key: str
    rule: str
    group: Group
    choices: dict[str, Any]
    catalog: Catalog

    @property
    def name(self) -> str:
        """The label for running text, which may be broken anywhere."""
        return self.label.replace("\xa0", " ")

    @cached_property
    def rows(self) -> tuple[list[dict[str, Any]], ...]:
        """The metrics of the completed runs that can be read, a row an epoch."""
        return tuple(rows for run in self.group.completed if (rows := self.catalog.rows(run)))


@dataclass(frozen=True)
class Sweep:
    """The runs of one sweep that are drawn, by configuration: nothing but seeds differs within a member."""

    study: Study
    all_series: list[Series]


@dataclass(frozen=True)
class PlotData:
    """Groups of `runs` by the names `by`, and the metric asked for.

    `apart` says which runs are not among them, and why.
    """

    catalog: Catalog
    runs: Sequence[RunFolder]
    by: tuple[str, ...] = ()
    metric: str | None = None
    apart: tuple[str, ...] = ()

    @classmethod
    def of(cls, catalog: Catalog, runs: Sequence[RunFolder], query: Query) -> Self:
        """What `query` asks to be drawn of `runs`."""
        averaged, apart = without_tuning(catalog, runs, query)
        return cls(catalog, averaged, query.by, next(iter(query.metrics), None), tuple(apart))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names that tell groups apart: the task's, then those asked for, else rule and swept keys."""
        wanted = self.by or ("rule", *self.swept)
        split = [name for name in TASK if len({self.catalog.get(run, name) for run in self.runs}) > 1]
        return tuple(dict.fromkeys([*split, *wanted]))

    @cached_property
    def all_series(self) -> list[Series]:
        """The groups of the runs, in the order of the query."""
        return self._series_of(self.names, self.runs)

    @cached_property
    def sweeps(self) -> list[Sweep]:
        """Every sweep among the runs, each with what it trains and nothing else."""
        found = []
        for study in self.catalog.studies.values():
            runs = [run for run in self.runs if study.trains(run)] if study.varied else []
            if runs:
                names = (*TASK, "rule", *varied(self.catalog, runs))
                found.append(Sweep(study, self._series_of(names, runs)))
        return found

    @cached_property
    def tasks(self) -> dict[str, list[Series]]:
        """The groups by their task."""
        found: dict[str, list[Series]] = {}
        for series in self.all_series:
            found.setdefault(series.task, []).append(series)
        return found

    @cached_property
    def swept(self) -> list[str]:
        """The keys of recipes that take several values under one rule on one task, or in one sweep."""
        return varied(self.catalog, self.runs)

    def metric_of_epochs(self) -> str | None:
        """What to draw against epochs: the metric, or the first of `FALLBACKS` that some row has."""
        there = {key for series in self.all_series for rows in series.rows for row in rows for key in row}
        return next((name for name in (self.metric, *FALLBACKS) if name in there), None)

    def metric_at_end(self) -> str | None:
        """What to draw configurations by, as of the end of training; of test data only if asked for."""
        there = {name for run in self.runs if run.status == "completed" for name in run.record.summary}
        return next((name for name in (self.metric, *FALLBACKS) if name in there), None)

    def _series_of(self, names: tuple[str, ...], runs: Sequence[RunFolder]) -> list[Series]:
        groups = group(self.catalog, runs, names)
        tasks = [
            legible(", ".join(str(self.catalog.get(each.runs[0], name)) for name in TASK)) for each in groups
        ]
        rules = [str(self.catalog.get(each.runs[0], "rule")) for each in groups]
        alone = Counter(task for task, _ in set(zip(tasks, rules, strict=True)))
        found = []
        for each, task, rule in zip(groups, tasks, rules, strict=True):
            alike = [
                other for other, place in zip(groups, zip(tasks, rules, strict=True), strict=True)
                if place == (task, rule)
            ]  # fmt: skip
            parts = [
                _named(name, each.key[i])
                for i, name in enumerate(names)
                if name not in (*TASK, "rule") and each.key[i] is not None
                if len({other.key[i] for other in alike}) > 1 or "rule" not in names
            ]
            label = ", ".join(([rule] if "rule" in names and (alone[task] > 1 or not parts) else []) + parts)
            choices = self.catalog.choices(each.runs[0])
            found.append(
                Series(task, legible(label), f"{task}: {each.key}", rule, each, choices, self.catalog)
            )
        return found


def title(key: str) -> str:
    """A key of a recipe in words: its option, or its section where it is the section's name."""
    section, _, option = key.partition(".")
    return (option if option not in ("", "name") else section).replace("_", " ")


def _named(key: str, value: Any) -> str:
    """A choice in a label, which may be broken between choices but not inside one: ``optimizer sgd``."""
    return f"{title(key)} {value if isinstance(value, str) else plain(value)}".replace(" ", "\xa0")
