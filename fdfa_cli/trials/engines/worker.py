"""Training jobs in this process, which is what every engine comes to in the end."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from typing import Any

from fdfa_cli.data import data_root
from fdfa_cli.errors import DiskFull, Diverged
from fdfa_cli.recipe.write import dump, facts
from fdfa_cli.storage import Run, Status, by_identity, scan
from fdfa_cli.training.course import Course
from fdfa_cli.training.device import chosen, environment_of
from fdfa_cli.training.loop import fit, fit_together
from fdfa_cli.training.progress import Quiet
from fdfa_cli.trials.engines.base import Job, Outcome, Stop

#: Why a run that has reached the end of its rung is interrupted.
WAITING = "waits for the other trials of its sweep"


def require(jobs: Iterable[Job]) -> None:
    """Raise `UsageError` where the data or the device that any of `jobs` needs is not on this machine."""
    root, seen = data_root(), set()
    for recipe in (job.recipe for job in jobs):
        needs = (recipe.data.model_dump_json(), recipe.training.device)
        if needs in seen:
            continue
        seen.add(needs)
        recipe.data.require(root)
        chosen(recipe.training)


def train_job(job: Job, stop: Stop, workers: int) -> Outcome:
    """Train `job` into its run folder; it is one of `workers` that train at a time.

    Whatever goes wrong is the outcome of the job, and a full disk interrupts it. Raises `Interrupted` once
    `stop` is true.
    """
    run = None
    try:
        run = _open(job, {"workers": workers})
        with run:
            summary = fit(job.recipe, run, data_root(), Quiet(), stop, job.run is not None, job.until)
            if summary:
                run.update("completed", **summary)
            else:
                run.update("interrupted", WAITING)
    except Exception as error:  # noqa: BLE001 - a trial's failure must not end the others
        return _failure(job, run, error)
    return Outcome(job, run.path, run.status)


def train_stack(jobs: Sequence[Job], stop: Stop, workers: int) -> Generator[Outcome]:
    """Train `jobs`, a group of `fdfa_cli.training.grouping`, stacked, each into its run folder.

    The arguments are those of `train_job`, which trains a job that is alone. Yields the outcome of each job
    as soon as it is known. Raises `Interrupted` once `stop` is true; then, and when the generator is closed,
    those without an outcome are checkpointed where they are.
    """
    if len(jobs) == 1:
        yield train_job(jobs[0], stop, workers)
        return
    with ExitStack() as writers:
        left: dict[Course, Job] = {}
        for job in jobs:
            try:
                run = writers.enter_context(_open(job, {"workers": workers, "stacked": len(jobs)}))
            except Exception as error:  # noqa: BLE001 - as in `train_job`
                yield _failure(job, None, error)
            else:
                left[Course(job.recipe, run, job.run is not None, job.until)] = job
        try:
            with closing(fit_together(list(left), data_root(), Quiet(), stop)) as ended:
                for course in ended:
                    yield _outcome(left.pop(course), course)
        except GeneratorExit:
            for course in left:
                course.run.update("interrupted", "stopped with its sweep")
            raise
        except Exception as error:  # noqa: BLE001 - as in `train_job`; here it is everyone's
            for course, job in left.items():
                course.error = error
                yield _outcome(job, course)


def _outcome(job: Job, course: Course) -> Outcome:
    """What became of a course, written to its run, which is closed."""
    try:
        with course.run as run:
            if course.error is not None:
                raise course.error
            if course.complete:
                run.update("completed", **course.summary)
            else:
                run.update("interrupted", WAITING)
    except Exception as error:  # noqa: BLE001 - as in `train_job`
        return _failure(job, course.run, error)
    return Outcome(job, run.path, run.status)


def _failure(job: Job, run: Run | None, error: Exception) -> Outcome:
    """The outcome of a job that `error` has ended."""
    status: Status = "failed"
    if isinstance(error, Diverged | DiskFull):
        status = "diverged" if isinstance(error, Diverged) else "interrupted"
    return Outcome(job, run.path if run else None, status, str(error) or type(error).__name__)


def mark_lost(job: Job, message: str) -> Outcome:
    """The outcome of a job whose worker is gone: its run, or a new one, is marked failed with `message`."""
    path = job.run
    if path is None:
        begun = by_identity(scan([job.folder]).runs).get(job.identity)
        path = begun.path if begun else None
    run = _open(job, {}) if path is None else Run.resume(path, job.command)
    with run:
        run.update("failed", message)
    return Outcome(job, run.path, "failed", message)


def _open(job: Job, environment: dict[str, Any]) -> Run:
    """The job's run to write to, new or resumed, with status running."""
    environment = environment_of(job.recipe) | environment
    if job.run is None:
        return Run.create(job.folder, dump(job.recipe), facts(job.recipe), job.command, environment)
    run = Run.resume(job.run, job.command, environment)
    run.update("running")
    return run
