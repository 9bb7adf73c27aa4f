"""The first table of the page: groups of runs with their means, and how they differ from a baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fdfa_cli.errors import UsageError
from fdfa_cli.printable import printable
from fdfa_cli.report.group_table import groups_table, usual_metrics
from fdfa_cli.report.html.grid import Detail, Grid, grid
from fdfa_cli.report.html.reproduce import blocks
from fdfa_cli.report.plots.plot_data import PlotData, Series, title
from fdfa_cli.report.plots.style import legible
from fdfa_cli.report.query import Query
from fdfa_cli.report.run_table import notes as run_notes
from fdfa_cli.report.select import Condition, ordered
from fdfa_cli.stats import Mean, Paired, holm, paired
from fdfa_cli.storage import STATUSES
from fdfa_cli.tables import Column, Kind, Table, Value

#: Figures of a group beside the metrics that were asked for.
ALSO = ("val_accuracy", "train_seconds")


def summary(plot_data: PlotData, query: Query) -> Grid:
    """A row a group: its choices, figures, difference from the baseline, and other ends of its runs."""
    wanted = query.metrics or usual_metrics(plot_data.runs)
    also = [name for name in ALSO if name not in wanted and _known(plot_data, name)]
    names = [*plot_data.names, "n", *wanted]
    all_series = ordered(
        plot_data.all_series, query.sort, lambda series, name: _value(plot_data, series, name)
    )
    asked = Query(by=plot_data.names, metrics=wanted, columns=(*names, *also))
    table = groups_table(plot_data.catalog, [series.group for series in all_series], asked)
    columns = [replace(c, title=title(c.name)) if c.name in plot_data.names else c for c in table.columns]
    rows = [list(row) for row in table.rows]
    notes = [*plot_data.apart, *table.notes[len(run_notes(plot_data.runs)) :]]

    def insert(at: int, column: Column, values: Sequence[Value]) -> None:
        columns.insert(at, column)
        for row, value in zip(rows, values, strict=True):
            row.insert(at, value)

    baselines = baselines_of(plot_data, query.baseline)
    differences = _differences(plot_data, baselines, wanted[0])
    if differences:
        found = [differences.get(series.key) for series in all_series]
        rules = {legible(series.rule) for series in baselines.values()}
        versus = f"− {rules.pop()}" if len(rules) == 1 else "− baseline"
        insert(
            len(names), Column("difference", versus, _kind(columns, wanted[0])), [f and f[0] for f in found]
        )
        insert(len(names) + 1, Column("p", "p", "number"), [f and f[1] for f in found])
        notes += _difference_notes(differences, baselines, wanted[0])
    elif any(len({series.rule for series in several}) > 1 for several in plot_data.tasks.values()):
        notes.append(
            "no differences: fdfa compare trained none of these groups together; --baseline rule=bp would "
            "name the group to compare with"
        )
    others = [_others(series.group.statuses) for series in all_series]
    if any(others):
        insert(len(columns), Column("others", "not completed"), others)
    content = Table(tuple(columns), tuple(map(tuple, rows)), tuple(map(printable, notes)))
    return grid("summary", "Summary", content, [_detail(series, plot_data) for series in all_series])


def _value(plot_data: PlotData, series: Series, name: str) -> Value:
    """What a group is sorted by: a choice that is the same for its runs, or the mean of a number."""
    if name in plot_data.names:
        return series.group.key[plot_data.names.index(name)]
    return series.group.figure(name)


def _known(plot_data: PlotData, metric: str) -> bool:
    return any(metric in run.record.summary for run in plot_data.runs)


def _values(series: Series, metric: str) -> dict[int, float]:
    """The metric of each completed run, by its seed."""
    found = {run.record.facts["seed"]: run.record.summary.get(metric) for run in series.group.completed}
    return {seed: value for seed, value in found.items() if value is not None}


def baselines_of(plot_data: PlotData, named: Sequence[Condition]) -> dict[str, Series]:
    """For a group by its key the group that it is compared with; not for those without one.

    That is the baseline of the comparison that trained the group. Where conditions are `named`, it is for
    all groups of a task the one whose runs meet them. Raises `UsageError` where they fit none, or several.
    """
    if named:
        return _named(plot_data, named)
    found: dict[str, Series] = {}
    for study in plot_data.catalog.studies.values():
        if study.kind != "compare":
            continue
        for all_series in plot_data.tasks.values():
            trained = [series for series in all_series if any(map(study.trains, series.group.runs))]
            bases = [series for series in trained if series.rule == study.baseline]
            if len(bases) == 1:
                found = {series.key: bases[0] for series in trained if series is not bases[0]} | found
    return found


def _named(plot_data: PlotData, named: Sequence[Condition]) -> dict[str, Series]:
    catalog = plot_data.catalog
    catalog.check(condition.name for condition in named)
    asked = " ".join(f"--baseline {condition}" for condition in named)
    found: dict[str, Series] = {}
    for task, all_series in plot_data.tasks.items():
        bases = [
            series
            for series in all_series
            if all(c.holds(catalog.get(run, c.name)) for run in series.group.runs for c in named)
        ]
        if len(bases) > 1:
            labels = "; ".join(series.name for series in bases)
            raise UsageError(f"{asked} fits {len(bases)} groups of {task}: {labels}; add a condition")
        found |= {series.key: base for base in bases for series in all_series if series is not base}
    if not found:
        raise UsageError(f"{asked} fits no group that others could be compared with")
    return found


def _differences(
    plot_data: PlotData, baselines: dict[str, Series], metric: str
) -> dict[str, tuple[Mean, float | None]]:
    """For a group its paired difference from its baseline, and Holm's p over all tested.

    Nothing where runs differ in more than seeds.
    """
    found: dict[str, Paired] = {}
    for series in plot_data.all_series:
        base = baselines.get(series.key)
        if base is None or base.group.mixed or series.group.mixed:
            continue
        difference = paired(_values(series, metric), _values(base, metric))
        if difference is not None:
            found[series.key] = difference
    tested = {key: difference.p for key, difference in found.items() if difference.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {key: (difference.difference, adjusted.get(key)) for key, difference in found.items()}


def _difference_notes(
    differences: dict[str, tuple[Mean, float | None]], baselines: dict[str, Series], metric: str
) -> list[str]:
    bases = {series.key: series for key, series in baselines.items() if key in differences}
    several = len({series.task for series in bases.values()}) > 1
    named = dict.fromkeys(f"{m.name} on {m.task}" if several else m.name for m in bases.values())
    notes = [
        f"differences of {metric.replace('_', ' ')} are paired over the seeds that both completed; "
        f"baseline: {'; '.join(named)}"
    ]
    tested = sum(p is not None for _, p in differences.values())
    if tested:
        notes.append(
            f"p: paired t test, Holm-adjusted for {tested}; a large p is no evidence of a difference, and no "
            "evidence that there is none"
        )
    return notes


def _kind(columns: Sequence[Column], metric: str) -> Kind:
    """The kind of a difference between two values of a column."""
    kind = next(column.kind for column in columns if column.name == metric)
    return "difference" if kind == "fraction" else kind


def _others(statuses: Counter[str]) -> str | None:
    parts = [f"{statuses[status]} {status}" for status in STATUSES[1:] if statuses[status]]
    return ", ".join(parts) or None


def _detail(series: Series, plot_data: PlotData) -> Detail:
    label = (
        series.label if series.label.startswith(legible(series.rule)) else f"{series.rule}, {series.label}"
    )
    runs = series.group.runs
    facts = [("task", series.task), ("runs", ", ".join(printable(run.name) for run in runs))]
    return Detail(label, facts, blocks(plot_data.catalog, runs, len(series.group.mixed) > 0))
