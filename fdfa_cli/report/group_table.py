"""A row for each group of runs: means over seeds with their intervals, and how all of the runs ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fdfa_cli.errors import UsageError
from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.groups import Group
from fdfa_cli.report.query import Query
from fdfa_cli.report.run_table import notes as run_notes
from fdfa_cli.report.select import ordered
from fdfa_cli.report.sparkline import CURVE, FALLBACKS, curve_column, mean_curve, metric_of_epochs, sparkline
from fdfa_cli.stats import FEWEST
from fdfa_cli.storage import STATUSES, RunFolder
from fdfa_cli.tables import Column, Table, Value

#: What groups are judged by unless another metric is asked for: the first that some run has.
METRICS = ("test_accuracy", *FALLBACKS)
NO_INTERVAL = f"no interval below {FEWEST} runs: these are too few to estimate how much runs vary"
#: Choices that are named once, above, where all runs have them in common.
SHARED = ("data", "network", "rule", "epochs")
#: What a column may be besides a name that runs are grouped by, or a metric.
COUNTS = ("n", *STATUSES)


def groups_table(
    catalog: Catalog, groups: Sequence[Group], query: Query, details: bool = False, curves: bool = False
) -> Table:
    """One row a group, in the order given unless the `query` sorts.

    Figures are means over completed runs, no recipe and seed counted twice. Every other end of a run has a
    column where there is one (with `details`, always).
    """
    metrics = query.metrics or usual_metrics([run for group in groups for run in group.runs])
    ends = [status for status in STATUSES[1:] if details or any(g.statuses[status] for g in groups)]
    ends = ["completed", *ends] if details else ends
    usual = [*query.by, "n", *metrics, *ends, *([CURVE] if curves else [])]
    names = list(query.columns) or usual
    sort_names = [key.name for key in query.sort]
    catalog.check((*names, *metrics, *sort_names), also=(*COUNTS, CURVE))
    columns = {name: _column(catalog, name, query.by) for name in [*names, *sort_names]}
    drawn: dict[int, Value] = {}
    if CURVE in names:
        columns[CURVE], drawn = _curves(catalog, groups, metrics)

    def get(group: Group, name: str) -> Value:
        return drawn[id(group)] if name == CURVE else _value(group, name, query.by)

    groups = ordered(groups, query.sort, get)
    rows = [tuple(get(group, name) for name in names) for group in groups]
    means = [name for name in names if columns[name].averaged]
    return Table(
        tuple(columns[name] for name in names),
        tuple(rows),
        tuple(_notes(groups, query, means)),
        _shared(groups, query),
        tuple(group.task for group in groups),
    )


def _value(group: Group, name: str, by: Sequence[str]) -> Value:
    """What a group has of a choice that runs are grouped by, a count, or a metric."""
    if name in by:
        return group.key[by.index(name)]
    if name in COUNTS:
        return len(group.completed) if name == "n" else group.statuses[name]
    return group.figure(name)


def _curves(
    catalog: Catalog, groups: Sequence[Group], metrics: Sequence[str]
) -> tuple[Column, dict[int, Value]]:
    """The column of mean learning curves, and the curve of each group by the group's `id`."""
    lines = [[catalog.rows(run) for run in group.completed] for group in groups]
    metric = metric_of_epochs([rows for several in lines for rows in several], metrics)
    drawn: list[Value] = [sparkline(mean_curve(several, metric)) for several in lines]
    return curve_column(metric), dict(zip(map(id, groups), drawn, strict=True))


def usual_metrics(runs: Sequence[RunFolder]) -> tuple[str, ...]:
    """What `runs` are judged by where nothing was asked for: test accuracy, or what stands in for it.

    Runs without test data have none.
    """
    there = {name for run in runs for name, value in run.record.summary.items() if value is not None}
    return (next((name for name in METRICS if name in there), METRICS[0]),)


def _column(catalog: Catalog, name: str, by: Sequence[str]) -> Column:
    if name == CURVE:
        return curve_column("")
    if name in COUNTS:
        return Column(name, name, "count")
    column = catalog.column(name)
    if name in by:
        return replace(column, choice=True)
    ends_with = not column.choice or any(name in run.record.summary for run in catalog.runs)
    if column.kind == "text" or not ends_with:
        raise UsageError(
            f"{name} is no figure that runs end with, so groups have no mean of it: add it to --group-by"
        )
    return replace(column, averaged=True)


def _shared(groups: Sequence[Group], query: Query) -> str:
    """The choices and seeds that all groups have in common."""
    runs = [run for group in groups for run in group.runs]
    parts = []
    for name in SHARED:
        found = {run.record.facts.get(name, run.record.summary.get(name)) for run in runs}
        if name not in query.by and len(found) == 1 and (value := found.pop()) is not None:
            parts.append(f"{name} {value}")
    seeds = {tuple(sorted({run.record.facts["seed"] for run in group.completed})) for group in groups}
    if "seed" not in query.by and len(seeds) == 1 and (common := seeds.pop()):
        whole = len(common) > 1 and common == tuple(range(common[0], common[-1] + 1))
        listed = f"{common[0]}-{common[-1]}" if whole else ", ".join(map(str, common))
        parts.append(f"{'seeds' if len(common) > 1 else 'seed'} {listed}")
    return "   ".join(parts)


def _notes(groups: Sequence[Group], query: Query, means: Sequence[str]) -> list[str]:
    found = run_notes([run for group in groups for run in group.runs])
    counts = [len(group.completed) for group in groups if not group.mixed]
    if means and any(n >= FEWEST for n in counts):
        found.append("± 95 % Student-t interval over the completed runs of a group")
    if means and any(0 < n < FEWEST for n in counts):
        found.append(NO_INTERVAL)
    for mixed in dict.fromkeys(group.mixed for group in groups if group.mixed and means):
        names = [_name(group, query) for group in groups if group.mixed == mixed]
        which = "; ".join(names) if len(names) <= 3 else f"{len(names)} of {len(groups)} groups"
        settings = ", ".join(mixed[:6]) + (", …" if len(mixed) > 6 else "")
        found.append(
            f"{which}: runs differ in more than their seed ({settings}), so no interval; "
            "add that to --group-by, or choose by --where"
        )
    for name in means:
        lacking = [group for group in groups if _known(group, name) < len(group.completed)]
        if lacking and not any(_known(group, name) for group in groups):
            found.append(f"no completed run has {name}")
            continue
        found += [
            f"{_name(group, query)}: {_known(group, name)} of {len(group.completed)} completed runs have "
            f"{name}, and the mean is over these"
            for group in lacking
        ]
    repeated = sum(group.repeated for group in groups)
    if repeated:
        found.append(
            "1 run repeats the recipe and seed of another and is not counted twice"
            if repeated == 1
            else f"{repeated} runs repeat the recipe and seed of another and are not counted twice"
        )
    return found


def _known(group: Group, metric: str) -> int:
    """How many completed runs of `group` have the `metric`."""
    figure = group.figure(metric)
    return figure.n if figure else 0


def _name(group: Group, query: Query) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(query.by, group.key, strict=True))
