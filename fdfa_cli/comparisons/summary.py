"""What the stored runs of a comparison amount to: a row a rule."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fdfa_cli.comparisons.plan import Task
from fdfa_cli.stats import Mean, Paired, holm, mean, paired
from fdfa_cli.storage import iter_metrics
from fdfa_cli.trials.store import Result, Store

#: By what rules are compared: the first that some run has.
METRICS = ("test_accuracy", "val_accuracy")
#: The share of the baseline's best validation accuracy that a rule is timed to, unless one is given.
TARGET_SHARE = 0.95


@dataclass(frozen=True)
class Finished:
    """The figures of one completed run; `accuracy` is that of the summary's metric, if it has one."""

    accuracy: float | None
    #: The first epoch whose validation accuracy is at the target; None where none is.
    reached: int | None
    #: Median over epochs.
    epoch_seconds: float | None
    memory: float | None


@dataclass(frozen=True)
class Row:
    """One rule. Differences and ratios are to the baseline, over common seeds; None where unknown."""

    rule: str
    statuses: Counter[str]
    accuracies: Mapping[int, float]
    accuracy: Mean | None
    difference: Paired | None
    p_holm: float | None
    reached: int
    epochs_to_target: float | None
    epoch_seconds: float | None
    seconds_ratio: float | None
    memory_ratio: float | None


@dataclass(frozen=True)
class Summary:
    """A task's rows in the order of its rules, the target accuracy, and why times are not compared.

    `metric` is what rules are compared by: the test accuracy, or that of validation where no run has one.
    """

    task: Task
    rows: tuple[Row, ...]
    target: float | None
    untimed: str | None
    metric: str = "test_accuracy"


def summarise(task: Task, store: Store, target: float | None = None) -> Summary:
    """The summary of what is stored of `task`.

    Only completed runs have figures; the others are counted. `target` is a validation accuracy, by default
    `TARGET_SHARE` of the mean best one of the baseline.
    """
    results = {
        rule: {trial.seed: store.get(trial) for trial in configuration.trials}
        for rule, configuration in task.configurations.items()
    }
    if target is None:
        target = _default_target(results[task.baseline])
    metric = _metric([result for runs in results.values() for result in runs.values() if result])
    finished = {
        rule: {
            seed: figures
            for seed, result in runs.items()
            if result is not None and (figures := _figures(result, metric, target)) is not None
        }
        for rule, runs in results.items()
    }
    untimed = _untimed([result for runs in results.values() for result in runs.values() if result])
    base = finished[task.baseline]
    rows = []
    for rule, runs in finished.items():
        statuses = Counter(result.status if result else "missing" for result in results[rule].values())
        accuracies, others = _accuracies(runs), _accuracies(base)
        rows.append(
            Row(
                rule=rule,
                statuses=statuses,
                accuracies=accuracies,
                accuracy=mean(list(accuracies.values())),
                difference=None if rule == task.baseline else paired(accuracies, others),
                p_holm=None,
                reached=sum(run.reached is not None for run in runs.values()),
                epochs_to_target=_median_epoch([run.reached for run in runs.values()]),
                epoch_seconds=_median(
                    [run.epoch_seconds for run in runs.values() if run.epoch_seconds is not None]
                ),
                seconds_ratio=None if untimed else _ratio(runs, base, lambda run: run.epoch_seconds),
                memory_ratio=None if untimed else _ratio(runs, base, lambda run: run.memory),
            )
        )
    return Summary(task, tuple(_adjusted(rows)), target, untimed, metric)


def _adjusted(rows: list[Row]) -> list[Row]:
    """`rows` with Holm's p over all that were tested."""
    tested = [
        (i, row.difference.p) for i, row in enumerate(rows) if row.difference and row.difference.p is not None
    ]
    for (i, _), p in zip(tested, holm([p for _, p in tested]), strict=True):
        rows[i] = replace(rows[i], p_holm=p)
    return rows


def _default_target(runs: Mapping[int, Result | None]) -> float | None:
    best = [
        value
        for result in runs.values()
        if result is not None
        and result.status == "completed"
        and (value := result.summary.get("best_val_accuracy")) is not None
    ]
    return TARGET_SHARE * statistics.fmean(best) if best else None


def _metric(results: Sequence[Result]) -> str:
    """What completed runs are compared by: of data without a test set there is no test accuracy."""
    completed = [result.summary for result in results if result.status == "completed"]
    there = {name for summary in completed for name in METRICS if summary.get(name) is not None}
    return next((name for name in METRICS if name in there), METRICS[0])


def _accuracies(runs: Mapping[int, Finished]) -> dict[int, float]:
    """By seed, of the runs that have one."""
    return {seed: run.accuracy for seed, run in runs.items() if run.accuracy is not None}


def _figures(result: Result, metric: str, target: float | None) -> Finished | None:
    summary = result.summary
    if result.status != "completed" or result.path is None:
        return None
    reached = None
    if _at_least(summary.get("best_val_accuracy"), target):  # else there is nothing to look for
        rows = iter_metrics(result.path)
        reached = next((row["epoch"] for row in rows if _at_least(row.get("val_accuracy"), target)), None)
    return Finished(
        summary.get(metric), reached, summary.get("median_epoch_seconds"), summary.get("peak_memory_bytes")
    )


def _at_least(value: float | None, target: float | None) -> bool:
    return value is not None and target is not None and value >= target


def _untimed(results: list[Result]) -> str | None:
    """Why the times and memory of these runs cannot be compared; None where they can."""
    completed = [result.provenance for result in results if result.status == "completed"]
    if any(provenance.get("workers") != 1 for provenance in completed):
        return "runs trained beside others"
    places = {tuple(p.get(key) for key in ("device", "threads", "cores", "platform")) for p in completed}
    return "runs come from different machines" if len(places) > 1 else None


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _median_epoch(epochs: list[int | None]) -> float | None:
    """The median over runs, of which those that never get there take for ever; None where it does too."""
    if not epochs:
        return None
    middle = statistics.median(float("inf") if epoch is None else epoch for epoch in epochs)
    return middle if middle < float("inf") else None


def _ratio(
    ours: Mapping[int, Finished], theirs: Mapping[int, Finished], of: Callable[[Finished], float | None]
) -> float | None:
    """Median over common seeds of ours / theirs."""
    ratios = []
    for seed in ours.keys() & theirs.keys():
        mine, other = of(ours[seed]), of(theirs[seed])
        if mine is not None and other:
            ratios.append(mine / other)
    return _median(ratios)


def as_json(summary: Summary, tuning: Mapping[str, Any] | None) -> dict[str, Any]:
    """What compare.json holds: every figure, each seed's test accuracy, and how rules were tuned."""
    return {
        "baseline": summary.task.baseline,
        "seeds": list(summary.task.seeds),
        "target_val_accuracy": summary.target,
        "times_not_comparable": summary.untimed,
        "tuning": tuning,
        "rules": {
            row.rule: {
                "overrides": dict(summary.task.configurations[row.rule].overrides),
                "statuses": dict(row.statuses),
                summary.metric: {str(seed): value for seed, value in row.accuracies.items()},
                **figures(row, summary.metric),
            }
            for row in summary.rows
        },
    }


def figures(row: Row, metric: str) -> dict[str, float | int | None]:
    """A row's numbers by name, accuracies (of `metric`) as fractions of 1."""
    accuracy = row.accuracy
    difference = row.difference.difference if row.difference else None
    return {
        "n": accuracy.n if accuracy else 0,
        f"mean_{metric}": accuracy.mean if accuracy else None,
        "half_width": accuracy.half if accuracy else None,
        "difference": difference.mean if difference else None,
        "difference_half_width": difference.half if difference else None,
        "p": row.difference.p if row.difference else None,
        "p_holm": row.p_holm,
        "epochs_to_target": row.epochs_to_target,
        "runs_at_target": row.reached,
        "epoch_seconds": row.epoch_seconds,
        "seconds_ratio": row.seconds_ratio,
        "memory_ratio": row.memory_ratio,
    }
