"""The tables of a comparison: one a task, and one across tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fdfa_cli.comparisons.result import METRICS, ComparisonResult, RuleResult
from fdfa_cli.comparisons.tuning import METRIC, TUNED, Tuning
from fdfa_cli.printable import counted
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

#: What of a recipe is shown: in a line above the table where all rules share it, else in a column.
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
#: What a run can have come to, other than completed.
OTHERS = (*STATUSES[1:], "missing")


def for_people(result: ComparisonResult) -> tuple[str, Table]:
    """A line with what all rules share, and the table of where they differ."""
    choices, baseline = _choices(result), result.plan.baseline
    differing = [key for key in CHOICES if len({chosen[key] for chosen in choices}) > 1]
    shared = {key: value for key, value in choices[0].items() if key not in differing}
    ends = [status for status in OTHERS if result.statuses[status]]
    target = "target" if result.target is None else f"{100 * result.target:.1f} %"
    columns = [
        Column("rule", "rule"),
        Column("n", "n", "count"),
        Column(result.metric, _title(result.metric), "fraction", best="max"),
        Column("difference", f"− {baseline}", "difference"),
        Column("p_holm", "p", "number"),
        Column("epochs_to_target", f"epochs to {target}", "number"),
        Column("seconds_ratio", f"time / {baseline}", "number"),
        Column("memory_ratio", f"memory / {baseline}", "number"),
        *(Column(status, status, "count") for status in ends),
        *(Column(key, key) for key in differing),
    ]
    rows = [
        (
            *_cells(found),
            *(found.statuses[status] for status in ends),
            *(_plain(chosen[key]) for key in differing),
        )
        for found, chosen in zip(result.rules, choices, strict=True)
    ]
    # A column in which no rule has anything says nothing; the notes say why.
    kept = [i for i in range(len(columns)) if any(row[i] not in (None, MISSING) for row in rows)]
    table = Table(tuple(columns), tuple(rows), tuple(_notes(result)))
    return _line(result, shared), table.keep(kept)


def for_programs(results: Sequence[ComparisonResult]) -> Table:
    """All figures of all tasks, one row a task and rule."""
    rows: list[dict[str, Value]] = []
    for result in results:
        for found, chosen in zip(result.rules, _choices(result), strict=True):
            rows.append(
                {
                    "task": result.plan.name,
                    "rule": found.rule,
                    "baseline": result.plan.baseline,
                    **{key.replace(" ", "_"): value for key, value in chosen.items()},
                    **found.figures(result.metric),
                    "target_val_accuracy": result.target,
                    **{status: found.statuses[status] for status in STATUSES},
                }
            )
    if len(results) > 1:
        aggregates = _aggregates(results)
        for entry in rows:
            for name, interval in aggregates.get(str(entry["rule"]), {}).items():
                entry |= _ends(name, interval)
    names = list(dict.fromkeys(name for entry in rows for name in entry))
    return Table(tuple(map(_column, names)), tuple(tuple(map(entry.get, names)) for entry in rows))


def across(results: Sequence[ComparisonResult]) -> Table:
    """The interquartile mean of the accuracy over all tasks and runs, and how probably a rule improves."""
    baseline = results[0].plan.baseline
    titles = {_title(result.metric) for result in results}
    columns = (
        Column("rule", "rule"),
        Column("iqm", f"IQM {titles.pop() if len(titles) == 1 else 'acc'}", "fraction", best="max"),
        Column("improvement", f"P(better than {baseline})", "number"),
    )
    rows = tuple(
        (rule, values["iqm"], _interval(values["improvement"]))
        for rule, values in _aggregates(results).items()
    )
    notes = (
        f"IQM: the mean of the middle half of all runs of all {len(results)} tasks",
        f"P: how probably a run of the rule beats one of {baseline} on the same task, mean over tasks; a tie "
        "counts half",
        f"[…] is a 95 % percentile interval of {RESAMPLES} bootstrap resamples, stratified by task, seed 0",
    )
    return Table(columns, rows, notes)


def _title(metric: str) -> str:
    return metric.replace("_", " ").replace("accuracy", "acc")


def _cells(row: RuleResult) -> tuple[Value, ...]:
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


def _aggregates(results: Sequence[ComparisonResult]) -> dict[str, dict[str, Interval | None]]:
    """The interquartile mean and the probability of improvement of each rule that all tasks have."""
    baseline = results[0].plan.baseline
    scores = [{found.rule: list(found.accuracies.values()) for found in result.rules} for result in results]
    common = [rule for rule in scores[0] if all(task.get(rule) for task in scores)]
    aggregates: dict[str, dict[str, Interval | None]] = {}
    for rule in common:
        ours = [task[rule] for task in scores]
        improvement = None
        if rule != baseline and baseline in common:
            improvement = probability_of_improvement(ours, [task[baseline] for task in scores])
        aggregates[rule] = {"iqm": interquartile_mean(ours), "improvement": improvement}
    return aggregates


def _ends(name: str, interval: Interval | None) -> dict[str, Value]:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {name: interval.value if interval else None, f"{name}_low": low, f"{name}_high": high}


def _choices(result: ComparisonResult) -> list[dict[str, Value]]:
    """The values that each rule's recipe has for `CHOICES`."""
    recipes = [configuration.trials[0].recipe for configuration in result.plan.configurations.values()]
    return [{key: _choice(recipe, path) for key, path in CHOICES.items()} for recipe in recipes]


def _choice(recipe: Recipe, path: str) -> Value:
    section, _, option = path.partition(".")
    value = getattr(getattr(recipe, section), option, None)
    return value if value is None or isinstance(value, str | int | float) else plain(value)


def _plain(value: Value) -> str | None:
    return value if value is None or isinstance(value, str) else plain(value)


def _line(result: ComparisonResult, shared: Mapping[str, Value]) -> str:
    seeds = result.plan.seeds
    listed = f"{seeds[0]}-{seeds[-1]}" if seeds == tuple(range(seeds[0], seeds[-1] + 1)) else str(list(seeds))
    parts = [f"{key} {_plain(value)}" for key, value in shared.items() if value is not None]
    return "   ".join([*parts, f"seeds {listed}"])


def _notes(result: ComparisonResult) -> list[str]:
    notes = [*_accuracy_notes(result)]
    if result.target is not None:
        notes.append(
            f"epochs to {100 * result.target:.1f} %: how many until the validation accuracy is "
            f"{result.target:.4f}, median over runs"
        )
    if result.untimed:
        notes.append(f"time and memory are not compared: {result.untimed}")
    else:
        notes.append(
            f"time and memory: ratio to {result.plan.baseline}, median over seeds; the runs trained one "
            "after the other on one machine, seed by seed and rule by rule; time is the median of training "
            "seconds an epoch, memory the peak of the process (on a GPU, of its allocator)"
        )
    return [*notes, *(_tuning_notes(result.tuning) if result.tuning else ())]


def _accuracy_notes(result: ComparisonResult) -> Iterator[str]:
    """What the columns of accuracies, differences and p mean, and why one is missing."""
    baseline = result.plan.baseline
    counts = [found.accuracy.n if found.accuracy else 0 for found in result.rules]
    if not any(counts) and result.statuses["completed"]:
        yield "no completed run has a test or validation accuracy, so rules are not compared by one"
    elif result.metric != METRICS[0]:
        yield "no run has a test accuracy: rules are compared by their validation accuracy"
    if max(counts) >= FEWEST:
        yield f"± is half of a 95 % Student-t interval; − {baseline}: paired by the seeds that both completed"
    if any(counts) and min(counts) < FEWEST:
        yield f"no interval and no p below {FEWEST} runs: these are too few to estimate how much runs vary"
    if tested := sum(found.p_holm is not None for found in result.rules):
        yield (
            f"p: paired t test against {baseline}, Holm-adjusted for {counted(tested, 'test')}; a large p is "
            "no evidence of a difference, and no evidence that there is none"
        )


def _tuning_notes(tuning: Tuning) -> list[str]:
    spaces = ", ".join(f"{key} in [{space.low:g}, {space.high:g}]" for key, space in TUNED.items())
    chosen = {
        rule: " ".join(f"{key}={plain(value)}" for key, value in values.items() if key != "rule")
        for rule, values in tuning.chosen.items()
    }
    return [
        f"each rule was tuned by {METRIC} under seed {tuning.seed}, in {tuning.budget} trainings: one with "
        f"its own settings, the others with random draws of {spaces}",
        *(f"  {rule}: {values or 'its own settings'}" for rule, values in chosen.items()),
    ]


def _column(name: str) -> Column:
    return Column(name, name.replace("_", " "), "text" if name in ("task", "rule", "baseline") else "number")
