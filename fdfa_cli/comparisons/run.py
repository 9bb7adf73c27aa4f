"""A comparison from its plan to its result: tuning where it was asked for, then training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fdfa_cli.comparisons.plan import ComparisonPlan
from fdfa_cli.comparisons.result import ComparisonResult, result_of
from fdfa_cli.comparisons.tuning import METRIC, TUNED, Tuning, candidates, choose, tuned
from fdfa_cli.storage import atomic_write
from fdfa_cli.storage.files import dump_json
from fdfa_cli.trials.announcement import Purpose
from fdfa_cli.trials.engine_name import EngineName
from fdfa_cli.trials.plan import Configuration, Trial
from fdfa_cli.trials.progress import Tally, label
from fdfa_cli.trials.runner import Execution, Runner, folder_of
from fdfa_cli.trials.store import TrialResult

log = logging.getLogger(__name__)


def run(
    plan: ComparisonPlan,
    results: Path,
    execution: Execution,
    target: float | None = None,
    budget: int | None = None,
) -> ComparisonResult:
    """Train the comparison into its folder of `results`, and store what it came to there.

    What is stored already is not trained again. Runs that cannot be read are logged, and trained again. With
    a `budget`, every rule is tuned by as many trainings first. `target` is the validation accuracy to which
    epochs are counted, by default that of `result_of`. The engine ``auto`` is serial here, because times of
    runs that train beside others are not compared. Raises `UsageError` where the trials cannot be trained
    this way or the folder cannot be written to, `Interrupted` and `DiskFull` with everything up to then
    stored, and `FdfaError` where tuning finds nothing, or at the first failure where `execution` asks for
    that.
    """
    if execution.engine.name is EngineName.auto:
        execution = replace(execution, engine=replace(execution.engine, name=EngineName.serial))
    folder, tuning = folder_of(plan.base, Path(plan.name).stem, "compare", results), None
    with execution.runner(folder) as runner:
        if budget is not None:
            with execution.runner(folder / "tuning") as trying:
                tuning = tune(plan, budget, trying)
            plan = tuned(plan, tuning)
        train(plan, runner)
        result = result_of(plan, runner.store, target, tuning)
    atomic_write(folder / "compare.json", dump_json(result.as_json(), 2) + b"\n")
    return result


def tune(plan: ComparisonPlan, budget: int, runner: Runner) -> Tuning:
    """Give every rule `budget` trainings, and choose its values by validation accuracy.

    Of equals the earlier is chosen, so the rule's own settings before any draw.
    Raises `FdfaError` where not one training of a rule was completed.
    """
    tried = {rule: candidates(plan, rule, budget) for rule in plan.configurations}
    # Draw by draw, and within one rule by rule, as in the comparison itself.
    trials = [c.trials[0] for together in zip(*tried.values(), strict=True) for c in together]
    purpose = Purpose("tuning", varied=tuple(TUNED))
    _train(trials, Tally(len(trials), title=f"tuning {plan.name}"), _names(tried), runner, purpose)
    return choose(plan, tried, runner.store)


def train(plan: ComparisonPlan, runner: Runner) -> None:
    """Train the trials of the comparison that are not at their end."""
    names = _names({rule: [c] for rule, c in plan.configurations.items()})
    tally = Tally(len(plan.trials), title=plan.name)
    _train(plan.trials, tally, names, runner, Purpose("compare", baseline=plan.baseline))


def _names(configurations: Mapping[str, list[Configuration]]) -> dict[str, str]:
    """What to call each trial, by identity."""
    return {
        trial.identity: label({"rule": rule, **c.overrides}) + f" seed={trial.seed}"
        for rule, several in configurations.items()
        for c in several
        for trial in c.trials
    }


def _train(
    trials: list[Trial], tally: Tally, names: Mapping[str, str], runner: Runner, purpose: Purpose
) -> None:
    store = runner.store
    for error in store.damaged:
        log.warning("a run cannot be read, so it is trained again: %s", error)
    store.announce([trial.identity for trial in trials], tally.total, purpose)
    missing = {job.identity for job in store.jobs(trials)}
    for trial in trials:
        result = store.get(trial)
        if result is not None and trial.identity not in missing:
            tally.counts[result.status] += 1

    def figures(trial: Trial, result: TrialResult) -> str:
        value = result.summary.get(METRIC)
        return "" if value is None else f"{METRIC} {value:.4f}"

    with runner.progress.showing(tally):
        runner.train(trials, tally, lambda trial: names[trial.identity], figures)
