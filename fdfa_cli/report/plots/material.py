"""What figures are drawn from: groups of runs, their rows, and the choices of their recipes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fdfa_cli.recipe.load import load
from fdfa_cli.recipe.schema import EXECUTION_FIELDS
from fdfa_cli.runs import Run
from fdfa_cli.sweep.table import plain

#: The metrics that may stand in for one that no run has, in this order.
FALLBACKS = ("val_accuracy", "train_accuracy", "val_loss", "train_loss")
#: Choices that are no reason for another group: seeds are what a group averages over.
_SAME = {"training.seed", *(f"training.{name}" for name in EXECUTION_FIELDS)}


@dataclass(frozen=True)
class Group:
    """Runs of one `task` (data and network) that differ in their seeds only.

    `label` says how they differ from the other groups of the task; `choices` are the resolved recipe's, by
    dotted key.
    """

    task: str
    label: str
    runs: tuple[Run, ...]
    choices: dict[str, Any]

    @cached_property
    def completed(self) -> tuple[Run, ...]:
        """Those that came to their end."""
        return tuple(run for run in self.runs if run.status == "completed")

    @cached_property
    def rows(self) -> tuple[list[dict[str, Any]], ...]:
        """The metrics of the completed ones, a row an epoch."""
        return tuple(run.metrics() for run in self.completed)

    def mean(self, metric: str, unit: float = 1.0) -> float | None:
        """The mean of a metric at the end of training over the completed runs that have it."""
        found = [value for run in self.completed if (value := run.record.summary.get(metric)) is not None]
        return math.fsum(found) / len(found) * unit if found else None


@dataclass(frozen=True)
class Material:
    """Groups in the order in which they should be named, and the metric that was asked for."""

    groups: tuple[Group, ...]
    metric: str | None = None

    @cached_property
    def tasks(self) -> dict[str, list[Group]]:
        """Groups by their task."""
        found: dict[str, list[Group]] = {}
        for group in self.groups:
            found.setdefault(group.task, []).append(group)
        return found

    def metric_of_epochs(self) -> str | None:
        """What to draw against epochs: the metric, or the first of `FALLBACKS` that some row has."""
        there = {key for group in self.groups for rows in group.rows for row in rows for key in row}
        return next((name for name in (self.metric, *FALLBACKS) if name in there), None)

    def metric_at_end(self) -> str | None:
        """What to draw configurations by: as of the end of training."""
        there = {key for group in self.groups for run in group.completed for key in run.record.summary}
        return next((name for name in (self.metric, *FALLBACKS) if name in there), None)


def material(runs: Sequence[Run], metric: str | None = None) -> Material:
    """The groups of `runs`: tasks, rules and the rest in the order in which they first appear."""
    parsed: dict[str, dict[str, Any]] = {}
    settings: dict[tuple[str, str], dict[tuple[Any, ...], list[Run]]] = {}
    chosen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        # Runs of one configuration have one text but for the seed, and reading it takes milliseconds.
        text = re.sub(r"(?m)^  seed: \d+$", "", run.recipe_text())
        if text not in parsed:
            parsed[text] = {k: v for k, v in _flat(load(run.path / "recipe.yaml").tree) if k not in _SAME}
        choices = parsed[text]
        key = tuple((name, str(value)) for name, value in choices.items())
        facts = run.record.facts
        chosen[key] = choices
        settings.setdefault((f"{facts['data']}, {facts['network']}", facts["rule"]), {}).setdefault(
            key, []
        ).append(run)
    rules = Counter(task for task, _ in settings)
    groups = []
    for (task, rule), configurations in settings.items():
        several = [chosen[key] for key in configurations]
        # What only some have follows from the names of what they are: only Adam has betas.
        varying = [name for name in swept(several) if all(name in choices for choices in several)]
        for key, members in configurations.items():
            parts = [_named(name, chosen[key][name]) for name in varying]
            label = ", ".join(([rule] if rules[task] > 1 or not parts else []) + parts)
            groups.append(Group(task, label, tuple(members), chosen[key]))
    return Material(tuple(groups), metric)


def swept(configurations: Sequence[dict[str, Any]]) -> list[str]:
    """The keys that do not have one value in all of some `configurations`."""
    names = dict.fromkeys(name for choices in configurations for name in choices)
    return [name for name in names if len({str(choices.get(name)) for choices in configurations}) > 1]


def _named(key: str, value: Any) -> str:
    """A choice in a label, which may be broken between choices but not inside one: ``optimizer sgd``."""
    section, _, option = key.partition(".")
    return f"{section if option == 'name' else option} {plain(value)}".replace("_", " ").replace(" ", "\xa0")


def _flat(tree: Any, above: str = "") -> list[tuple[str, Any]]:
    """Every value of a recipe with its dotted key."""
    if not isinstance(tree, dict):
        return [(above, tree)]
    return [pair for key, value in tree.items() for pair in _flat(value, f"{above}.{key}" if above else key)]
