"""Keeping a run on the driver's machine the same as the one that trains on another machine.

A trial trains into a folder of its own machine, as any trial does. There a `RunWatcher` looks at this folder
and describes each change as a `RunDelta`; a `RunMirror` on the driver's machine writes the deltas into the
run that stays. So one process writes that run, whatever becomes of the machine that trains it. The first
delta of every attempt says up to which epoch it goes on with what is stored already: rows that a lost attempt
left beyond that are cut.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fdfa_cli.recipe.write import dump, facts
from fdfa_cli.storage import RunFolder, Status, atomic_write, iter_metrics
from fdfa_cli.trials.engines.base import Job, Outcome

#: Seconds between two checkpoints that are sent while a trial trains; its last one always is.
CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class RunEnd:
    """How a run ended, with the numbers that its summary keeps beside its last epoch."""

    status: Status
    error: str | None
    summary: Mapping[str, float | None]


@dataclass(frozen=True)
class RunDelta:
    """What has changed in the run of the job at `position` in its task, since the delta before.

    `environment` says who trains it, as the provenance of a run does. `rows` follow the epoch `kept`, and
    replace all that came after it before. `checkpoint` is the content of a newer one, and `end` is None while
    the run goes on.
    """

    position: int
    environment: Mapping[str, Any]
    kept: int
    rows: tuple[Mapping[str, Any], ...]
    checkpoint: bytes | None
    end: RunEnd | None


class RunWatcher:
    """Looks for changes in a run that trains in `folder`: in `run`, which goes on, or in the one to come."""

    def __init__(self, position: int, folder: Path, run: Path | None) -> None:
        self._position, self._folder, self._run = position, folder, run
        self._rows = list(iter_metrics(run)) if run else []
        self._writers = len(RunFolder.open(run).record.provenance) if run else 0
        self._described = False
        self._checkpoint = _age(run) if run else None
        self._sent = time.monotonic()

    def delta(self, outcome: Outcome | None = None) -> RunDelta | None:
        """What has changed since the last call; None for nothing.

        With the `outcome` it is everything that has not been described yet, and how the run ended.
        """
        run = self._begun()
        if run is None:
            return self._never_begun(outcome) if outcome and outcome.status == "failed" else None
        checkpoint = self._new_checkpoint(run, outcome is not None)  # before the rows: they then reach as far
        rows = list(iter_metrics(run.path))
        same = 0
        while same < min(len(rows), len(self._rows)) and rows[same] == self._rows[same]:
            same += 1
        if self._described and not checkpoint and outcome is None and same == len(rows) == len(self._rows):
            return None
        self._described, self._rows = True, rows
        environment = run.record.provenance[-1]
        kept = rows[same - 1]["epoch"] if same else 0
        end = None
        if outcome is not None:
            end = RunEnd(outcome.status, outcome.error or run.record.error, run.record.summary)
        return RunDelta(self._position, environment, kept, tuple(rows[same:]), checkpoint, end)

    def _begun(self) -> RunFolder | None:
        if self._run is None:
            self._run = next((file.parent for file in self._folder.glob("[!.]*/run.json")), None)
        run = RunFolder.open(self._run) if self._run else None
        return run if run and len(run.record.provenance) > self._writers else None

    def _new_checkpoint(self, run: RunFolder, last: bool) -> bytes | None:
        age = _age(run.path)
        waited = time.monotonic() - self._sent >= CHECKPOINT_SECONDS
        if age == self._checkpoint or not (last or waited):
            return None
        self._checkpoint, self._sent = age, time.monotonic()
        return run.checkpoint.read_bytes()

    def _never_begun(self, outcome: Outcome) -> RunDelta:
        """The delta of a job that failed before there was a run."""
        return RunDelta(self._position, {}, 0, (), None, RunEnd(outcome.status, outcome.error, {}))


def _age(run: Path) -> int | None:
    """When the run's checkpoint was written; None where there is none."""
    checkpoint = RunFolder.open(run).checkpoint
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else None


class RunMirror:
    """Writes the run of `job` on the driver's machine from the deltas of the run that trains elsewhere."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._run: RunFolder | None = None
        self._epoch = 0

    def apply(self, delta: RunDelta) -> Outcome | None:
        """Write the changes into the run; returns the outcome of the job with the last of them."""
        fresh = self._run is None
        run = self._run = self._run or self._open(delta.environment)
        if fresh or delta.kept < self._epoch:
            run.cut(delta.kept)
        for row in delta.rows:
            run.append(row)
        self._epoch = delta.rows[-1]["epoch"] if delta.rows else delta.kept
        if delta.checkpoint is not None:
            atomic_write(run.checkpoint, delta.checkpoint)
        return None if delta.end is None else self.close(delta.end)

    def lost(self, reason: str) -> Job:
        """The job to train again because its machine was lost: it goes on from the last checkpoint here."""
        if self._run is None:
            return self.job
        return self.close(RunEnd("interrupted", reason, {})).job

    def close(self, end: RunEnd) -> Outcome:
        """End the run, or a new one where there is none yet; returns the outcome of the job."""
        with self._run or self._open({}) as run:
            run.update(end.status, end.error, **end.summary)
        self._run = None
        error = None if run.status == "interrupted" else run.record.error
        return Outcome(replace(self.job, run=run.path), run.path, run.status, error)

    def _open(self, environment: Mapping[str, Any]) -> RunFolder:
        job = self.job
        if job.run is None:
            return RunFolder.create(job.folder, dump(job.recipe), facts(job.recipe), job.command, environment)
        run = RunFolder.resume(job.run, job.command, environment)
        run.update("running")
        return run
