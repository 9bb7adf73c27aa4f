"""What an engine is given, what it gives back, and what every engine promises.

An engine is given jobs and yields the outcome of each, in any order. It leaves a run folder for every job
that it has begun, and closes the run before it yields the outcome. One process writes a run; which one that
is, the engine decides.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.storage import Status


@dataclass(frozen=True)
class Job:
    """Train `recipe` to the end, or, with `until`, pause after that many epochs.

    `folder` is where a new run goes; `run` the one to go on with, where there is one already.
    """

    recipe: Recipe
    identity: str
    folder: Path
    run: Path | None = None
    until: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its run (None where not even a folder could be made) and its status.

    A run that reached `until` and has more epochs to go is interrupted; `error` says why one failed, or was
    interrupted by a full disk, of which no other would fare better.
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

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome]:
        """Train every job; yields an outcome for each as soon as it is known.

        A job that fails or diverges, or whose worker is lost, is an outcome like any other. Raises
        `Interrupted` on Ctrl-C or SIGTERM. However the generator is left (closed early included), what
        was training is stopped first, checkpointed where it is.
        """
