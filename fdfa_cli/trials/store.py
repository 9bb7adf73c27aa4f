"""The runs of trials in a folder, and what is left to train."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fdfa_cli.document.load import load
from fdfa_cli.door import open_to_append
from fdfa_cli.errors import RunDamaged, UsageError
from fdfa_cli.recipe.resolve import resolve
from fdfa_cli.recipe.write import identity
from fdfa_cli.storage import RunFolder, Status, by_identity, iter_metrics, scan
from fdfa_cli.storage.files import lock, room
from fdfa_cli.storage.run import NAME, remove_abandoned
from fdfa_cli.trials.announcement import ANNOUNCEMENT, Announcement, Purpose
from fdfa_cli.trials.engines.base import Job, Outcome
from fdfa_cli.trials.plan import Trial

#: The file by which one process keeps others from a store.
LOCK = ".lock"
#: Seconds in which workers whose driver was killed notice that and checkpoint.
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What is kept in memory of a trial's run; `path` is None where not even its folder could be made."""

    path: Path | None
    status: Status
    error: str | None
    summary: dict[str, float | None]
    provenance: dict[str, Any]

    @classmethod
    def of(cls, run: RunFolder) -> TrialResult:
        """The result of a stored run, with what its last writer wrote of the machine."""
        record = run.record
        last = record.provenance[-1] if record.provenance else {}
        kept = {key: last.get(key) for key in ("device", "threads", "cores", "platform", "workers")}
        return cls(run.path, record.status, record.error, record.summary, kept)

    @property
    def epochs(self) -> int:
        """The number of epochs that were trained."""
        return int(self.summary.get("epochs") or 0)

    def final(self, metric: str) -> float | None:
        """The `metric` at the end of training; None where the run was not completed, or has none."""
        return self.summary.get(metric) if self.status == "completed" else None


class Store:
    """The runs in `folder` by identity, kept up to date by `note`.

    A run that cannot be read is named in `damaged` and counts as missing, unless a whole run of the same
    identity was trained in its place. With `retry_failed`, runs that failed go on, once. What is written is
    said to come from the command line `command`.
    """

    def __init__(self, folder: Path, retry_failed: bool = False, command: tuple[str, ...] = ()) -> None:
        found = scan([folder]) if folder.is_dir() else None
        self.folder, self._command = folder, command
        runs = by_identity(found.runs) if found else {}
        self._results = {key: TrialResult.of(run) for key, run in runs.items()}
        self.damaged = [error for error in found.damaged if not self._replaced(error)] if found else []
        self._retry = {key for key, r in self._results.items() if r.status == "failed" and retry_failed}

    @property
    def running(self) -> list[Path]:
        """The folders of runs that some process seems to be writing."""
        return [r.path for r in self._results.values() if r.status == "running" and r.path is not None]

    def get(self, trial: Trial) -> TrialResult | None:
        """The result of a trial; None where it has no run yet."""
        return self._results.get(trial.identity)

    def jobs(self, trials: Iterable[Trial], until: int | None = None) -> list[Job]:
        """The jobs that are left so that every trial is at its end, or at epoch `until`.

        Completed and diverged runs are at their end, and so are failed ones that are not to be retried.
        """
        return [self._job(trial, until) for trial in trials if self._open(trial, until)]

    def note(self, outcome: Outcome) -> TrialResult:
        """Take in the outcome of a job; returns the result of its trial."""
        self._retry.discard(outcome.job.identity)
        if outcome.run is None:
            result = TrialResult(None, outcome.status, outcome.error, {}, {})
        else:
            result = TrialResult.of(RunFolder.open(outcome.run))
        self._results[outcome.job.identity] = result
        return result

    def prune(self, trial: Trial, reason: str) -> None:
        """Mark the trial's run as pruned for `reason`, unless it has ended in another way."""
        result = self._results[trial.identity]
        if result.status != "interrupted" or result.path is None:
            return
        with RunFolder.resume(result.path, self._command) as run:
            run.update("pruned", reason)
        self._results[trial.identity] = TrialResult.of(run)

    def value(self, trial: Trial, metric: str, epoch: int | None = None) -> float | None:
        """The `metric` of a trial after `epoch`, or at the end of training where it has no more epochs.

        None where the trial never got there, or its metric is not finite there. None also where its metrics
        cannot be read, and then the run is named in `damaged`.
        """
        result = self.get(trial)
        if result is None:
            return None
        if epoch is None or epoch >= trial.epochs:
            return result.final(metric)
        if result.epochs <= epoch or result.path is None:
            return result.summary.get(metric) if result.epochs == epoch else None
        try:
            row = next((row for row in iter_metrics(result.path) if row["epoch"] == epoch), {})
        except RunDamaged as error:
            if str(error) not in map(str, self.damaged):
                self.damaged.append(error)
            return None
        return row.get(metric)

    def announce(self, identities: Iterable[str], total: int, purpose: Purpose | None = None) -> None:
        """Write down for readers of the folder how many runs it will hold, and which are known so far."""
        Announcement(total, frozenset(identities), purpose).write(self.folder)

    def _replaced(self, error: RunDamaged) -> bool:
        """Whether a run that cannot be read was trained again, judging by its recipe, or else by its name."""
        if error.folder is None:
            return False
        try:
            known = identity(resolve(load(error.folder / "recipe.yaml")).recipe)
        except UsageError:  # the name of a run's folder ends with the start of its identity
            start = NAME.fullmatch(error.folder.name)
            return start is not None and any(key.startswith(start[1]) for key in self._results)
        return known in self._results

    def _job(self, trial: Trial, until: int | None) -> Job:
        result = self.get(trial)
        run = result.path if result else None
        return Job(trial, self.folder, self._command, run, self._pause(trial, until))

    def _open(self, trial: Trial, until: int | None) -> bool:
        result = self.get(trial)
        if result is None or trial.identity in self._retry:
            return True
        if result.status in ("completed", "diverged", "failed"):
            return False
        return self._pause(trial, until) is None or result.epochs < (until or 0)

    @staticmethod
    def _pause(trial: Trial, until: int | None) -> int | None:
        return until if until is not None and until < trial.epochs else None


@contextmanager
def open_store(folder: Path, retry_failed: bool = False, command: tuple[str, ...] = ()) -> Iterator[Store]:
    """The store in `folder`, which no other process may open meanwhile to train the same trials.

    Waits for workers whose driver was killed until they let go of their runs. Raises `UsageError` where
    another process is at work, or where the folder cannot be written to, and `DiskFull` where it has no room.
    """
    try:
        with room(folder):
            file = _locked(folder)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error
    with file, _removing_unused(folder):
        remove_abandoned(folder)
        deadline = time.monotonic() + PATIENCE
        while busy := (store := Store(folder, retry_failed, command)).running:
            if time.monotonic() > deadline:  # someone still writes, or the file system cannot tell
                for path in busy:
                    RunFolder.resume(path, command).close()
                break
            time.sleep(0.2)
        yield store


def _locked(folder: Path) -> BinaryIO:
    """The lock file of `folder`, made where it is missing; raises `UsageError` where it is held."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_to_append(folder / LOCK)
        if not lock(file):
            file.close()
            raise UsageError(f"{folder}: another process is at work there; wait for it or stop it first")
        with suppress(FileNotFoundError):  # whoever had it until now may have removed the folder
            if os.path.samestat((folder / LOCK).stat(), os.fstat(file.fileno())):
                return file
        file.close()


@contextmanager
def _removing_unused(folder: Path) -> Iterator[None]:
    """Removes `folder` at the end where no training has begun in it."""
    try:
        yield
    finally:
        with suppress(OSError):  # it is someone else's by now, or holds what is not ours
            if {path.name for path in folder.iterdir()} <= {LOCK, ANNOUNCEMENT}:
                (folder / ANNOUNCEMENT).unlink(missing_ok=True)
                (folder / LOCK).unlink()
                folder.rmdir()
