"""Training jobs in this process, which is what every engine comes to in the end."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, closing

from fdfa_cli.data import data_root
from fdfa_cli.recipe.write import dump, facts
from fdfa_cli.storage import RunFolder, by_identity, scan
from fdfa_cli.storage.run import message_of, status_of
from fdfa_cli.training.device import chosen
from fdfa_cli.training.loop import fit_together
from fdfa_cli.training.training_run import TrainingRun
from fdfa_cli.trials.engines.base import Job, Outcome, Stop


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
    """Train `job` alone, as `train_stack` trains several."""
    (outcome,) = train_stack([job], stop, workers)
    return outcome


def train_stack(jobs: Sequence[Job], stop: Stop, workers: int) -> Generator[Outcome]:
    """Train `jobs`, a job alone or a group of `fdfa_cli.training.grouping`, each into its run folder.

    They are some of the `workers` that train at a time. Yields the outcome of each job as soon as it is
    known: whatever goes wrong in a job is its outcome, and a full disk interrupts it. Raises `Interrupted`
    once `stop` is true; then, and when the generator is closed, those without an outcome are checkpointed
    where they are.
    """
    with ExitStack() as writers:
        left: dict[TrainingRun, Job] = {}
        for job in jobs:
            try:
                training = _begin(job, workers, len(jobs))
            except Exception as error:  # noqa: BLE001 - a trial's failure must not end the others
                yield Outcome(job, None, status_of(error), message_of(error))
            else:
                writers.enter_context(training.run)
                left[training] = job
        if not left:
            return
        with closing(fit_together(list(left), data_root(), stop=stop)) as ended:
            for training in ended:
                yield _outcome(left.pop(training), training)


def mark_lost(job: Job, message: str) -> Outcome:
    """The outcome of a job whose worker is gone: its run, or a new one, is marked failed with `message`."""
    path = job.run
    if path is None:
        begun = by_identity(scan([job.folder]).runs).get(job.identity)
        path = begun.path if begun else None
    if path is None:
        run = RunFolder.create(job.folder, dump(job.recipe), facts(job.recipe), job.command)
    else:
        run = RunFolder.resume(path, job.command)
    with run:
        run.update("failed", message)
    return Outcome(job, run.path, "failed", message)


def _begin(job: Job, workers: int, stacked: int) -> TrainingRun:
    """The job's training, new or resumed."""
    environment = {"workers": workers} | ({"stacked": stacked} if stacked > 1 else {})
    if job.run is None:
        return TrainingRun.new(job.recipe, job.folder, job.command, job.until, environment)
    return TrainingRun.resume(job.recipe, job.run, job.command, job.until, environment)


def _outcome(job: Job, training: TrainingRun) -> Outcome:
    """What became of a training that has ended."""
    path, error = training.run.path, training.error
    if error is None:
        return Outcome(job, path, training.run.status)
    return Outcome(job, path, status_of(error), message_of(error))
