"""What a sweep came to: its configurations best first, and the winner."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fdfa_cli.stats import Mean, mean
from fdfa_cli.sweeps.plan import SweepPlan
from fdfa_cli.trials.plan import Configuration
from fdfa_cli.trials.store import Store, TrialResult


@dataclass(frozen=True)
class Ranked:
    """A configuration of a finished sweep.

    `metric` is the mean over its completed runs, None where there is none; `results` are in the order of
    `configuration.trials`, None for a trial that has no run.
    """

    configuration: Configuration
    metric: Mean | None
    results: tuple[TrialResult | None, ...]

    @property
    def statuses(self) -> Counter[str]:
        """How many of its runs ended in each status; ``missing`` counts trials without a run."""
        return Counter("missing" if result is None else result.status for result in self.results)

    @property
    def whole(self) -> bool:
        """Whether the runs of all seeds were completed."""
        return self.statuses["completed"] == len(self.results)

    @property
    def test_accuracy(self) -> Mean | None:
        """The mean accuracy of its runs on test data, which chose nothing; None where none was measured."""
        values = [result.summary.get("test_accuracy") for result in self.results if result is not None]
        return mean([value for value in values if value is not None])


@dataclass(frozen=True)
class SweepResult:
    """A sweep with what is stored of it in `folder`: its configurations as `ranking`, best first.

    First come those of which every seed was completed, by their mean. Those with a seed that was pruned,
    failed or diverged have not earned their mean, and come after.
    """

    folder: Path
    plan: SweepPlan
    ranking: tuple[Ranked, ...]

    @property
    def winner(self) -> Ranked | None:
        """The best of the configurations whose every seed was completed; None where there is none."""
        return next((ranked for ranked in self.ranking[:1] if ranked.whole), None)

    @property
    def tied(self) -> list[Ranked]:
        """The configurations that are as good as the winner, the winner first; empty where it is alone."""
        best = self.winner
        if best is None or best.metric is None:
            return []
        whole = [ranked for ranked in self.ranking if ranked.whole and ranked.metric is not None]
        alike = [r for r in whole if r.metric is not None and math.isclose(r.metric.mean, best.metric.mean)]
        return alike if len(alike) > 1 else []

    @property
    def statuses(self) -> Counter[str]:
        """How many runs ended in each status; ``missing`` counts trials without a run."""
        return sum((ranked.statuses for ranked in self.ranking), Counter[str]())


def result_of(plan: SweepPlan, store: Store) -> SweepResult:
    """What `store` holds of the sweep."""

    def rank(ranked: Ranked) -> tuple[bool, float, int]:
        score = -math.inf if ranked.metric is None else plan.sweep.better(ranked.metric.mean)
        return (not ranked.whole, -score, ranked.configuration.number)

    found = (_ranked(configuration, plan, store) for configuration in plan.configurations)
    return SweepResult(store.folder, plan, tuple(sorted(found, key=rank)))


def _ranked(configuration: Configuration, plan: SweepPlan, store: Store) -> Ranked:
    results = tuple(store.get(trial) for trial in configuration.trials)
    values = [result.final(plan.sweep.metric) for result in results if result is not None]
    return Ranked(configuration, mean([value for value in values if value is not None]), results)
