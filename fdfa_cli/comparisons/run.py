"""A comparison from its plan to its summary: tuning where it was asked for, then training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fdfa_cli.comparisons.plan import TUNED, Task, tuned, tuning
from fdfa_cli.errors import FdfaError
from fdfa_cli.trials.announcement import About
from fdfa_cli.trials.plan import Configuration, Trial
from fdfa_cli.trials.runner import Runner
from fdfa_cli.trials.store import Result, Store
from fdfa_cli.trials.view import Tally, View, label

#: By which a rule's settings are chosen, at the last epoch.
METRIC = "val_accuracy"


@dataclass(frozen=True)
class Tuning:
    """How every rule was tuned: with which budget, and what was `chosen`, by rule."""

    task: Task
    budget: int
    chosen: Mapping[str, Mapping[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """For compare.json, and for the notes below the table."""
        return {
            "metric": METRIC,
            "seed": self.task.tuning_seed,
            "budget": self.budget,
            "spaces": {key: [space.low, space.high] for key, space in TUNED.items()},
            "chosen": {rule: dict(values) for rule, values in self.chosen.items()},
        }


def tune(task: Task, budget: int, runner: Runner) -> Tuning:
    """Give every rule `budget` trainings, and choose its values by validation accuracy.

    Of equals the earlier is chosen, so the rule's own settings before any draw.
    Raises `FdfaError` where not one training of a rule was completed.
    """
    candidates = {rule: tuning(task, rule, budget) for rule in task.configurations}
    # Trial by trial, and within one rule by rule, as in the comparison itself.
    trials = [c.trials[0] for together in zip(*candidates.values(), strict=True) for c in together]
    _train(trials, _names(candidates), runner, About("tuning", varied=tuple(TUNED)))
    chosen = {}
    for rule, configurations in candidates.items():
        values = [runner.store.value(c.trials[0], METRIC) for c in configurations]
        known = [(value, -i) for i, value in enumerate(values) if value is not None]
        if not known:
            raise FdfaError(f"tuning: not one of {budget} trainings of {rule!r} was completed")
        chosen[rule] = dict(configurations[-max(known)[1]].overrides)
    return Tuning(tuned(task, chosen), budget, chosen)


def train(task: Task, runner: Runner) -> None:
    """Train what is missing of the comparison."""
    names = _names({rule: [c] for rule, c in task.configurations.items()})
    _train(task.trials, names, runner, About("compare", baseline=task.baseline))


def ends(task: Task, store: Store) -> Counter[str]:
    """How many runs of the comparison ended how."""
    results = [store.get(trial) for trial in task.trials]
    return Counter(result.status for result in results if result is not None)


def _names(configurations: Mapping[str, list[Configuration]]) -> dict[str, str]:
    """What to call each trial, by identity."""
    return {
        trial.identity: label({"rule": rule, **c.overrides}) + f" seed={trial.seed}"
        for rule, several in configurations.items()
        for c in several
        for trial in c.trials
    }


def _train(trials: list[Trial], names: Mapping[str, str], runner: Runner, about: About) -> None:
    tally = Tally(len(trials))
    runner.store.announce([trial.identity for trial in trials], tally.total, about)
    missing = {job.identity for job in runner.store.jobs(trials)}
    for trial in trials:
        result = runner.store.get(trial)
        if result is not None and trial.identity not in missing:
            tally.counts[result.status] += 1
    view = View(tally, lambda trial: names[trial.identity], runner.quiet)

    def ended(trial: Trial, result: Result) -> str:
        value = result.summary.get(METRIC)
        return "" if value is None else f"{METRIC} {value:.4f}"

    with view.live():
        runner.train(trials, view, ended)
