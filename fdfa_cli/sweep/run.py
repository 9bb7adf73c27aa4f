"""Running trials through an engine, and a sweep from its plan to its winner."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fdfa_cli.data import data_root
from fdfa_cli.errors import FdfaError, Interrupted
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import identity
from fdfa_cli.sweep.engines import Engine, Job
from fdfa_cli.sweep.plan import Configuration, Plan, Trial
from fdfa_cli.sweep.prune import survivors
from fdfa_cli.sweep.store import Result, Store
from fdfa_cli.sweep.view import Tally, View, label
from fdfa_cli.train.loop import prepare

#: The engine for some jobs.
Chooser = Callable[[Sequence[Job]], Engine]


def check_environment(recipes: Iterable[Recipe]) -> None:
    """Raise `UsageError` where the data or the device of any of `recipes` is not there."""
    root, seen = data_root(), set()
    for recipe in recipes:
        needs = (recipe.data.model_dump_json(), recipe.training.device)
        if needs in seen:
            continue
        seen.add(needs)
        if recipe.data.status(root).state in ("missing", "incomplete"):
            recipe.data.read(root)  # which says what to do about it
        prepare(recipe.training)


@dataclass(frozen=True)
class Runner:
    """How trials are trained: into which store, by which engine, and whether the first failure ends it."""

    store: Store
    engine: Chooser
    fail_fast: bool = False
    quiet: bool = False

    def train(
        self,
        trials: Sequence[Trial],
        view: View,
        ended: Callable[[Trial, Result], str],
        until: int | None = None,
    ) -> None:
        """Bring every trial to its end, or to epoch `until`; what is there already is not trained again.

        `ended` is told of each and says in words how good it is.
        Raises `Interrupted`, and `FdfaError` at the first failure where that was asked for.
        """
        jobs = self.store.jobs(trials, until)
        if not jobs:
            return
        by_identity = {trial.identity: trial for trial in trials}
        check_environment(job.recipe for job in jobs)
        engine = self.engine(jobs)
        view.stage(len(jobs), engine.workers, until)
        with closing(engine.run(jobs)) as outcomes, _hint():
            for outcome in outcomes:
                trial = by_identity[outcome.job.identity]
                result = self.store.note(outcome)
                if outcome.status != "interrupted":
                    view.tally.counts[outcome.status] += 1
                view.outcome(trial, outcome, ended(trial, result))
                if self.fail_fast and outcome.status in ("failed", "diverged"):
                    raise FdfaError(f"--fail-fast: stopped at the first trial that {outcome.status}")


def folder_of(base: Recipe, stem: str, kind: str, results: Path) -> Path:
    """Where the trials of `base` go: the same folder however its space, seeds or rules are extended."""
    return results / f"{stem}-{kind}-{identity(base)[:8]}"


def run(plan: Plan, runner: Runner) -> None:
    """Train a whole sweep: all of its trials, or, where it prunes, from rung to rung those that go on."""
    sweep, store = plan.sweep, runner.store
    trials = plan.trials
    owner = {t.identity: configuration for configuration in plan.configurations for t in configuration.trials}
    tally = Tally(len(trials))

    def name(trial: Trial) -> str:
        return f"{label(owner[trial.identity].overrides)} seed={trial.seed}"

    def ended(trial: Trial, result: Result) -> str:
        value = result.summary.get(sweep.metric)
        if value is None:
            return ""
        if result.status == "completed":
            tally.score(label(owner[trial.identity].overrides), sweep.better(value))
        return f"{sweep.metric} {value:.4f}"

    for trial in trials:
        result = store.get(trial)
        if result is not None and not store.jobs([trial]):
            tally.counts[result.status] += 1
            ended(trial, result)
    view = View(tally, name, runner.quiet)
    active = list(plan.configurations)
    longest = max(trial.epochs for trial in trials)
    with view.live():
        if sweep.prune is not None:
            for rung in sweep.prune.rungs(longest):
                runner.train(_trials(active), view, ended, rung)
                kept = survivors([score(c, plan, store, rung) for c in active], sweep.prune)
                dropped = [c for i, c in enumerate(active) if i not in set(kept)]
                active = [active[i] for i in kept]
                for trial in _trials(dropped):
                    store.prune(trial, f"behind after epoch {rung}")
                    tally.counts["pruned"] += _status(store, trial) == "pruned"
        runner.train(_trials(active), view, ended)


def score(configuration: Configuration, plan: Plan, store: Store, epoch: int | None = None) -> float | None:
    """Mean over seeds of the metric after `epoch`, or at the end, more being better.

    None where a seed had diverged by then, or where there is nothing to average: failed seeds are left out.
    """
    values = []
    for trial in configuration.trials:
        value = store.value(trial, plan.sweep.metric, epoch)
        if value is not None:
            values.append(plan.sweep.better(value))
        elif _status(store, trial) == "diverged":
            return None
    return math.fsum(values) / len(values) if values else None


@contextmanager
def _hint() -> Iterator[None]:
    """Adds to an interruption what to do about it."""
    try:
        yield
    except Interrupted as error:
        raise Interrupted(f"{error}; what is done is stored: the same command goes on") from error


def _status(store: Store, trial: Trial) -> str | None:
    result = store.get(trial)
    return result.status if result else None


def _trials(configurations: Iterable[Configuration]) -> list[Trial]:
    return [trial for configuration in configurations for trial in configuration.trials]
