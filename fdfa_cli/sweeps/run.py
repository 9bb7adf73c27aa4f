"""A sweep from its plan to its result."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fdfa_cli.recipe.sweep import Prune
from fdfa_cli.recipe.write import dump
from fdfa_cli.storage import atomic_write
from fdfa_cli.storage.files import dump_json
from fdfa_cli.sweeps.observation import Observation, observe, score
from fdfa_cli.sweeps.plan import SweepPlan
from fdfa_cli.sweeps.prune import survivors
from fdfa_cli.sweeps.result import SweepResult, result_of
from fdfa_cli.sweeps.table import as_json
from fdfa_cli.trials.announcement import Purpose
from fdfa_cli.trials.plan import Configuration, Trial
from fdfa_cli.trials.progress import Tally, label
from fdfa_cli.trials.runner import Execution, Runner, folder_of
from fdfa_cli.trials.store import Store, TrialResult

log = logging.getLogger(__name__)

#: How a trial can have ended for good.
ENDS = ("completed", "pruned", "diverged", "failed")


def run(plan: SweepPlan, results: Path, execution: Execution) -> SweepResult:
    """Train the whole sweep into its folder of `results`, round by round, and store what it came to there.

    What is stored already is not trained again. Runs that cannot be read are logged, and trained again.
    Raises `UsageError` where the sweep cannot be trained this way or the folder cannot be written to,
    `Interrupted` and `DiskFull` with everything up to then stored, and `FdfaError` at the first failure where
    `execution` asks for that.
    """
    execution = replace(execution, engine=replace(execution.engine, exact=plan.sweep.learns))
    folder = _folder(plan, results)
    with execution.runner(folder) as runner:
        for error in runner.store.damaged:
            log.warning("a run cannot be read, so it is trained again: %s", error)
        plan = train(plan, runner)
        result = result_of(plan, runner.store)
    whole = plan.base.model_copy(update={"sweep": plan.sweep})
    atomic_write(folder / "sweep.yaml", dump(whole).encode())
    atomic_write(folder / "sweep.json", dump_json(as_json(result), 2) + b"\n")
    return result


def stored(plan: SweepPlan, results: Path) -> SweepResult:
    """What is stored of the sweep in `results`, with the rounds that follow from it; trains nothing."""
    store = Store(_folder(plan, results))
    while all(_status(store, trial) in ENDS for trial in _trials(plan.rounds[-1])):
        further = plan.extended(observations(plan, store))
        if further is None:
            break
        plan = further
    return result_of(plan, store)


def train(plan: SweepPlan, runner: Runner) -> SweepPlan:
    """Train the whole sweep, round by round; returns the plan with all of its rounds."""
    sweeping = _Sweeping(plan, runner)
    with runner.progress.showing(sweeping.tally):
        further: SweepPlan | None = plan
        while further is not None:
            plan = further
            sweeping.train(plan)
            further = plan.extended(observations(plan, runner.store))
    return plan


class _Sweeping:
    """A sweep under way: what its rounds share."""

    def __init__(self, plan: SweepPlan, runner: Runner) -> None:
        self._sweep, self._runner, self._store = plan.sweep, runner, runner.store
        self._owner: dict[str, Configuration] = {}
        #: For each rung the scores of all configurations that got there.
        self._rungs: dict[int, list[float | None]] = {}
        self.tally = Tally(0)

    def train(self, plan: SweepPlan) -> None:
        """Train the last round of `plan`: all its trials to their end, or from rung to rung those that go on.

        A rung compares with all configurations that ever got there, those of earlier rounds included.
        """
        active = [c for c in plan.configurations if c.trials[0].identity not in self._owner]
        self._owner |= {trial.identity: c for c in active for trial in c.trials}
        self.tally.total = len(self._owner) + plan.left * len(plan.seeds)
        purpose = Purpose("sweep", varied=tuple(plan.sweep.parameters))
        self._store.announce(self._owner, self.tally.total, purpose)
        for trial in _trials(active):
            result = self._store.get(trial)
            if result is not None and not self._store.jobs([trial]):
                self.tally.counts[result.status] += 1
                self._figures(trial, result)
        if self._sweep.prune is not None and active:
            longest = max(trial.epochs for trial in _trials(active))
            for rung in self._sweep.prune.rungs(longest):
                self._train(active, rung)
                active = self._survivors(self._sweep.prune, active, rung)
        self._train(active)

    def _train(self, active: list[Configuration], rung: int | None = None) -> None:
        self._runner.train(_trials(active), self.tally, self._name, self._figures, rung)

    def _survivors(self, prune: Prune, active: list[Configuration], rung: int) -> list[Configuration]:
        """Those of `active` that go on after `rung`; the others are marked pruned."""
        before = self._rungs.setdefault(rung, [])
        scores = [score(c, self._sweep, self._store, rung) for c in active]
        kept = {i - len(before) for i in survivors([*before, *scores], prune)}
        before += scores
        for trial in _trials(c for i, c in enumerate(active) if i not in kept):
            self._store.prune(trial, f"behind after epoch {rung}")
            self.tally.counts["pruned"] += _status(self._store, trial) == "pruned"
        return [c for i, c in enumerate(active) if i in kept]

    def _name(self, trial: Trial) -> str:
        return f"{label(self._owner[trial.identity].overrides)} seed={trial.seed}"

    def _figures(self, trial: Trial, result: TrialResult) -> str:
        """The metric of a trial that has ended or paused, in words; a final one counts for the best."""
        value = result.summary.get(self._sweep.metric)
        if value is None:
            return ""
        if result.status == "completed":
            self.tally.score(label(self._owner[trial.identity].overrides), self._sweep.better(value))
        return f"{self._sweep.metric} {value:.4f}"


def observations(plan: SweepPlan, store: Store) -> list[Observation]:
    """What every draw of `plan` came to."""
    found = {c.number: observe(c, plan.sweep, store) for c in plan.configurations}
    return [found[c.number] for c in plan.draws]


def _folder(plan: SweepPlan, results: Path) -> Path:
    return folder_of(plan.base, plan.name, "sweep", results)


def _status(store: Store, trial: Trial) -> str | None:
    result = store.get(trial)
    return result.status if result else None


def _trials(configurations: Iterable[Configuration]) -> list[Trial]:
    return [trial for configuration in configurations for trial in configuration.trials]
