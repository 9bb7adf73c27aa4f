"""Jobs on the machines of a Ray cluster, which need not share any files.

The driver alone writes run folders. A task trains in a folder of its own machine and streams what changes in
it (`sync`). Ray moves tasks, files and deltas, and notices when a machine is lost. Ray's own retries are off:
they would stream a second attempt as if it were the first. A job that was lost is handed in again, and goes
on from what is stored of it.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fdfa_cli.errors import DiskFull, FdfaError, Interrupted, UsageError
from fdfa_cli.trials.engines.base import Engine, Job, Outcome, Stop
from fdfa_cli.trials.engines.batched import LARGEST, cut
from fdfa_cli.trials.engines.coordinator import Coordinator, DataFiles
from fdfa_cli.trials.engines.ray_init import connect
from fdfa_cli.trials.engines.ray_task import RayTask, pack, train
from fdfa_cli.trials.engines.sync import RunDelta, RunEnd, RunMirror

if TYPE_CHECKING:
    from ray.exceptions import RayError

    #: A `ray.ObjectRefGenerator` of `RunDelta`.
    Stream = Any

#: The number of attempts after which a job counts as failed, where each time its machine or process is lost.
ATTEMPTS = 3
#: Seconds between two looks for Ctrl-C while nothing else happens.
PATIENCE = 0.2
#: Seconds that tasks get to write and send a checkpoint before they are killed.
GRACE = 60.0


class Ray(Engine):
    """Trains jobs on a Ray cluster, at most `limit` tasks at a time, by default as many as fit the cluster.

    On CPUs a task is one job, trained as the serial engine would on that machine. On a GPU, which one small
    job would leave idle, it is a stack of jobs (see `batched`), unless they must be `exact`.

    `address` is that of a running cluster (``host:port``, or ``auto``); None starts one on this machine.
    Raises `UsageError` where Ray is not installed, the cluster cannot be reached, or none of its machines
    has what a job needs.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        limit: int | None,
        plugins: Sequence[Path] = (),
        address: str | None = None,
        exact: bool = False,
    ) -> None:
        self._ray = connect(address)
        self._exact = exact
        self._limit = limit
        self._plugins = tuple((file.name, file.read_bytes()) for file in plugins)
        self._threads = max((job.recipe.training.threads or 1 for job in jobs), default=1)
        self._gpus = self._wants_gpu(jobs)
        if not self._slots():
            what = "a GPU" if self._gpus else f"{self._threads} cores, as training.threads asks for"
            raise UsageError(f"--engine ray: no machine of the cluster has {what}")
        self.workers = self.processes = limit or self._slots()

    @override
    def run(self, jobs: Sequence[Job], stop: Stop) -> Generator[Outcome]:
        data = DataFiles.of(jobs)
        actor = self._ray.remote(num_cpus=0, scheduling_strategy=self._here())(Coordinator)
        coordinator = actor.remote(data.files)
        task = self._ray.remote(num_cpus=self._threads, num_gpus=self._gpus, max_retries=0)(_task)
        waiting: deque[Sequence[Job]] = deque(self._tasks(jobs))
        running: dict[Stream, _Attempt] = {}
        losses: Counter[str] = Counter()
        try:
            while waiting or running:
                if stop():
                    raise Interrupted("interrupted")
                while waiting and len(running) < (self._limit or max(1, 2 * self._slots())):
                    stack = waiting.popleft()
                    packed = RayTask(
                        pack(stack), self._plugins, data.digest(stack[0].recipe.data), self.workers
                    )
                    running[task.remote(packed, coordinator)] = _Attempt(stack)
                for stream in self._ready(running):
                    outcomes, again = self._received(stream, running, losses)
                    waiting += [[job] for job in again]
                    yield from outcomes
        finally:
            self._wind_up(coordinator, running)

    def _ready(self, running: Iterable[Stream]) -> list[Stream]:
        """The streams in which something has arrived; waits a moment for the first of them."""
        ready: list[Stream] = self._ray.wait(list(running), timeout=PATIENCE, fetch_local=False)[0]
        return ready

    def _received(
        self, stream: Stream, running: dict[Stream, _Attempt], losses: Counter[str]
    ) -> tuple[list[Outcome], list[Job]]:
        """What has arrived in a stream: the outcomes of jobs that have ended, and the jobs to train again."""
        from ray.exceptions import RayError

        try:
            outcome = running[stream].apply(self._ray.get(next(stream)))
        except StopIteration:
            del running[stream]
            return [], []
        except RayError as error:
            return self._gone(stream, running.pop(stream), error, losses)
        return ([] if outcome is None else [outcome]), []

    def _gone(
        self, stream: Stream, attempt: _Attempt, error: RayError, losses: Counter[str]
    ) -> tuple[list[Outcome], list[Job]]:
        """The outcomes of those jobs of a lost task that fail, and the jobs to train again.

        Each of them trains alone from then on, for it may be one of them that takes its machine with it.
        """
        from ray.exceptions import RayError, RayTaskError

        if isinstance(error, RayTaskError):  # no machine was lost: the task itself went wrong
            if (fatal := _fatal(error.cause)) is not None:
                attempt.lost(str(fatal))
                raise fatal from error
            return attempt.failed(f"{type(error.cause).__name__}: {error.cause}"), []
        with suppress(RayError):  # the machine may still train, and only be out of reach
            self._ray.cancel(stream, force=True)
        reason = _first_line(error)
        jobs = attempt.lost(reason)
        losses.update(job.identity for job in jobs)
        given_up = [job for job in jobs if losses[job.identity] >= ATTEMPTS]
        failed = _Attempt(given_up).failed(f"lost {ATTEMPTS} times: {reason}")
        return failed, [job for job in jobs if losses[job.identity] < ATTEMPTS]

    def _tasks(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """The jobs as they train together, one list for each task."""
        if self._exact or not self._gpus:
            return [[job] for job in jobs]
        return cut(jobs, self.workers, lambda job: LARGEST)

    def _wind_up(self, coordinator: Any, running: dict[Stream, _Attempt]) -> None:
        """Stop the tasks that run, and store what they send before they end."""
        from ray.exceptions import RayError

        coordinator.stop.remote()
        for stream, attempt in list(running.items()):
            if not attempt.begun:  # it would first have to wait for a machine
                self._ray.cancel(stream, force=True)
                del running[stream]
        deadline = time.monotonic() + GRACE
        while running and time.monotonic() < deadline:
            for stream in self._ready(running):
                try:
                    running[stream].apply(self._ray.get(next(stream)))
                except StopIteration:
                    del running[stream]
                except RayError as error:
                    running.pop(stream).lost(_first_line(error))
        for stream, attempt in running.items():
            self._ray.cancel(stream, force=True)
            attempt.lost(f"not stopped after {GRACE:.0f} seconds")
        self._ray.kill(coordinator)

    def _wants_gpu(self, jobs: Sequence[Job]) -> int:
        """The GPUs of a task: 1 where recipes ask for one, or leave it to a cluster that has some; else 0."""
        devices = {job.recipe.training.device for job in jobs}
        if numbered := sorted(device for device in devices if ":" in device):
            raise UsageError(f"training.device {numbered[0]}: a cluster chooses the GPU, so write cuda")
        return int("cuda" in devices or ("auto" in devices and any(n.get("GPU") for n in self._machines())))

    def _machines(self) -> list[dict[str, float]]:
        """The resources of each machine of the cluster that is alive, by Ray's names for them."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _slots(self) -> int:
        """The number of jobs that the cluster can train at a time."""
        return sum(
            int(min(m.get("CPU", 0) // self._threads, m.get("GPU", 0) if self._gpus else float("inf")))
            for m in self._machines()
        )

    def _here(self) -> Any:
        """The scheduling strategy that puts an actor on the machine of this process."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)


class _Attempt:
    """The jobs that train in one task, and the runs that are written of them on this machine."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.begun = False
        self._open = {position: RunMirror(job) for position, job in enumerate(jobs)}

    def apply(self, delta: RunDelta) -> Outcome | None:
        """Store what has changed in the run of a job; returns the outcome of the job with its last delta."""
        self.begun = True
        outcome = self._open[delta.position].apply(delta)
        if outcome is not None:
            del self._open[delta.position]
        return outcome

    def failed(self, reason: str) -> list[Outcome]:
        """The outcomes of the jobs that are still open, which fail for `reason`."""
        return [mirror.close(RunEnd("failed", reason, {})) for mirror in self._open.values()]

    def lost(self, reason: str) -> list[Job]:
        """The jobs that are still open, to train again; their runs are interrupted for `reason`."""
        return [mirror.lost(reason) for mirror in self._open.values()]


def _task(task: RayTask, coordinator: Any) -> Iterator[RunDelta]:
    """The function that Ray runs on a machine of the cluster: trains, until the coordinator says stop."""
    import ray

    stopped = coordinator.stopped.remote()
    yield from train(
        task,
        stop=lambda: bool(ray.wait([stopped], timeout=0)[0]),
        fetch=lambda: ray.get(coordinator.fetch.remote(task.digest)),
    )


def _fatal(cause: Exception) -> FdfaError | None:
    """The error that ends the sweep, where other tasks would fail for the same `cause`; else None."""
    if isinstance(cause, UsageError):
        return UsageError(str(cause))
    if isinstance(cause, DiskFull):
        return DiskFull(str(cause))
    if isinstance(cause, ImportError):
        return UsageError(f"install fdfa-cli on every machine of the cluster: {cause}")
    return None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
