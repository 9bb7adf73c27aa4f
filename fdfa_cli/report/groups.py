"""Groups of runs, and what their seeds amount to: the statistics of a comparison, for any stored runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from fdfa_cli.compare.stats import Mean, mean
from fdfa_cli.report.facts import SEED, Facts
from fdfa_cli.report.tables import Value
from fdfa_cli.runs import Run, by_identity

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
    runs: tuple[Run, ...]
    completed: tuple[Run, ...]
    statuses: Counter[str]
    mixed: tuple[str, ...]

    @property
    def repeated(self) -> int:
        """Runs left out of the figures because another one has their recipe and seed."""
        return len(self.runs) - self.statuses.total()

    def figure(self, metric: str) -> Mean | None:
        """Mean and 95 % t-interval of `metric` at the end of training, of the completed runs that have it."""
        values = [v for run in self.completed if (v := run.record.summary.get(metric)) is not None]
        figure = mean(values)
        return replace(figure, half=None) if figure and self.mixed else figure


@cache
def averaged_over() -> frozenset[str]:
    """The keys of a recipe in which runs that are averaged may differ."""
    from fdfa_cli.recipe.schema import EXECUTION_FIELDS  # takes longer than a table of a few runs

    return frozenset((SEED, *(f"training.{name}" for name in EXECUTION_FIELDS)))


def group(facts: Facts, runs: Sequence[Run], by: Sequence[str]) -> list[Group]:
    """`runs` grouped by the values of the names `by`, in the order in which the groups first appear."""
    facts.check(by)
    members: dict[tuple[Value, ...], list[Run]] = {}
    for run in runs:
        members.setdefault(tuple(facts.get(run, name) for name in by), []).append(run)
    return [_group(facts, key, several) for key, several in members.items()]


def _group(facts: Facts, key: tuple[Value, ...], runs: list[Run]) -> Group:
    distinct = sorted(by_identity(runs).values(), key=lambda run: (run.name, str(run.path)))
    completed = tuple(run for run in distinct if run.status == "completed")
    statuses: Counter[str] = Counter(run.status for run in distinct)
    return Group(key, tuple(runs), completed, statuses, _mixed(facts, completed))


def _mixed(facts: Facts, runs: Sequence[Run]) -> tuple[str, ...]:
    """The keys other than the seed in which the recipes of `runs` differ."""
    configurations = {facts.configuration(run): run for run in runs}
    if len(configurations) < 2:
        return ()
    several = [facts.choices(run) for run in list(configurations.values())[:_READ]]
    names = dict.fromkeys(name for choices in several for name in choices)
    return tuple(
        name
        for name in names
        if name not in averaged_over() and len({str(choices.get(name)) for choices in several}) > 1
    )
