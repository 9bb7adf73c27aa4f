"""Running trials through an engine, and a sweep from its plan to its winner."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fdfa_cli.recipe.sweep import Prune
from fdfa_cli.sweeps.observation import Observation
from fdfa_cli.sweeps.plan import Plan
from fdfa_cli.sweeps.prune import survivors
from fdfa_cli.trials.announcement import About
from fdfa_cli.trials.plan import Configuration, Trial
from fdfa_cli.trials.runner import Runner
from fdfa_cli.trials.store import Result, Store
from fdfa_cli.trials.view import Tally, View, label


def run(plan: Plan, runner: Runner) -> Plan:
    """Train a whole sweep, round by round; returns the plan with all of its rounds."""
    sweeping = _Sweeping(plan, runner)
    with sweeping.view.live():
        further: Plan | None = plan
        while further is not None:
            plan = further
            sweeping.train(plan)
            further = plan.extended(observations(plan, runner.store))
    return plan


def known(plan: Plan, store: Store) -> Plan:
    """`plan` with the rounds that follow from what is stored."""
    ends = ("completed", "pruned", "diverged", "failed")
    while all(_status(store, trial) in ends for trial in _trials(plan.rounds[-1])):
        further = plan.extended(observations(plan, store))
        if further is None:
            break
        plan = further
    return plan


class _Sweeping:
    """A sweep under way: what its rounds share."""

    def __init__(self, plan: Plan, runner: Runner) -> None:
        self._sweep, self._runner, self._store = plan.sweep, runner, runner.store
        self._tally = Tally(0)
        self._owner: dict[str, Configuration] = {}
        #: For each rung the scores of all configurations that got there.
        self._rungs: dict[int, list[float | None]] = {}
        self.view = View(self._tally, self._name, runner.quiet)

    def train(self, plan: Plan) -> None:
        """Train the last round of `plan`: all its trials to their end, or from rung to rung those that go on.

        A rung compares with all configurations that ever got there, those of earlier rounds included.
        """
        active = [c for c in plan.configurations if c.trials[0].identity not in self._owner]
        self._owner |= {trial.identity: c for c in active for trial in c.trials}
        self._tally.total = len(self._owner) + plan.left * len(plan.seeds)
        about = About("sweep", varied=tuple(plan.sweep.parameters))
        self._store.announce(self._owner, self._tally.total, about)
        for trial in _trials(active):
            result = self._store.get(trial)
            if result is not None and not self._store.jobs([trial]):
                self._tally.counts[result.status] += 1
                self._ended(trial, result)
        if self._sweep.prune is not None and active:
            longest = max(trial.epochs for trial in _trials(active))
            for rung in self._sweep.prune.rungs(longest):
                self._runner.train(_trials(active), self.view, self._ended, rung)
                active = self._survivors(plan, self._sweep.prune, active, rung)
        self._runner.train(_trials(active), self.view, self._ended)

    def _survivors(
        self, plan: Plan, prune: Prune, active: list[Configuration], rung: int
    ) -> list[Configuration]:
        """Those of `active` that go on after `rung`; the others are marked pruned."""
        before = self._rungs.setdefault(rung, [])
        scores = [score(c, plan, self._store, rung) for c in active]
        kept = {i - len(before) for i in survivors([*before, *scores], prune)}
        before += scores
        for trial in _trials(c for i, c in enumerate(active) if i not in kept):
            self._store.prune(trial, f"behind after epoch {rung}")
            self._tally.counts["pruned"] += _status(self._store, trial) == "pruned"
        return [c for i, c in enumerate(active) if i in kept]

    def _name(self, trial: Trial) -> str:
        return f"{label(self._owner[trial.identity].overrides)} seed={trial.seed}"

    def _ended(self, trial: Trial, result: Result) -> str:
        value = result.summary.get(self._sweep.metric)
        if value is None:
            return ""
        if result.status == "completed":
            self._tally.score(label(self._owner[trial.identity].overrides), self._sweep.better(value))
        return f"{self._sweep.metric} {value:.4f}"


def observations(plan: Plan, store: Store) -> list[Observation]:
    """What every draw of `plan` came to."""
    found = {}
    for c in plan.configurations:
        pruned = [r.epochs for t in c.trials if (r := store.get(t)) is not None and r.status == "pruned"]
        rung = min(pruned, default=None)
        found[c.number] = Observation(c.overrides, score(c, plan, store, rung), rung)
    return [found[c.number] for c in plan.draws]


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


def _status(store: Store, trial: Trial) -> str | None:
    result = store.get(trial)
    return result.status if result else None


def _trials(configurations: Iterable[Configuration]) -> list[Trial]:
    return [trial for configuration in configurations for trial in configuration.trials]
