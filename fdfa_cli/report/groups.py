"""Groups of runs, and what their seeds amount to: the statistics of a comparison, for any stored runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.query import Query
from fdfa_cli.report.select import SortKey, ordered
from fdfa_cli.report.varied import varying
from fdfa_cli.stats import Mean, mean
from fdfa_cli.storage import RunFolder, by_identity
from fdfa_cli.tables import Value

#: Names whose values stay in the order in which they are found.
AS_FOUND = ("data", "network", "rule")
#: Configurations of a mixed group that are read to name in which settings they differ.
_READ = 20


@dataclass(frozen=True)
class Group:
    """The runs that share the values `key` of the names they were grouped by.

    `runs` are all of them. A recipe and seed that was trained several times counts once, as the run nearest
    to a result: `statuses` counts those ends, and `completed` holds the ones that figures are of.
    `mixed` are settings besides the seed in which these differ: what is averaged is then not seeds alone,
    and has no interval.
    """

    key: tuple[Value, ...]
    runs: tuple[RunFolder, ...]
    completed: tuple[RunFolder, ...]
    statuses: Counter[str]
    mixed: tuple[str, ...]

    @property
    def task(self) -> frozenset[tuple[str, str]]:
        """The data sets and networks of the runs: figures of different ones have no best in common."""
        return frozenset((run.record.facts["data"], run.record.facts["network"]) for run in self.runs)

    @property
    def repeated(self) -> int:
        """Runs left out of the figures because another one has their recipe and seed."""
        return len(self.runs) - self.statuses.total()

    def figure(self, metric: str) -> Mean | None:
        """Mean and 95 % t-interval of `metric` at the end of training, of the completed runs that have it."""
        values = [v for run in self.completed if (v := run.record.summary.get(metric)) is not None]
        figure = mean(values)
        return replace(figure, half=None) if figure and self.mixed else figure


def group(catalog: Catalog, runs: Sequence[RunFolder], by: Sequence[str]) -> list[Group]:
    """`runs` grouped by the values of the names `by`, sorted by the first name, then by the second, ….

    Numbers and settings are in the order of their values. Data sets, networks and rules stay in the order in
    which they first appear: that of a comparison.
    """
    catalog.check(by)
    members: dict[tuple[Value, ...], list[RunFolder]] = {}
    for run in runs:
        members.setdefault(tuple(catalog.get(run, name) for name in by), []).append(run)
    order = {name: {v: i for i, v in enumerate(dict.fromkeys(key[at] for key in members))}
             for at, name in enumerate(by) if name in AS_FOUND}  # fmt: skip

    def place(item: tuple[tuple[Value, ...], list[RunFolder]], name: str) -> Value:
        value = item[0][by.index(name)]
        return order[name][value] if name in order else value

    found = ordered(members.items(), [SortKey(name) for name in by], place)
    return [_group(catalog, key, several) for key, several in found]


def without_tuning(
    catalog: Catalog, runs: Sequence[RunFolder], query: Query
) -> tuple[list[RunFolder], list[str]]:
    """The `runs` to average, and a note on those of searches before comparisons, which are kept apart.

    A search tries many settings under one seed; among the runs that its winners were then trained for, they
    would be seeds that were chosen for their results. They are averaged where there are no others, or where
    the `query` names studies.
    """
    named = [*query.by, *(condition.name for condition in query.where)]
    searched = [run for run in runs if (study := catalog.study(run)) is not None and study.kind == "tuning"]
    if not searched or len(searched) == len(runs) or "study" in named:
        return list(runs), []
    apart = set(searched)
    count = "1 run" if len(searched) == 1 else f"{len(searched)} runs"
    note = (
        f"{count} of the search before a comparison (compare --tune) not averaged with the others: "
        "add study to --group-by, or report on the folder tuning"
    )
    return [run for run in runs if run not in apart], [note]


def _group(catalog: Catalog, key: tuple[Value, ...], runs: list[RunFolder]) -> Group:
    distinct = sorted(by_identity(runs).values(), key=lambda run: (run.name, str(run.path)))
    completed = tuple(run for run in distinct if run.status == "completed")
    statuses: Counter[str] = Counter(run.status for run in distinct)
    return Group(key, tuple(runs), completed, statuses, _mixed(catalog, completed))


def _mixed(catalog: Catalog, runs: Sequence[RunFolder]) -> tuple[str, ...]:
    """The keys other than the seed in which the recipes of `runs` differ."""
    configurations = {catalog.configuration(run): run for run in runs}
    if len(configurations) < 2:
        return ()
    return tuple(varying([catalog.choices(run) for run in list(configurations.values())[:_READ]]))
