"""Several jobs at a time, each in a process of its own.

Workers are spawned, never forked: a fork copies locks that other threads hold, and CUDA does not survive it.
Each worker gets one stack of jobs at a time through a pipe, so it is known which jobs are lost when a worker
dies. Ctrl-C and the SIGHUP of a closing terminal, which are sent to all processes, do not reach workers: the
driver sends them SIGTERM, and they checkpoint. They do the same when the driver is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from multiprocessing import connection, resource_tracker
from pathlib import Path
from types import ModuleType

from typing_extensions import override

from fdfa_cli import lazy, output
from fdfa_cli.errors import Interrupted
from fdfa_cli.registry import load_plugin
from fdfa_cli.signals import stopping
from fdfa_cli.trials.engines.base import Engine, Job, Outcome, Stop
from fdfa_cli.trials.engines.worker import mark_lost, train_stack

#: Seconds that workers get to write a checkpoint before they are killed.
GRACE = 60.0
#: Seconds between two looks for Ctrl-C while nothing else happens.
PATIENCE = 0.2


class Processes(Engine):
    """Trains jobs in several processes; with `gpus`, worker i sees GPU i modulo their number only."""

    def __init__(self, workers: int, gpus: int = 0, plugins: Sequence[Path] = ()) -> None:
        self.workers = self.processes = workers
        self._gpus, self._plugins = gpus, tuple(plugins)

    @override
    def run(self, jobs: Sequence[Job], stop: Stop) -> Generator[Outcome]:
        yield from self.run_stacks([[job] for job in jobs], self.workers, stop)

    def run_stacks(self, stacks: Sequence[Sequence[Job]], together: int, stop: Stop) -> Generator[Outcome]:
        """As `run`, for jobs that are handed to a worker in stacks; `together` of them train at a time."""
        threads = max((job.recipe.training.threads or 1 for stack in stacks for job in stack), default=1)

        def start(slot: int) -> _Worker:
            return _Worker(self._environment(slot, threads), self._plugins, together)

        crew = _Crew(stacks, self.workers, start)
        try:
            while crew.busy:
                if stop():
                    raise Interrupted("interrupted")
                crew.hand_out()
                yield from crew.outcomes()
        finally:
            crew.dismiss()

    def _environment(self, slot: int, threads: int) -> dict[str, str]:
        """The environment variables of the worker in `slot`, which torch reads when it is imported."""
        environment = {"OMP_NUM_THREADS": str(threads)}
        if self._gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(self._gpus)))
            environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % self._gpus]
        return environment


class _Crew:
    """Some workers and the stacks that wait for them; `start` makes the worker of a slot, 0 to `size` − 1."""

    def __init__(self, stacks: Sequence[Sequence[Job]], size: int, start: Callable[[int], _Worker]) -> None:
        self._waiting, self._start = deque(stacks), start
        self._slots = range(min(size, len(stacks)))
        self._working: dict[int, _Worker] = {}
        self._leaving: list[_Worker] = []

    @property
    def busy(self) -> bool:
        """Whether a stack waits or trains."""
        return bool(self._waiting or self._working)

    def hand_out(self) -> None:
        """Start a worker in every slot that is free, as long as stacks wait."""
        for slot in self._slots:
            if self._waiting and slot not in self._working:
                self._working[slot] = self._start(slot)
                self._working[slot].give(self._waiting.popleft())

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes that arrive within a moment; a worker that died leaves one of each of its jobs."""
        connection.wait([worker.pipe for worker in self._working.values()], PATIENCE)
        for slot, worker in list(self._working.items()):
            if not worker.pipe.poll():
                continue
            outcome = worker.take()
            if outcome is None:
                del self._working[slot]
                yield from worker.lost()
                continue
            if not worker.left:  # before the outcome is stored, so that the worker need not wait for that
                self._go_on(slot, worker)
            yield outcome

    def _go_on(self, slot: int, worker: _Worker) -> None:
        """Give the worker another stack, or let it go where none waits."""
        if self._waiting:
            worker.give(self._waiting.popleft())
        else:
            worker.pipe.close()
            self._leaving.append(self._working.pop(slot))

    def dismiss(self) -> None:
        """Stop whoever still trains, and wait until all have gone."""
        for worker in self._working.values():
            worker.process.terminate()
        for worker in [*self._working.values(), *self._leaving]:
            worker.dismiss()


class _Worker:
    """The driver's end of a worker process; `left` are the jobs that it has in hand, by identity."""

    left: dict[str, Job]

    def __init__(self, environment: dict[str, str], plugins: Sequence[Path], workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, environment, plugins, workers, os.getpid()), name="fdfa-worker"
        )
        resource_tracker.ensure_running()  # now, because it unblocks SIGINT once it has started
        # The worker inherits the mask, so these never reach it. The driver gets them a moment later.
        sent_to_all = [signal.SIGINT, signal.SIGHUP]
        signal.pthread_sigmask(signal.SIG_BLOCK, sent_to_all)
        try:
            with _without_main():
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, sent_to_all)
        theirs.close()  # so that the pipe ends when the worker does

    def give(self, stack: Sequence[Job]) -> None:
        """Hand jobs to the worker; that it has died is noticed by `take`."""
        self.left = {job.identity: job for job in stack}
        with suppress(BrokenPipeError):
            self.pipe.send(stack)

    def take(self) -> Outcome | None:
        """The next outcome that the worker has sent; None where the process is gone."""
        try:
            outcome: Outcome = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None
        del self.left[outcome.job.identity]
        return outcome

    def dismiss(self) -> None:
        """Let the process end, and wait until it has; kill it where that takes longer than `GRACE`."""
        self.pipe.close()
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def lost(self) -> Iterator[Outcome]:
        """The outcomes of the jobs that it had in hand when it died, and whose runs are marked failed."""
        self.dismiss()
        code = self.process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        for job in self.left.values():
            yield mark_lost(job, f"the worker process died ({how}); out of memory?")


@contextmanager
def _without_main() -> Iterator[None]:
    """Hides the running program from a process that starts meanwhile, which else would run it once more.

    So a script that trains in processes needs no ``if __name__ == "__main__":``.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def _serve(
    pipe: connection.Connection,
    environment: dict[str, str],
    plugins: Sequence[Path],
    workers: int,
    driver: int,
) -> None:
    """The main function of a worker process: takes stacks from the pipe and sends outcomes, until it ends."""
    output.prepare()
    os.environ.update(environment)
    lazy.around_import = lazy.uncollected
    for file in plugins:
        load_plugin(file)
    with suppress(EOFError, ConnectionError, Interrupted), stopping([signal.SIGTERM]) as stop:
        while True:
            stack = pipe.recv()
            outcomes = train_stack(stack, lambda: stop() or os.getppid() != driver, workers)
            with closing(outcomes):
                for outcome in outcomes:
                    pipe.send(outcome)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # everything is written, and to unload torch would take a sixth of a second
