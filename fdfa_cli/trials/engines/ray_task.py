"""A task of the Ray engine on its machine: it fetches data, loads plugins, trains, and sends deltas.

The machine needs fdfa-cli installed and shares no files with the driver. Trials train in a folder that is
removed with the task, in a thread of their own, while the task's own thread describes what changes there.
"""

from __future__ import annotations

import os
import pickle
import queue
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Event, Thread

from typing_extensions import override

from fdfa_cli.data import data_root
from fdfa_cli.data.transfer import provide
from fdfa_cli.door import open_regular, read_regular
from fdfa_cli.errors import DiskFull, Interrupted, UsageError
from fdfa_cli.registry import load_plugin
from fdfa_cli.storage import RunFolder
from fdfa_cli.storage.fields import MAX_METRICS, MAX_RECIPE, MAX_RECORD
from fdfa_cli.trials.engines.base import Job, Outcome, Stop
from fdfa_cli.trials.engines.batched import Batched
from fdfa_cli.trials.engines.sync import RunDelta, RunWatcher
from fdfa_cli.trials.engines.worker import train_stack
from fdfa_cli.version import __version__

#: Seconds between two looks for changes in the runs.
PATIENCE = 0.5


@dataclass(frozen=True)
class RayTask:
    """Jobs to train on another machine, stacked where they are several, with all that it needs for that.

    `jobs` is pickled, because a plugin must be loaded before what it defines can be read: each job with the
    files of its run by name, or with None where it has no run yet. `plugins` are file names and sources;
    `digest` is that of the files of the data set, which all the jobs share; `workers` is how many jobs train
    at a time on the whole cluster.
    """

    jobs: bytes
    plugins: tuple[tuple[str, bytes], ...]
    digest: str
    workers: int
    version: str = __version__


def pack(jobs: Sequence[Job]) -> bytes:
    """`RayTask.jobs` for `jobs`, whose runs are read from this machine."""
    return pickle.dumps([(job, _files(job.run)) for job in jobs])


def train(task: RayTask, stop: Stop, fetch: Callable[[], Mapping[str, bytes]]) -> Iterator[RunDelta]:
    """Train the jobs of `task`; yields the deltas of each, of which the last says how it ended.

    `fetch` brings the files of the data set where this machine lacks them. Raises `UsageError` where this
    machine cannot train the jobs, `DiskFull` where it has no room, and whatever goes wrong outside a job.
    """
    if task.version != __version__:
        raise UsageError(
            f"fdfa-cli is {task.version} on the driver and {__version__} on a node: install the same one"
        )
    for name, source in task.plugins:
        _load(name, source)
    jobs: list[tuple[Job, Mapping[str, bytes] | None]] = pickle.loads(task.jobs)
    data, root = provide(jobs[0][0].recipe.data, task.digest, _own_root(), fetch)
    os.environ["FDFA_DATA"] = str(root)  # of this process, which Ray has made to train
    if stop():
        return
    with tempfile.TemporaryDirectory(prefix="fdfa-task-") as scratch:
        here = [
            _moved(replace(job, trial=job.trial.reading(data)), files, Path(scratch) / str(i))
            for i, (job, files) in enumerate(jobs)
        ]
        yield from _watched(_Training(here, task.workers), stop)


class _Training(Thread):
    """Trains jobs until `stop` is set; `outcomes` gets the position and outcome of each as it ends."""

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        super().__init__(daemon=True)
        self.stop = Event()
        self.outcomes: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
        self.error: BaseException | None = None
        self.jobs, self._workers = jobs, workers

    @override
    def run(self) -> None:
        """Train the jobs, stacked as far as the memory of this machine allows."""
        positions = {job.identity: position for position, job in enumerate(self.jobs)}
        try:
            for stack in Batched(self.jobs, 1).stacks(self.jobs):
                for outcome in train_stack(stack, self.stop.is_set, self._workers):
                    self.outcomes.put((positions[outcome.job.identity], outcome))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for this one
            self.error = error


def _watched(training: _Training, stop: Stop) -> Iterator[RunDelta]:
    """Train; yields the deltas of the runs of all jobs, the last of each with the end of its job."""
    open_ = {i: RunWatcher(i, job.folder, job.run) for i, job in enumerate(training.jobs)}
    training.start()
    while open_ and (training.is_alive() or not training.outcomes.empty()):
        with suppress(queue.Empty):
            position, outcome = training.outcomes.get(timeout=PATIENCE)
            if outcome.status == "interrupted" and outcome.error:
                raise DiskFull(f"on a machine of the cluster: {outcome.error}")
            if (delta := open_.pop(position).delta(outcome)) is not None:
                yield delta
        for watcher in open_.values():
            if (delta := watcher.delta()) is not None:
                yield delta
        if stop():
            training.stop.set()
    training.join()
    if training.error is not None and not isinstance(training.error, Interrupted):
        raise training.error
    for position, watcher in open_.items():
        if (delta := watcher.delta(Outcome(training.jobs[position], None, "interrupted"))) is not None:
            yield delta


def _moved(job: Job, files: Mapping[str, bytes] | None, folder: Path) -> Job:
    """`job` as it trains in `folder` of this machine, on the `files` of its run."""
    folder.mkdir()
    if files is None or job.run is None:
        return replace(job, folder=folder, run=None)
    run = folder / job.run.name
    run.mkdir()
    for name, content in files.items():
        (run / name).write_bytes(content)
    return replace(job, folder=folder, run=run)


def _files(run: Path | None) -> dict[str, bytes] | None:
    """The files of a run by name, to send to the machine where it goes on; None where there is no run."""
    if run is None:
        return None
    limits = {"run.json": MAX_RECORD, "recipe.yaml": MAX_RECIPE, "metrics.jsonl": MAX_METRICS}
    files = {name: read_regular(run / name, limit) for name, limit in limits.items()}
    checkpoint = RunFolder.open(run).checkpoint
    if checkpoint.exists():
        with open_regular(checkpoint) as file:
            files[checkpoint.name] = file.read()
    return files


@cache
def _load(name: str, source: bytes) -> None:
    """Load the plugin of this `name`; once a process, however many tasks bring it."""
    with tempfile.TemporaryDirectory(prefix="fdfa-plugin-") as folder:
        file = Path(folder) / name
        file.write_bytes(source)
        load_plugin(file)


@cache
def _own_root() -> Path:
    """The data root of this machine, before any task has set another one."""
    return data_root()
