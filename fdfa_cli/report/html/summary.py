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
from fdfa_cli.report.plots.material import Material, Member, title
from fdfa_cli.report.plots.style import legible
from fdfa_cli.report.query import Query
from fdfa_cli.report.run_table import notes as run_notes
from fdfa_cli.report.select import Condition, ordered
from fdfa_cli.stats import Mean, Paired, holm, paired
from fdfa_cli.storage import STATUSES
from fdfa_cli.tables import Column, Kind, Table, Value

#: Figures of a group beside the metrics that were asked for.
ALSO = ("val_accuracy", "train_seconds")


def summary(material: Material, query: Query) -> Grid:
    """A row a group: its choices, figures, difference from the baseline, and other ends of its runs."""
    wanted = query.metrics or usual_metrics(material.runs)
    also = [name for name in ALSO if name not in wanted and _known(material, name)]
    names = [*material.names, "n", *wanted]
    members = ordered(material.members, query.sort, lambda member, name: _value(material, member, name))
    asked = Query(by=material.names, metrics=wanted, columns=(*names, *also))
    table = groups_table(material.facts, [member.group for member in members], asked)
    columns = [replace(c, title=title(c.name)) if c.name in material.names else c for c in table.columns]
    rows = [list(row) for row in table.rows]
    notes = [*material.apart, *table.notes[len(run_notes(material.runs)) :]]

    def insert(at: int, column: Column, values: Sequence[Value]) -> None:
        columns.insert(at, column)
        for row, value in zip(rows, values, strict=True):
            row.insert(at, value)

    baselines = baselines_of(material, query.baseline)
    differences = _differences(material, baselines, wanted[0])
    if differences:
        found = [differences.get(member.key) for member in members]
        rules = {legible(member.rule) for member in baselines.values()}
        versus = f"− {rules.pop()}" if len(rules) == 1 else "− baseline"
        insert(
            len(names), Column("difference", versus, _kind(columns, wanted[0])), [f and f[0] for f in found]
        )
        insert(len(names) + 1, Column("p", "p", "number"), [f and f[1] for f in found])
        notes += _difference_notes(differences, baselines, wanted[0])
    elif any(len({member.rule for member in several}) > 1 for several in material.tasks.values()):
        notes.append(
            "no differences: fdfa compare trained none of these groups together; --baseline rule=bp would "
            "name the group to compare with"
        )
    others = [_others(member.group.statuses) for member in members]
    if any(others):
        insert(len(columns), Column("others", "not completed"), others)
    content = Table(tuple(columns), tuple(map(tuple, rows)), tuple(map(printable, notes)))
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


def baselines_of(material: Material, named: Sequence[Condition]) -> dict[str, Member]:
    """For a group by its key the group that it is compared with; not for those without one.

    That is the baseline of the comparison that trained the group. Where conditions are `named`, it is for
    all groups of a task the one whose runs meet them. Raises `UsageError` where they fit none, or several.
    """
    if named:
        return _named(material, named)
    found: dict[str, Member] = {}
    for study in material.facts.studies.values():
        if study.kind != "compare":
            continue
        for members in material.tasks.values():
            trained = [member for member in members if any(map(study.trains, member.group.runs))]
            bases = [member for member in trained if member.rule == study.baseline]
            if len(bases) == 1:
                found = {member.key: bases[0] for member in trained if member is not bases[0]} | found
    return found


def _named(material: Material, named: Sequence[Condition]) -> dict[str, Member]:
    facts = material.facts
    facts.check(condition.name for condition in named)
    asked = " ".join(f"--baseline {condition}" for condition in named)
    found: dict[str, Member] = {}
    for task, members in material.tasks.items():
        bases = [
            member
            for member in members
            if all(c.holds(facts.get(run, c.name)) for run in member.group.runs for c in named)
        ]
        if len(bases) > 1:
            labels = "; ".join(member.name for member in bases)
            raise UsageError(f"{asked} fits {len(bases)} groups of {task}: {labels}; add a condition")
        found |= {member.key: base for base in bases for member in members if member is not base}
    if not found:
        raise UsageError(f"{asked} fits no group that others could be compared with")
    return found


def _differences(
    material: Material, baselines: dict[str, Member], metric: str
) -> dict[str, tuple[Mean, float | None]]:
    """For a group its paired difference from its baseline, and Holm's p over all tested.

    Nothing where runs differ in more than seeds.
    """
    found: dict[str, Paired] = {}
    for member in material.members:
        base = baselines.get(member.key)
        if base is None or base.group.mixed or member.group.mixed:
            continue
        difference = paired(_values(member, metric), _values(base, metric))
        if difference is not None:
            found[member.key] = difference
    tested = {key: difference.p for key, difference in found.items() if difference.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {key: (difference.difference, adjusted.get(key)) for key, difference in found.items()}


def _difference_notes(
    differences: dict[str, tuple[Mean, float | None]], baselines: dict[str, Member], metric: str
) -> list[str]:
    bases = {member.key: member for key, member in baselines.items() if key in differences}
    several = len({member.task for member in bases.values()}) > 1
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
    facts = [("task", member.task), ("runs", ", ".join(printable(run.name) for run in runs))]
    return Detail(label, facts, blocks(material.facts, runs, len(member.group.mixed) > 0))
