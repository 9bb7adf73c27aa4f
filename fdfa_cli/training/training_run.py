"""One training and its run folder: how it begins, its rows, its checkpoints, and what becomes of it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from fdfa_cli.data.base import Subset
from fdfa_cli.diagnostics.probe import Probe
from fdfa_cli.errors import Diverged, Interrupted
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import dump, facts
from fdfa_cli.storage import RunFolder
from fdfa_cli.training import checkpoint, device, total
from fdfa_cli.training.footprint import memory_in_words
from fdfa_cli.training.state import TrainState

#: Why a training that has reached `TrainingRun.until` is interrupted.
PAUSED = "waits for the other trials of its sweep"


@dataclass(eq=False)
class TrainingRun:
    """A training of `recipe` on `device` into `run`, which is open for writing.

    A `resumed` one goes on from the run's checkpoint. With `until`, the training pauses after that many
    epochs if there are more. The loop fills in the rest: `state` is the training's state, `probe` its
    diagnostics, `summary` the numbers that run.json keeps beside those of the last epoch, and `error` what
    ended the training before its end.
    """

    recipe: Recipe
    run: RunFolder
    device: torch.device
    resumed: bool = False
    until: int | None = None
    state: TrainState = field(init=False)
    probe: Probe | None = field(init=False, default=None)
    summary: dict[str, Any] = field(init=False, default_factory=dict)
    error: BaseException | None = field(init=False, default=None)

    # --- how it begins -------------------------------------------------------------------------------

    @classmethod
    def new(
        cls,
        recipe: Recipe,
        results: Path,
        command: Sequence[str],
        until: int | None = None,
        environment: Mapping[str, Any] | None = None,
    ) -> Self:
        """A training in a new run folder of `results`, with this process prepared for it.

        `command` and `environment` go into the run's provenance. Raises `UsageError` where the device is not
        there or `results` cannot be written to, and `DiskFull` where `results` has no room.
        """
        where = device.prepare(recipe.training)
        described = {**device.described(where), **(environment or {})}
        run = RunFolder.create(results, dump(recipe), facts(recipe), command, described)
        return cls(recipe, run, where, until=until)

    @classmethod
    def resume(
        cls,
        recipe: Recipe,
        path: Path,
        command: Sequence[str],
        until: int | None = None,
        environment: Mapping[str, Any] | None = None,
    ) -> Self:
        """The training whose run folder is `path`, as `new` otherwise; raises as `RunFolder.resume`."""
        where = device.prepare(recipe.training)
        run = RunFolder.resume(path, command, {**device.described(where), **(environment or {})})
        run.update("running")
        return cls(recipe, run, where, resumed=True, until=until)

    def begin(self, network: Network, data: Subset) -> None:
        """Make the state on the training set; a run stopped before its first checkpoint starts again."""
        self.state = TrainState(self.recipe, network, len(data), self.device)
        if self.resumed:
            if self.run.checkpoint.exists():
                checkpoint.load(self.run.checkpoint, self.state)
            self.run.cut(self.state.epoch)
        if self.recipe.diagnostics is not None:
            self.probe = Probe(self.recipe.diagnostics, self.state, data)

    # --- where it is ---------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The epoch after which the training ends or pauses."""
        return min(self.until or self.recipe.training.epochs, self.recipe.training.epochs)

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do."""
        return self.error is not None or self.state.epoch >= self.last

    @property
    def complete(self) -> bool:
        """Whether all epochs of the recipe are done."""
        return self.error is None and self.state.epoch >= self.recipe.training.epochs

    # --- what is stored ------------------------------------------------------------------------------

    def row(self) -> dict[str, Any]:
        """The epoch so far, as a line of metrics."""
        state = self.state
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "train_loss": total.wide(state.loss_sum).item() / state.seen,
            "train_accuracy": state.correct.item() / state.seen,
            "lr": state.rate("weights", max(state.position - 1, 0)),
            "train_seconds": state.seconds,
        }
        if self.probe is not None:
            row["diagnostics_seconds"] = math.fsum(probe["seconds"] for probe in state.probes)
            row["diagnostics"] = state.probes
        return row

    def check_finite(self) -> None:
        """Raises `Diverged`, with the row stored, where the epoch's loss is not finite."""
        row = self.row()
        if not math.isfinite(row["train_loss"]):
            self.run.append(row)
            raise Diverged(f"the training loss is not finite in epoch {row['epoch']}")

    def finish_epoch(self, scores: Mapping[str, float], due: bool) -> dict[str, Any]:
        """Store the epoch's row, completed by the `scores` of the evaluation, and return it.

        A checkpoint is written at the end, and where the recipe wants one and the trainings that move
        together say that one is `due` (see `CheckpointInterval`).
        """
        state, row = self.state, {**self.row(), **scores}
        state.epoch += 1
        state.begin_epoch()
        # The row first: a run killed between the two repeats the epoch, and `cut` drops the row.
        self.run.append(row)
        wanted = state.epoch % self.recipe.training.checkpoint_every == 0
        if state.epoch == self.last or (wanted and due):
            self.save()
        return row

    def save(self) -> None:
        """Write the checkpoint of this moment."""
        checkpoint.save(self.run.checkpoint, self.state)

    def summarise(self, scores: Mapping[str, float], peak_memory: int) -> None:
        """Note the numbers of the whole training: its best epoch, `scores` on the test set, its costs."""
        history = self.run.metrics()
        best = max(history, key=lambda row: row.get("val_accuracy") or 0.0)
        self.summary = {
            "best_val_accuracy": best.get("val_accuracy"),
            "best_val_epoch": best["epoch"],
            **scores,
            "peak_memory_bytes": peak_memory,
            # The median: the first epoch of a process is slower than those that follow.
            "median_epoch_seconds": statistics.median(row.get("train_seconds") or 0.0 for row in history),
        }

    # --- how it ends ---------------------------------------------------------------------------------

    @contextmanager
    def own_failure(self) -> Iterator[None]:
        """Makes whatever goes wrong inside the end of this training, and of no other."""
        try:
            with memory_in_words():
                yield
        except Exception as error:  # noqa: BLE001 - `finish` stores it, and whoever asked for the training tells it
            self.error = error

    def stop(self, reason: str) -> None:
        """Checkpoint the training where it is, if it has not ended, and store that it is interrupted."""
        if self.ended:
            self.finish()
            return
        with self.own_failure():
            self.save()
        self.finish(self.error or Interrupted(reason))

    def finish(self, error: BaseException | None = None) -> None:
        """Write what became of the training into run.json and release its folder.

        No other place writes the status of a training that has ended in this process. An `error` is its end.
        """
        self.error = error or self.error
        try:
            with self.run as run:
                if self.error is not None:
                    run.end(self.error)
                elif self.complete:
                    run.update("completed", **self.summary)
                else:
                    run.update("interrupted", PAUSED)
        except Exception as failure:  # noqa: BLE001 - told as any other end: a full disk, or a damaged folder
            self.error = failure


class CheckpointInterval:
    """When trainings that move together write checkpoints.

    Of many short epochs, only so many end with a checkpoint that writing them takes a fortieth of the time.
    The other epochs are trained again after an interruption that left no time for one.
    """

    #: The least time between two checkpoints, over the time that one takes.
    RATIO = 40
    #: Seconds that the first checkpoint is taken to need.
    FIRST = 0.025

    def __init__(self) -> None:
        self._written, self._took = time.monotonic(), self.FIRST

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Gives whether a checkpoint is due, and notes how long writing it takes."""
        begun = time.monotonic()
        due = begun - self._written >= self.RATIO * self._took
        yield due
        if due:
            self._written = time.monotonic()
            self._took = self._written - begun
