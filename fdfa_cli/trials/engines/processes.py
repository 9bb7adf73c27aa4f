"""Several jobs at a time, each in a process of its own kind.

Workers are spawned, never forked: a fork copies locks that other threads hold, and CUDA does not survive
it. Each worker gets one job, or stack of jobs, at a time through a pipe, so when a worker dies it is known
what died with it. Workers do not get Ctrl-C, nor the SIGHUP of a terminal that goes, which are sent to
everyone; the driver sends them SIGTERM, and they checkpoint. They do the same when the driver is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from multiprocessing import connection, resource_tracker
from pathlib import Path

from fdfa_cli import output
from fdfa_cli.errors import Interrupted
from fdfa_cli.registry import load_plugin
from fdfa_cli.signals import stopping
from fdfa_cli.trials.engines.base import Job, Outcome

#: Seconds that workers get to write a checkpoint before they are killed.
GRACE = 60.0
#: Seconds between two looks for Ctrl-C while nothing else happens.
PATIENCE = 0.2


class Processes:
    """See `Engine`. With `gpus`, worker i sees GPU i modulo their number, and no other."""

    def __init__(self, workers: int, gpus: int = 0, plugins: Sequence[Path] = ()) -> None:
        self.workers = self.processes = workers
        self._gpus, self._plugins = gpus, tuple(plugins)

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome]:
        """See `Engine.run`."""
        yield from self.run_stacks([[job] for job in jobs], self.workers)

    def run_stacks(self, stacks: Sequence[Sequence[Job]], together: int) -> Generator[Outcome]:
        """As `run`, for jobs that are handed to a worker in stacks; `together` train at a time."""
        from fdfa_cli.trials.engines.worker import lost

        waiting = deque(stacks)
        count = min(self.workers, len(stacks))
        threads = max((job.recipe.training.threads or 1 for stack in stacks for job in stack), default=1)
        crew: dict[int, _Worker] = {}
        leaving: list[_Worker] = []
        try:
            with stopping() as stop:
                stop.defer()
                while waiting or crew:
                    while waiting and len(crew) < count:
                        slot = next(i for i in range(count) if i not in crew)
                        crew[slot] = _Worker(self._environment(slot, threads), self._plugins, together)
                        crew[slot].give(waiting.popleft())
                    connection.wait([w.pipe for w in crew.values()], PATIENCE)
                    if stop():
                        raise Interrupted("interrupted")
                    for slot, worker in list(crew.items()):
                        if not worker.pipe.poll():
                            continue
                        outcome = worker.take()
                        if outcome is None:  # it died
                            epitaph = worker.epitaph()
                            for job in worker.left.values():
                                yield lost(job, epitaph)
                            del crew[slot]
                            continue
                        if worker.left:
                            yield outcome
                            continue
                        if waiting:
                            worker.give(waiting.popleft())
                        else:
                            worker.pipe.close()
                            leaving.append(crew.pop(slot))
                        yield outcome
        finally:
            for worker in crew.values():
                worker.process.terminate()
            for worker in [*crew.values(), *leaving]:
                worker.dismiss()

    def _environment(self, slot: int, threads: int) -> dict[str, str]:
        """Variables that must be set before torch is imported."""
        environment = {"OMP_NUM_THREADS": str(threads)}
        if self._gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(self._gpus)))
            environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % self._gpus]
        return environment


class _Worker:
    """The driver's end of a worker; `left` is what it has in hand, by identity."""

    left: dict[str, Job]

    def __init__(self, environment: dict[str, str], plugins: Sequence[Path], workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, environment, plugins, workers, os.getpid()), name="fdfa-worker"
        )
        resource_tracker.ensure_running()  # here, because it unblocks the signal when it has started
        # Inherited: these never reach a worker, not even while it starts. Here they are only held back.
        everyones = [signal.SIGINT, signal.SIGHUP]
        signal.pthread_sigmask(signal.SIG_BLOCK, everyones)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, everyones)
        theirs.close()  # so that the pipe ends when the worker does

    def give(self, stack: Sequence[Job]) -> None:
        """Hand it jobs; that it has died is noticed by `take`."""
        self.left = {job.identity: job for job in stack}
        with suppress(BrokenPipeError):
            self.pipe.send(stack)

    def take(self) -> Outcome | None:
        """What became of one of its jobs; None where the worker itself is gone."""
        try:
            outcome: Outcome = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None
        del self.left[outcome.job.identity]
        return outcome

    def dismiss(self) -> None:
        """Let it go, and wait until it has."""
        self.pipe.close()
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def epitaph(self) -> str:
        """How it died."""
        self.dismiss()
        code = self.process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"the worker process died ({how}); out of memory?"


def _serve(
    pipe: connection.Connection,
    environment: dict[str, str],
    plugins: Sequence[Path],
    workers: int,
    driver: int,
) -> None:
    """A worker's life: jobs in, outcomes out, until the pipe ends."""
    output.prepare()
    os.environ.update(environment)
    for file in plugins:
        load_plugin(file)
    from fdfa_cli.trials.engines.worker import train_stack

    with suppress(EOFError, ConnectionError, Interrupted), stopping([signal.SIGTERM]) as stop:
        while True:
            stack = pipe.recv()
            outcomes = train_stack(stack, lambda: stop() or os.getppid() != driver, workers)
            with closing(outcomes):
                for outcome in outcomes:
                    pipe.send(outcome)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written; taking torch apart would take a sixth of a second
