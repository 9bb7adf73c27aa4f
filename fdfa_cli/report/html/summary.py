"""The first table of the page: groups of runs with their means, and how they differ from a baseline."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fdfa_cli.compare.stats import Mean, Paired, holm, paired
from fdfa_cli.report.group_table import METRICS, groups_table
from fdfa_cli.report.html.grid import Detail, Grid, grid
from fdfa_cli.report.html.reproduce import blocks
from fdfa_cli.report.plots.material import Material, Member, title
from fdfa_cli.report.plots.style import legible
from fdfa_cli.report.query import Query
from fdfa_cli.report.run_table import notes as run_notes
from fdfa_cli.report.select import ordered
from fdfa_cli.report.tables import Column, Kind, Table, Value
from fdfa_cli.runs import STATUSES

#: Figures of a group beside the metrics that were asked for.
ALSO = ("val_accuracy", "train_seconds")


def summary(material: Material, query: Query) -> Grid:
    """A row a group: its choices, figures, difference from the baseline, and other ends of its runs."""
    wanted = query.metrics or METRICS
    also = [name for name in ALSO if name not in wanted and _known(material, name)]
    names = [*material.names, "n", *wanted]
    members = ordered(material.members, query.sort, lambda member, name: _value(material, member, name))
    asked = Query(by=material.names, metrics=wanted, columns=(*names, *also))
    table = groups_table(material.facts, [member.group for member in members], asked)
    columns = [replace(c, title=title(c.name)) if c.name in material.names else c for c in table.columns]
    rows = [list(row) for row in table.rows]
    notes = list(table.notes[len(run_notes(material.runs)) :])

    def insert(at: int, column: Column, values: Sequence[Value]) -> None:
        columns.insert(at, column)
        for row, value in zip(rows, values, strict=True):
            row.insert(at, value)

    baselines = {task: _baseline(several) for task, several in material.tasks.items()}
    differences = _differences(material, baselines, wanted[0])
    if differences:
        found = [differences.get(member.key) for member in members]
        rules = {member.rule for member in baselines.values()}
        versus = f"− {rules.pop()}" if len(rules) == 1 else "− baseline"
        insert(
            len(names), Column("difference", versus, _kind(columns, wanted[0])), [f and f[0] for f in found]
        )
        insert(len(names) + 1, Column("p", "p", "number"), [f and f[1] for f in found])
        notes += _difference_notes(differences, baselines, wanted[0])
    others = [_others(member.group.statuses) for member in members]
    if any(others):
        insert(len(columns), Column("others", "not completed"), others)
    content = Table(tuple(columns), tuple(map(tuple, rows)), tuple(notes))
    return grid("summary", "Summary", content, [_detail(member, material) for member in members])


def _value(material: Material, member: Member, name: str) -> Value:
    """What a group is sorted by: a choice that is the same for its runs, or the mean of a number."""
    if name in material.names:
        return member.group.key[material.names.index(name)]
    return member.group.figure(name)


def _known(material: Material, metric: str) -> bool:
    return any(metric in run.record.summary for run in material.runs)


def _values(member: Member, metric: str) -> dict[int, float]:
    """The metric of each completed run, by its seed."""
    found = {run.record.facts["seed"]: run.record.summary.get(metric) for run in member.group.completed}
    return {seed: value for seed, value in found.items() if value is not None}


def _baseline(members: Sequence[Member]) -> Member:
    """What the comparison that trained a task was to, else the group that was trained first."""
    for folder in dict.fromkeys(run.path.parent for member in members for run in member.group.runs):
        try:
            name = json.loads((folder / "compare.json").read_bytes())["baseline"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no comparison, or of another version; a note names what is taken instead
        if found := next((member for member in members if member.rule == name), None):
            return found
    return members[0]


def _differences(
    material: Material, baselines: dict[str, Member], metric: str
) -> dict[str, tuple[Mean, float | None]]:
    """For a group its paired difference from the baseline of its task, and Holm's p over all tested.

    Nothing where every task has one rule, as in a sweep of it, or where runs differ in more than seeds.
    """
    found: dict[str, Paired] = {}
    for task, members in material.tasks.items():
        alike = [member for member in members if not member.group.mixed]
        if len({member.rule for member in members}) == 1 or baselines[task] not in alike:
            continue
        theirs = _values(baselines[task], metric)
        for member in alike:
            difference = paired(_values(member, metric), theirs)
            if member is not baselines[task] and difference is not None:
                found[member.key] = difference
    tested = {key: difference.p for key, difference in found.items() if difference.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {key: (difference.difference, adjusted.get(key)) for key, difference in found.items()}


def _difference_notes(
    differences: dict[str, tuple[Mean, float | None]], baselines: dict[str, Member], metric: str
) -> list[str]:
    named = dict.fromkeys(member.label for member in baselines.values())
    if len(named) > 1:
        named = dict.fromkeys(f"{member.label} on {task}" for task, member in baselines.items())
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
    """Of a difference of values of a column."""
    kind = next(column.kind for column in columns if column.name == metric)
    return "difference" if kind == "fraction" else kind


def _others(statuses: Counter[str]) -> str | None:
    parts = [f"{statuses[status]} {status}" for status in STATUSES[1:] if statuses[status]]
    return ", ".join(parts) or None


def _detail(member: Member, material: Material) -> Detail:
    label = (
        member.label if member.label.startswith(legible(member.rule)) else f"{member.rule}, {member.label}"
    )
    runs = member.group.runs
    facts = [("task", member.task), ("runs", ", ".join(run.name for run in runs))]
    return Detail(label, facts, blocks(material.facts, runs, len(member.group.mixed) > 0))
