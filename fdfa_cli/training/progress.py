"""What a training shows while it runs, always on stderr: a live bar on a terminal, else a line an epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from fdfa_cli.output import shows_bars
from fdfa_cli.training import total

if TYPE_CHECKING:
    from fdfa_cli.recipe.schema import Recipe
    from fdfa_cli.training.state import TrainState

#: Seconds between two looks at the running loss for the bar (each look waits for the device).
REFRESH = 0.25


class Progress(Protocol):
    """Told of every step and epoch."""

    def start(self, recipe: Recipe, state: TrainState) -> None:
        """Training begins, or goes on."""

    def step(self, state: TrainState) -> None:
        """A step was taken."""

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch was finished and stored."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Quiet:
    """Shows nothing."""

    def start(self, recipe: Recipe, state: TrainState) -> None:
        """Nothing."""

    def step(self, state: TrainState) -> None:
        """Nothing."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing."""


class Then(Quiet):
    """Another progress, and after each of its epochs something to be done."""

    def __init__(self, shown: Progress, after: Callable[[], None]) -> None:
        self._shown, self._after = shown, after

    def start(self, recipe: Recipe, state: TrainState) -> None:
        """As shown."""
        self._shown.start(recipe, state)

    def step(self, state: TrainState) -> None:
        """As shown."""
        self._shown.step(state)

    def epoch(self, row: dict[str, Any]) -> None:
        """Show the epoch, then act."""
        self._shown.epoch(row)
        self._after()


class Lines(Quiet):
    """One plain line an epoch."""

    def start(self, recipe: Recipe, state: TrainState) -> None:
        """Remember how many epochs there are."""
        self._epochs = recipe.training.epochs

    def epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch."""
        print(describe(row, self._epochs), file=sys.stderr, flush=True)


class Bar(Quiet):
    """A live bar with loss, accuracy, samples/s and the time left; a line for every finished epoch."""

    def __enter__(self) -> Self:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(bar_width=24),
            progress.TextColumn("{task.fields[figures]}"),
            progress.TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    def start(self, recipe: Recipe, state: TrainState) -> None:
        """Lay the bar out over all epochs."""
        self._epochs = recipe.training.epochs
        done = state.epoch * state.steps + state.position
        self._task = self._bar.add_task(
            "", total=self._epochs * state.steps, completed=done, epoch=f"1/{self._epochs}", figures=""
        )
        self._looked, self._seen = time.perf_counter(), state.seen

    def step(self, state: TrainState) -> None:
        """Advance; read the running loss a few times a second."""
        now = time.perf_counter()
        if now - self._looked < REFRESH:
            return
        loss = total.wide(state.loss_sum).item() / state.seen
        correct = state.correct.item() / state.seen
        speed = max(state.seen - self._seen, 0) / (now - self._looked)
        self._looked, self._seen = now, state.seen
        self._bar.update(
            self._task,
            completed=state.epoch * state.steps + state.position,
            epoch=f"{state.epoch + 1}/{self._epochs}",
            figures=f"loss {loss:.4f}  accuracy {correct:.1%}  {speed:,.0f} samples/s",
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch above the bar."""
        self._seen = 0
        self._bar.console.print(describe(row, self._epochs), markup=False, highlight=False)


def describe(row: dict[str, Any], epochs: int) -> str:
    """One line for an epoch's metrics, short enough for 80 columns, and one for its last probe."""
    splits = [
        f"{split} loss {row[f'{split}_loss']:.4f} acc {row[f'{split}_accuracy']:7.2%}"
        for split in ("train", "val")
        if f"{split}_loss" in row
    ]
    number = f"{row['epoch']}/{epochs}".rjust(2 * len(str(epochs)) + 1)
    line = "  ".join([f"epoch {number}", *splits, f"{row['train_seconds']:.1f} s"])
    probes = row.get("diagnostics")
    return f"{line}\n{describe_probe(probes[-1])}" if probes else line


def describe_probe(probe: dict[str, Any]) -> str:
    """The cosines of a probe, block by block: of error signals where the rule has some, else of gradients."""
    blocks = probe["blocks"]
    name, key = next(
        (
            (name, key)
            for name, key in (("error signal", "signal_cosine"), ("gradient", "weight_cosine"))
            if any(block.get(key) is not None for block in blocks)
        ),
        ("error signal", "signal_cosine"),
    )
    values = (block.get(key) for block in blocks)
    cosines = " ".join("–" if value is None else f"{value:.2f}" for value in values)
    return f"  step {probe['step']}: cosine of {name} and true one, by block: {cosines}"


def shown(wanted: bool = True) -> Progress:
    """The bar where stderr is a terminal, and in a notebook; a line an epoch elsewhere, or nothing at all."""
    if not wanted:
        return Quiet()
    return Bar() if shows_bars() else Lines()
