"""What a task of a cluster does on its machine: data, plugins, a folder to train in, and news of it.

The machine needs fdfa-cli installed and shares no files with the driver. Trials train in a folder that is
removed with the task, in a thread of their own, while the task's own thread tells what changes there.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Event, Thread

from fdfa_cli import __version__
from fdfa_cli.data import data_root
from fdfa_cli.data.shipping import provide
from fdfa_cli.door import open_regular, read_regular
from fdfa_cli.errors import DiskFull, Interrupted, UsageError
from fdfa_cli.registry import load_plugin
from fdfa_cli.storage import Run
from fdfa_cli.storage.fields import MAX_METRICS, MAX_RECIPE, MAX_RECORD
from fdfa_cli.trials.engines.base import Job, Outcome
from fdfa_cli.trials.engines.batched import Batched
from fdfa_cli.trials.engines.sync import RunDelta, RunWatcher
from fdfa_cli.trials.engines.worker import train_stack

#: Seconds between two looks at what has changed.
PATIENCE = 0.5


@dataclass(frozen=True)
class RayTask:
    """Jobs to train on another machine, stacked where they are several, with all that it needs for it.

    `jobs` and the files of those runs that go on (a mapping by name, else None) are pickled, since a plugin
    must be loaded before what it defines can be read; `plugins` are their file names and sources; `digest`
    is of the files of the data set that all the jobs share.
    """

    jobs: bytes
    plugins: tuple[tuple[str, bytes], ...]
    digest: str
    command: tuple[str, ...]
    workers: int
    version: str = __version__


def pack(jobs: Sequence[Job]) -> bytes:
    """`RayTask.jobs` for `jobs`, whose runs are read from this machine."""
    return pickle.dumps([(job, _files(job.run)) for job in jobs])


def train(
    task: RayTask, stopped: Callable[[], bool], fetch: Callable[[], Mapping[str, bytes]]
) -> Iterator[RunDelta]:
    """Train the jobs of `task`, telling the news of each; an interrupted one's last news says so.

    `stopped` is asked again and again; `fetch` brings the data set's files, where this machine lacks them.
    Raises `UsageError` where this machine cannot do it, `DiskFull` where it has no room, and whatever goes
    wrong outside a job.
    """
    if task.version != __version__:
        raise UsageError(f"fdfa-cli is {task.version} on the driver and {__version__} on a node: install one")
    sys.argv = list(task.command)  # which the runs are said to come from
    for name, source in task.plugins:
        _load(name, source)
    jobs: list[tuple[Job, Mapping[str, bytes] | None]] = pickle.loads(task.jobs)
    data, root = provide(jobs[0][0].recipe.data, task.digest, _own_root(), fetch)
    os.environ["FDFA_DATA"] = str(root)
    if stopped():
        return
    with tempfile.TemporaryDirectory(prefix="fdfa-task-") as scratch:
        here = [
            _at(
                Path(scratch) / str(i),
                replace(job, recipe=job.recipe.model_copy(update={"data": data})),
                files,
            )
            for i, (job, files) in enumerate(jobs)
        ]
        watchers = [RunWatcher(i, job.folder, job.run) for i, job in enumerate(here)]
        yield from _followed(_Training(here, task.workers), watchers, stopped)


class _Training(Thread):
    """Trains jobs until `stop` is set; `outcomes` gets the position and outcome of each as it ends."""

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        super().__init__(daemon=True)
        self.stop = Event()
        self.outcomes: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
        self.error: BaseException | None = None
        self.jobs, self._workers = jobs, workers

    def run(self) -> None:
        """Train them, stacked as far as the memory of this machine allows."""
        positions = {job.identity: position for position, job in enumerate(self.jobs)}
        try:
            for stack in Batched(self.jobs, 1).stacks(self.jobs):
                for outcome in train_stack(stack, self.stop.is_set, self._workers):
                    self.outcomes.put((positions[outcome.job.identity], outcome))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for this one
            self.error = error


def _followed(
    training: _Training, watchers: Sequence[RunWatcher], stopped: Callable[[], bool]
) -> Iterator[RunDelta]:
    open_ = dict(enumerate(watchers))
    training.start()
    while open_ and (training.is_alive() or not training.outcomes.empty()):
        with suppress(queue.Empty):
            position, outcome = training.outcomes.get(timeout=PATIENCE)
            if outcome.status == "interrupted" and outcome.error:
                raise DiskFull(f"on a machine of the cluster: {outcome.error}")
            if (news := open_.pop(position).news(outcome)) is not None:
                yield news
        for watcher in open_.values():
            if (news := watcher.news()) is not None:
                yield news
        if stopped():
            training.stop.set()
    training.join()
    if training.error is not None and not isinstance(training.error, Interrupted):
        raise training.error
    for position, watcher in open_.items():
        if (news := watcher.news(Outcome(training.jobs[position], None, "interrupted"))) is not None:
            yield news


def _at(folder: Path, job: Job, files: Mapping[str, bytes] | None) -> Job:
    """`job` as it trains in `folder` of this machine."""
    folder.mkdir()
    if files is None or job.run is None:
        return replace(job, folder=folder, run=None)
    run = folder / job.run.name
    run.mkdir()
    for name, content in files.items():
        (run / name).write_bytes(content)
    return replace(job, folder=folder, run=run)


def _files(run: Path | None) -> dict[str, bytes] | None:
    """The files of a run to send to where it goes on."""
    if run is None:
        return None
    limits = {"run.json": MAX_RECORD, "recipe.yaml": MAX_RECIPE, "metrics.jsonl": MAX_METRICS}
    files = {name: read_regular(run / name, limit) for name, limit in limits.items()}
    checkpoint = Run.open(run).checkpoint
    if checkpoint.exists():
        with open_regular(checkpoint) as file:
            files[checkpoint.name] = file.read()
    return files


@cache
def _load(name: str, source: bytes) -> None:
    """Load a plugin, once a process."""
    with tempfile.TemporaryDirectory(prefix="fdfa-plugin-") as folder:
        file = Path(folder) / name
        file.write_bytes(source)
        load_plugin(file)


@cache
def _own_root() -> Path:
    """The data root of this machine, before any task has set another."""
    return data_root()
