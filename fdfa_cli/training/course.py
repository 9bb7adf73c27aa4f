"""A training on its way into its run folder: its rows, its checkpoints, and how it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fdfa_cli.data.base import Subset
from fdfa_cli.diagnostics.probe import Probe
from fdfa_cli.errors import Diverged
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.storage import Run
from fdfa_cli.training import checkpoint, total
from fdfa_cli.training.footprint import memory_in_words
from fdfa_cli.training.session import Session

#: Time between two checkpoints over the time that one takes, at least.
SPARING = 40
#: Seconds that the first is taken to need.
GUESS = 0.025


class Pace:
    """When checkpoints are written, of trainings that move together.

    Of many short epochs only so many that it takes a fortieth of the time: the others are done again after an
    interruption that left no time for one.
    """

    def __init__(self) -> None:
        self._written, self._took = time.monotonic(), GUESS

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Gives whether it is time again; notes how long it takes."""
        begun = time.monotonic()
        wanted = begun - self._written >= SPARING * self._took
        yield wanted
        if wanted:
            self._written = time.monotonic()
            self._took = self._written - begun


@dataclass(eq=False)
class Course:
    """What to train, and into which run.

    With `resume` it goes on from the run's checkpoint, with `until` it pauses after that many epochs if
    there are more. At the end `summary` is what run.json keeps beside the last epoch (nothing after a
    pause), or `error` is what ended it before.
    """

    recipe: Recipe
    run: Run
    resume: bool = False
    until: int | None = None
    session: Session = field(init=False)
    probe: Probe | None = field(init=False, default=None)
    summary: dict[str, Any] = field(init=False, default_factory=dict)
    error: Exception | None = field(init=False, default=None)

    def begin(self, network: Network, data: Subset, device: torch.device) -> None:
        """Make the session on the training set; a run stopped before its first checkpoint starts again."""
        self.session = Session(self.recipe, network, len(data), device)
        if self.resume:
            if self.run.checkpoint.exists():
                checkpoint.load(self.run.checkpoint, self.session)
            self.run.cut(self.session.epoch)
        if self.recipe.diagnostics is not None:
            self.probe = Probe(self.recipe.diagnostics, self.session, data)

    @property
    def last(self) -> int:
        """The epoch after which it ends or pauses."""
        return min(self.until or self.recipe.training.epochs, self.recipe.training.epochs)

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do."""
        return self.error is not None or self.session.epoch >= self.last

    @property
    def complete(self) -> bool:
        """Whether all epochs of the recipe are done."""
        return self.error is None and self.session.epoch >= self.recipe.training.epochs

    @contextmanager
    def own_failure(self) -> Iterator[None]:
        """Whatever goes wrong inside is this course's end, and nobody else's."""
        try:
            with memory_in_words():
                yield
        except Exception as error:  # noqa: BLE001 - kept, and told by whoever asked for the training
            self.error = error

    def row(self) -> dict[str, Any]:
        """The epoch so far, as a line of metrics."""
        session = self.session
        row: dict[str, Any] = {
            "epoch": session.epoch + 1,
            "train_loss": total.wide(session.loss_sum).item() / session.seen,
            "train_accuracy": session.correct.item() / session.seen,
            "lr": session.rate("weights", max(session.position - 1, 0)),
            "train_seconds": session.seconds,
        }
        if self.probe is not None:
            row["diagnostics_seconds"] = math.fsum(probe["seconds"] for probe in session.probes)
            row["diagnostics"] = session.probes
        return row

    def check_finite(self) -> None:
        """Raises `Diverged`, with the row stored, where the epoch's loss is not finite."""
        row = self.row()
        if not math.isfinite(row["train_loss"]):
            self.run.append(row)
            raise Diverged(f"the training loss is not finite in epoch {row['epoch']}")

    def finish_epoch(self, scores: dict[str, float], wanted: bool) -> dict[str, Any]:
        """Store the epoch's row, completed by `scores`.

        And a checkpoint, where one is due and `wanted`, and at the end.
        """
        session, row = self.session, self.row() | scores
        session.epoch += 1
        session.begin_epoch()
        # The row first: a run killed between the two repeats the epoch, and `cut` drops the row.
        self.run.append(row)
        due = session.epoch % self.recipe.training.checkpoint_every == 0
        if session.epoch == self.last or (due and wanted):
            self.save()
        return row

    def save(self) -> None:
        """Write the checkpoint."""
        checkpoint.save(self.run.checkpoint, self.session)
