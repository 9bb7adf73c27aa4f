"""What an engine is given, what it gives back, and what every engine promises.

An engine is given jobs and yields the outcome of each, in any order. It leaves a run folder for every job
that it has begun, and closes the run before it yields the outcome. One process writes a run; which one that
is, the engine decides.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.storage import Status
from fdfa_cli.trials.plan import Trial

#: Is asked again and again, and is true from when training shall stop.
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Job:
    """A trial to train to its end or, with `until`, to pause after that many epochs.

    `folder` is where a new run goes, and `run` the run to go on with where there is one already. The run is
    said to come from the command line `command`.
    """

    trial: Trial
    folder: Path
    command: tuple[str, ...] = ()
    run: Path | None = None
    until: int | None = None

    @property
    def recipe(self) -> Recipe:
        """The complete recipe of the trial."""
        return self.trial.recipe

    @property
    def identity(self) -> str:
        """The identity by which a store knows the trial."""
        return self.trial.identity


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its run (None where not even a folder could be made) and its status.

    A run that reached `Job.until` and has more epochs to go is interrupted. `error` says why a run failed or
    diverged; for an interrupted run it says that the disk is full, which would stop every other job too.
    """

    job: Job
    run: Path | None
    status: Status
    error: str | None = None


class Engine(Protocol):
    """Trains jobs, on this machine or on others."""

    #: How many jobs train at the same time, and in how many processes.
    workers: int
    processes: int

    def run(self, jobs: Sequence[Job], stop: Stop) -> Generator[Outcome]:
        """Train every job; yields the outcome of each as soon as it is known.

        A job that fails or diverges, or whose worker is lost, is an outcome like any other. Raises
        `Interrupted` once `stop` is true. However the generator is left (closed early included), what was
        training is stopped first, and checkpointed where it is.
        """
