"""Following trainings: stored runs looked at again and again, of which only what has changed is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fdfa_cli.errors import RunDamaged
from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.query import Query
from fdfa_cli.report.select import select
from fdfa_cli.storage import STATUSES, RunFolder, by_identity, scan
from fdfa_cli.storage.files import locked
from fdfa_cli.storage.run import FILES
from fdfa_cli.trials.announcement import ANNOUNCEMENT, Announcement

#: Running runs that get a line above the table; all are in it.
MOST_RUNNING = 8
#: What is seen of a file's content without reading it.
Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class PollResult:
    """What one poll found: the catalog of all runs, and those (`runs`) that the query selects.

    `changed` are the selected ones that were not there, or not the same, at the poll before; `plans` what
    the sweeps and comparisons in some folders are to train.
    """

    catalog: Catalog
    runs: tuple[RunFolder, ...]
    unreadable: tuple[RunDamaged, ...]
    changed: tuple[RunFolder, ...]
    plans: dict[Path, Announcement]

    @property
    def damaged(self) -> list[RunDamaged]:
        """What could not be read until now."""
        return [*self.unreadable, *self.catalog.damaged]

    def progress(self) -> list[str]:
        """A line for each sweep or comparison among the runs, and for the first runs that train."""
        folders: dict[Path, list[RunFolder]] = {}
        for run in self.runs:
            folders.setdefault(run.path.parent, []).append(run)
        lines = [
            _count(folder, folders[folder], plan)
            for folder, plan in sorted(self.plans.items())
            if folder in folders
        ]
        running = [self._epoch(run) for run in self.runs if run.status == "running"]
        more = [f"and {len(running) - MOST_RUNNING} more"] if len(running) > MOST_RUNNING else []
        return [*lines, *running[:MOST_RUNNING], *more]

    def _epoch(self, run: RunFolder) -> str:
        epochs = self.catalog.choices(run).get("training.epochs", "?")
        return f"{run.name}  epoch {run.record.summary.get('epochs', 0):g} of {epochs}"


class RunPoller:
    """Looks at the runs under `paths` that `query` selects; with `wait`, the paths need not be there yet."""

    def __init__(self, paths: Sequence[Path], query: Query, wait: bool = False) -> None:
        self._paths, self._query, self._wait = paths, query, wait
        self._runs: dict[Path, tuple[tuple[Stamp, ...], RunFolder]] = {}
        self._before: dict[Path, tuple[tuple[Stamp, ...], RunFolder]] = {}
        self._plans: dict[Path, tuple[Stamp, Announcement | None]] = {}
        self._catalog: Catalog | None = None
        self._shown: dict[Path, RunFolder] = {}

    def poll(self) -> PollResult:
        """What is there now.

        Raises `UsageError` as `scan` and `select` do.
        """
        self._before, self._runs = self._runs, {}
        found = scan([p for p in self._paths if p.is_dir() or not self._wait], self._read)
        self._catalog = Catalog(found.runs, self._catalog)
        runs = select(self._catalog, self._query.where)
        changed = tuple(run for run in runs if self._shown.get(run.path) is not run)
        self._shown = {run.path: run for run in runs}
        plans = {folder: self._plan(folder) for folder in {run.path.parent for run in found.runs}}
        known = {folder: plan for folder, plan in plans.items() if plan is not None}
        return PollResult(self._catalog, tuple(runs), tuple(found.damaged), changed, known)

    def _read(self, folder: Path, names: set[str]) -> RunFolder:
        """As `RunFolder.read`, but the run of the last look where neither files nor writer have changed."""
        try:
            stamps = tuple(_stamp(folder / name) for name in FILES)
        except OSError:
            return RunFolder.read(folder, names)  # which says what is wrong
        known, run = self._before.get(folder, ((), None))
        try:
            gone = run is not None and run.status == "running" and not locked(folder / "metrics.jsonl")
        except OSError:
            gone = True  # reading it again says what is wrong
        if run is None or known != stamps or gone:
            run = RunFolder.read(folder, names)
        self._runs[folder] = stamps, run
        return run

    def _plan(self, folder: Path) -> Announcement | None:
        try:
            stamp = _stamp(folder / ANNOUNCEMENT)
        except OSError:
            return None
        if folder not in self._plans or self._plans[folder][0] != stamp:
            self._plans[folder] = stamp, Announcement.read(folder)
        return self._plans[folder][1]


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _count(folder: Path, runs: Sequence[RunFolder], plan: Announcement) -> str:
    """How far the sweep or comparison in `folder` is."""
    ours = [run for key, run in by_identity(runs).items() if key in plan.identities]
    counts = Counter(run.status for run in ours)
    done = sum(counts[status] for status in ("completed", "pruned", "diverged", "failed"))
    others = [f"{counts[status]} {status}" for status in STATUSES[1:] if counts[status]]
    return "  ".join([f"{folder.name}  {done} of {plan.total} done", *others])
