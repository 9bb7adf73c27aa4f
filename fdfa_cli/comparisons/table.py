"""The tables of a comparison: one a task, and one across tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fdfa_cli.comparisons.summary import METRICS, Row, Summary, figures
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import plain
from fdfa_cli.stats import (
    FEWEST,
    RESAMPLES,
    Interval,
    interquartile_mean,
    probability_of_improvement,
)
from fdfa_cli.storage import STATUSES
from fdfa_cli.tables import MISSING, Column, Table, Value

#: Choices of a recipe that a table names: above it where they are the same for all rules, else in a column.
CHOICES = {
    "data": "data.name",
    "network": "network.name",
    "hidden": "network.hidden",
    "optimizer": "optimizer.name",
    "lr": "optimizer.lr",
    "feedback rate": "rule.feedback_rate",
    "schedule": "schedule.name",
    "batch": "training.batch_size",
    "epochs": "training.epochs",
    "precision": "training.precision",
}
#: Every end of a run but completed.
OTHERS = (*STATUSES[1:], "missing")


def for_people(summary: Summary, tuning: Mapping[str, Any] | None = None) -> tuple[str, Table]:
    """A line of what all rules share, and the table of where they differ."""
    choices = _choices(summary)
    differing = [key for key in CHOICES if len({chosen[key] for chosen in choices}) > 1]
    shared = {key: value for key, value in choices[0].items() if key not in differing}
    ends = [status for status in OTHERS if any(row.statuses[status] for row in summary.rows)]
    baseline = summary.task.baseline
    target = "" if summary.target is None else f"{summary.target:.1%}".replace("%", " %")
    columns = [
        Column("rule", "rule"),
        Column("n", "n", "count"),
        Column(summary.metric, _title(summary.metric), "fraction", best="max"),
        Column("difference", f"− {baseline}", "difference"),
        Column("p_holm", "p", "number"),
        Column("epochs_to_target", f"epochs to {target}" if target else "epochs to target", "number"),
        Column("seconds_ratio", f"time / {baseline}", "number"),
        Column("memory_ratio", f"memory / {baseline}", "number"),
        *(Column(status, status, "count") for status in ends),
        *(Column(key, key) for key in differing),
    ]
    rows = [
        (
            *_cells(row),
            *(row.statuses[status] for status in ends),
            *(_plain(chosen[key]) for key in differing),
        )
        for row, chosen in zip(summary.rows, choices, strict=True)
    ]
    # A column in which no rule has anything says nothing; the notes say why.
    kept = [i for i in range(len(columns)) if any(row[i] not in (None, MISSING) for row in rows)]
    table = Table(tuple(columns), tuple(rows), tuple(_notes(summary, tuning)))
    return _line(summary, shared), table.keep(kept)


def for_programs(summaries: Sequence[Summary]) -> Table:
    """All figures of all tasks, one row a task and rule."""
    rows: list[dict[str, Value]] = []
    for summary in summaries:
        for row, chosen in zip(summary.rows, _choices(summary), strict=True):
            rows.append(
                {
                    "task": summary.task.name,
                    "rule": row.rule,
                    "baseline": summary.task.baseline,
                    **{key.replace(" ", "_"): value for key, value in chosen.items()},
                    **figures(row, summary.metric),
                    "target_val_accuracy": summary.target,
                    **{status: row.statuses[status] for status in STATUSES},
                }
            )
    if len(summaries) > 1:
        aggregates = _aggregates(summaries)
        for entry in rows:
            for name, interval in aggregates.get(str(entry["rule"]), {}).items():
                entry |= _ends(name, interval)
    names = list(dict.fromkeys(name for entry in rows for name in entry))
    return Table(tuple(map(_column, names)), tuple(tuple(map(entry.get, names)) for entry in rows))


def across(summaries: Sequence[Summary]) -> Table:
    """Interquartile mean of the test accuracy over all tasks and runs, and how probably a rule improves."""
    baseline = summaries[0].task.baseline
    titles = {_title(summary.metric) for summary in summaries}
    columns = (
        Column("rule", "rule"),
        Column("iqm", f"IQM {titles.pop() if len(titles) == 1 else 'acc'}", "fraction", best="max"),
        Column("improvement", f"P(better than {baseline})", "number"),
    )
    rows = tuple(
        (rule, values["iqm"], _interval(values["improvement"]))
        for rule, values in _aggregates(summaries).items()
    )
    notes = (
        f"over {len(summaries)} tasks; [95 % percentile interval of {RESAMPLES} bootstrap resamples, "
        "stratified by task, seed 0]",
        "IQM: mean of the middle half of all runs of all tasks",
        f"P: a run of the rule beats one of {baseline} on the same task, mean over tasks, ties count half",
    )
    return Table(columns, rows, notes)


def _title(metric: str) -> str:
    return metric.replace("_", " ").replace("accuracy", "acc")


def _cells(row: Row) -> tuple[Value, ...]:
    difference = row.difference.difference if row.difference else None
    total = sum(row.statuses.values())
    epochs = MISSING if row.epochs_to_target is None else f"{row.epochs_to_target:g}"
    if row.accuracy and row.reached < row.accuracy.n:
        epochs += f" ({row.reached} of {row.accuracy.n} runs)"
    n = row.accuracy.n if row.accuracy else 0
    return (
        row.rule,
        n if n == total else f"{n} of {total}",
        row.accuracy,
        difference,
        None if row.p_holm is None else "<0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}",
        epochs if row.accuracy else None,
        None if row.seconds_ratio is None else f"{row.seconds_ratio:.2f}",
        None if row.memory_ratio is None else f"{row.memory_ratio:.2f}",
    )


def _interval(value: Interval | None) -> str | None:
    return None if value is None else f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _aggregates(summaries: Sequence[Summary]) -> dict[str, dict[str, Interval | None]]:
    """For each rule that every task has: interquartile mean and probability of improvement."""
    baseline = summaries[0].task.baseline
    scores = [{row.rule: list(row.accuracies.values()) for row in s.rows} for s in summaries]
    common = [rule for rule in scores[0] if all(task.get(rule) for task in scores)]
    found: dict[str, dict[str, Interval | None]] = {}
    for rule in common:
        ours = [task[rule] for task in scores]
        compared = rule != baseline and baseline in common
        found[rule] = {
            "iqm": interquartile_mean(ours),
            "improvement": probability_of_improvement(ours, [t[baseline] for t in scores])
            if compared
            else None,
        }
    return found


def _ends(name: str, interval: Interval | None) -> dict[str, Value]:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {name: interval.value if interval else None, f"{name}_low": low, f"{name}_high": high}


def _choices(summary: Summary) -> list[dict[str, Value]]:
    """The `CHOICES` of each rule."""
    recipes = [configuration.trials[0].recipe for configuration in summary.task.configurations.values()]
    return [{key: _choice(recipe, path) for key, path in CHOICES.items()} for recipe in recipes]


def _choice(recipe: Recipe, path: str) -> Value:
    section, _, option = path.partition(".")
    value = getattr(getattr(recipe, section), option, None)
    return value if value is None or isinstance(value, str | int | float) else plain(value)


def _plain(value: Value) -> str | None:
    return value if value is None or isinstance(value, str) else plain(value)


def _line(summary: Summary, shared: Mapping[str, Value]) -> str:
    seeds = summary.task.seeds
    listed = f"{seeds[0]}-{seeds[-1]}" if seeds == tuple(range(seeds[0], seeds[-1] + 1)) else str(list(seeds))
    parts = [f"{key} {_plain(value)}" for key, value in shared.items() if value is not None]
    return "   ".join([*parts, f"seeds {listed}"])


def _notes(summary: Summary, tuning: Mapping[str, Any] | None) -> list[str]:
    task, rows = summary.task, summary.rows
    notes = []
    counts = [row.accuracy.n if row.accuracy else 0 for row in rows]
    if not any(counts) and any(row.statuses["completed"] for row in rows):
        notes.append("no completed run has a test or validation accuracy, so rules are not compared by one")
    elif summary.metric != METRICS[0]:
        notes.append("no run has a test accuracy: rules are compared by their validation accuracy")
    if max(counts) >= FEWEST:
        notes.append(f"± 95 % Student-t interval; − {task.baseline}: paired over the seeds both completed")
    if any(counts) and min(counts) < FEWEST:
        notes.append(
            f"no interval and no p below {FEWEST} runs: these are too few to estimate how much runs vary"
        )
    tested = sum(row.p_holm is not None for row in rows)
    if tested:
        notes.append(
            f"p: paired t test against {task.baseline}, Holm-adjusted for {tested}; a large p is no evidence "
            "of a difference, and no evidence that there is none"
        )
    if summary.target is not None:
        notes.append(f"epochs to a validation accuracy of {summary.target:.4f}: median over runs")
    if summary.untimed:
        notes.append(f"time and memory are not compared: {summary.untimed}")
    else:
        notes.append(
            "time: median training seconds an epoch; memory: peak of the process (on a GPU, of its "
            "allocator); of runs one after the other on one machine, interleaved by seed, then rule; "
            "median over seeds"
        )
    return [*notes, *(_tuning_notes(tuning) if tuning else ())]


def _tuning_notes(tuning: Mapping[str, Any]) -> list[str]:
    spaces = ", ".join(f"{key} in [{low:g}, {high:g}]" for key, (low, high) in tuning["spaces"].items())
    return [
        f"tuned by {tuning['metric']} under seed {tuning['seed']}, {tuning['budget']} trainings a rule: "
        f"its own settings, and random draws of {spaces}",
        *(
            f"  {rule}: "
            + (" ".join(f"{k}={plain(v)}" for k, v in chosen.items() if k != "rule") or "its own")
            for rule, chosen in tuning["chosen"].items()
        ),
    ]


def _column(name: str) -> Column:
    return Column(name, name.replace("_", " "), "text" if name in ("task", "rule", "baseline") else "number")
