"""What the stored runs of a comparison amount to, rule by rule."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fdfa_cli.comparisons.plan import ComparisonPlan
from fdfa_cli.comparisons.tuning import Tuning
from fdfa_cli.stats import Mean, Paired, holm, mean, paired
from fdfa_cli.storage import iter_metrics
from fdfa_cli.trials.store import Store, TrialResult

#: What rules are compared by: the first of these that some run has.
METRICS = ("test_accuracy", "val_accuracy")
#: The share of the baseline's best validation accuracy that a rule is timed to, unless a target is given.
TARGET_SHARE = 0.95


@dataclass(frozen=True)
class RuleResult:
    """What one rule came to; figures are those of its completed runs, and None where unknown.

    `results` are the runs in the order of the seeds, None for a trial without one. `accuracies` are by seed,
    and `accuracy` is their mean. `difference` and the ratios are to the baseline over common seeds; `reached`
    is the number of runs that get to the target, and `epochs_to_target` the median of when.
    """

    rule: str
    results: tuple[TrialResult | None, ...]
    accuracies: Mapping[int, float]
    accuracy: Mean | None
    difference: Paired | None
    p_holm: float | None
    reached: int
    epochs_to_target: float | None
    epoch_seconds: float | None
    seconds_ratio: float | None
    memory_ratio: float | None

    @property
    def statuses(self) -> Counter[str]:
        """How many of its runs ended in each status; ``missing`` counts trials without a run."""
        return Counter("missing" if result is None else result.status for result in self.results)

    def figures(self, metric: str) -> dict[str, float | int | None]:
        """Its numbers by name; accuracies, which are those of `metric`, as fractions of 1."""
        accuracy = self.accuracy
        difference = self.difference.difference if self.difference else None
        return {
            "n": accuracy.n if accuracy else 0,
            f"mean_{metric}": accuracy.mean if accuracy else None,
            "half_width": accuracy.half if accuracy else None,
            "difference": difference.mean if difference else None,
            "difference_half_width": difference.half if difference else None,
            "p": self.difference.p if self.difference else None,
            "p_holm": self.p_holm,
            "epochs_to_target": self.epochs_to_target,
            "runs_at_target": self.reached,
            "epoch_seconds": self.epoch_seconds,
            "seconds_ratio": self.seconds_ratio,
            "memory_ratio": self.memory_ratio,
        }


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison with what is stored of it in `folder`: a result a rule, in the order of the plan.

    `metric` is what rules are compared by: the test accuracy, or that of validation where no run has one.
    `target` is a validation accuracy; `untimed` says why times are not compared, where they are not.
    """

    folder: Path
    plan: ComparisonPlan
    rules: tuple[RuleResult, ...]
    target: float | None
    untimed: str | None
    metric: str = "test_accuracy"
    tuning: Tuning | None = None

    @property
    def statuses(self) -> Counter[str]:
        """How many runs ended in each status; ``missing`` counts trials without a run."""
        return sum((rule.statuses for rule in self.rules), Counter[str]())

    def as_json(self) -> dict[str, Any]:
        """What compare.json holds: every figure, the accuracy of each seed, and how rules were tuned."""
        return {
            "baseline": self.plan.baseline,
            "seeds": list(self.plan.seeds),
            "target_val_accuracy": self.target,
            "times_not_comparable": self.untimed,
            "tuning": self.tuning.as_json() if self.tuning else None,
            "rules": {
                found.rule: {
                    "overrides": dict(self.plan.configurations[found.rule].overrides),
                    "statuses": dict(found.statuses),
                    self.metric: {str(seed): value for seed, value in found.accuracies.items()},
                    **found.figures(self.metric),
                }
                for found in self.rules
            },
        }


@dataclass(frozen=True)
class _Figures:
    """The figures of one completed run; `accuracy` is the metric by which rules are compared."""

    accuracy: float | None
    #: The first epoch whose validation accuracy is at the target; None where none is.
    reached: int | None
    #: The median over epochs.
    epoch_seconds: float | None
    memory: float | None


def result_of(
    plan: ComparisonPlan, store: Store, target: float | None = None, tuning: Tuning | None = None
) -> ComparisonResult:
    """What `store` holds of the comparison.

    Only completed runs have figures; the others are counted. `target` is a validation accuracy, by default
    `TARGET_SHARE` of the mean best one of the baseline.
    """
    results = {
        rule: {trial.seed: store.get(trial) for trial in configuration.trials}
        for rule, configuration in plan.configurations.items()
    }
    runs = [result for by_seed in results.values() for result in by_seed.values() if result]
    if target is None:
        target = _default_target(results[plan.baseline].values())
    metric, untimed = _metric(runs), _untimed(runs)
    figures = {
        rule: {
            seed: _figures(result, metric, target)
            for seed, result in by_seed.items()
            if result is not None and result.status == "completed"
        }
        for rule, by_seed in results.items()
    }
    base = figures[plan.baseline]
    found = [
        _rule_result(rule, tuple(results[rule].values()), figures[rule], base, timed=untimed is None)
        for rule in results
    ]
    return ComparisonResult(store.folder, plan, tuple(_adjusted(found)), target, untimed, metric, tuning)


def _rule_result(
    rule: str,
    results: tuple[TrialResult | None, ...],
    ours: Mapping[int, _Figures],
    base: Mapping[int, _Figures],
    timed: bool,
) -> RuleResult:
    """The result of a rule whose runs have the figures `ours`, where the baseline's have those of `base`."""
    accuracies = _accuracies(ours)
    return RuleResult(
        rule=rule,
        results=results,
        accuracies=accuracies,
        accuracy=mean(list(accuracies.values())),
        difference=None if ours is base else paired(accuracies, _accuracies(base)),
        p_holm=None,
        reached=sum(run.reached is not None for run in ours.values()),
        epochs_to_target=_median_epoch([run.reached for run in ours.values()]),
        epoch_seconds=_median([run.epoch_seconds for run in ours.values() if run.epoch_seconds is not None]),
        seconds_ratio=_ratio(ours, base, lambda run: run.epoch_seconds) if timed else None,
        memory_ratio=_ratio(ours, base, lambda run: run.memory) if timed else None,
    )


def _adjusted(found: list[RuleResult]) -> list[RuleResult]:
    """`found` with Holm's p over all rules that were tested."""
    tested = {
        rule.rule: rule.difference.p for rule in found if rule.difference and rule.difference.p is not None
    }
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [replace(rule, p_holm=adjusted.get(rule.rule)) for rule in found]


def _default_target(baseline: Iterable[TrialResult | None]) -> float | None:
    best = [result.final("best_val_accuracy") for result in baseline if result is not None]
    known = [value for value in best if value is not None]
    return TARGET_SHARE * statistics.fmean(known) if known else None


def _metric(results: Sequence[TrialResult]) -> str:
    """What completed runs are compared by: of data without a test set there is no test accuracy."""
    completed = [result.summary for result in results if result.status == "completed"]
    there = {name for summary in completed for name in METRICS if summary.get(name) is not None}
    return next((name for name in METRICS if name in there), METRICS[0])


def _accuracies(runs: Mapping[int, _Figures]) -> dict[int, float]:
    """The accuracies of the runs that have one, by seed."""
    return {seed: run.accuracy for seed, run in runs.items() if run.accuracy is not None}


def _figures(result: TrialResult, metric: str, target: float | None) -> _Figures:
    """The figures of a run that was completed."""
    summary = result.summary
    return _Figures(
        accuracy=summary.get(metric),
        reached=_reached(result, target),
        epoch_seconds=summary.get("median_epoch_seconds"),
        memory=summary.get("peak_memory_bytes"),
    )


def _reached(result: TrialResult, target: float | None) -> int | None:
    """The first epoch whose validation accuracy is at least `target`; None where there is none."""
    if result.path is None or not _at_least(result.summary.get("best_val_accuracy"), target):
        return None
    rows = iter_metrics(result.path)
    return next((row["epoch"] for row in rows if _at_least(row.get("val_accuracy"), target)), None)


def _at_least(value: float | None, target: float | None) -> bool:
    return value is not None and target is not None and value >= target


def _untimed(results: list[TrialResult]) -> str | None:
    """Why the times and memory of these runs cannot be compared; None where they can."""
    completed = [result.provenance for result in results if result.status == "completed"]
    if any(provenance.get("workers") != 1 for provenance in completed):
        return "some runs trained at the same time as others"
    places = {tuple(p.get(key) for key in ("device", "threads", "cores", "platform")) for p in completed}
    return "the runs come from different machines" if len(places) > 1 else None


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _median_epoch(epochs: list[int | None]) -> float | None:
    """The median over runs, where one that never gets there is infinitely late; None where it is infinite."""
    if not epochs:
        return None
    middle = statistics.median(float("inf") if epoch is None else epoch for epoch in epochs)
    return middle if middle < float("inf") else None


def _ratio(
    ours: Mapping[int, _Figures], theirs: Mapping[int, _Figures], of: Callable[[_Figures], float | None]
) -> float | None:
    """The median of ours / theirs over the seeds that both have."""
    ratios = []
    for seed in ours.keys() & theirs.keys():
        mine, other = of(ours[seed]), of(theirs[seed])
        if mine is not None and other:
            ratios.append(mine / other)
    return _median(ratios)
