"""What a training shows while it runs, always on stderr: a live bar on a terminal, else a line an epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from typing_extensions import override

from fdfa_cli.output import shows_bars
from fdfa_cli.training import total

if TYPE_CHECKING:
    from fdfa_cli.recipe.schema import Recipe
    from fdfa_cli.training.state import TrainState

#: Seconds between two looks at the running loss for the bar (each look waits for the device).
REFRESH = 0.25


class Progress(Protocol):
    """Is told of every step and epoch of a training, and of one of several that move together."""

    def start(self, recipe: Recipe, state: TrainState) -> None:
        """The training begins, or goes on from `state`."""

    def step(self, state: TrainState) -> None:
        """A step was taken, and led to `state`."""

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch was finished and stored as this `row` of the metrics."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Quiet(Progress):
    """A progress that shows nothing."""

    @override
    def start(self, recipe: Recipe, state: TrainState) -> None:
        pass

    @override
    def step(self, state: TrainState) -> None:
        pass

    @override
    def epoch(self, row: dict[str, Any]) -> None:
        pass

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Then(Quiet):
    """Another progress, and something to be done after each of its epochs."""

    def __init__(self, shown: Progress, after: Callable[[], None]) -> None:
        self._shown, self._after = shown, after

    @override
    def start(self, recipe: Recipe, state: TrainState) -> None:
        self._shown.start(recipe, state)

    @override
    def step(self, state: TrainState) -> None:
        self._shown.step(state)

    @override
    def epoch(self, row: dict[str, Any]) -> None:
        self._shown.epoch(row)
        self._after()


class Lines(Quiet):
    """One plain line for each epoch."""

    @override
    def start(self, recipe: Recipe, state: TrainState) -> None:
        self._epochs = recipe.training.epochs

    @override
    def epoch(self, row: dict[str, Any]) -> None:
        print(describe(row, self._epochs), file=sys.stderr, flush=True)


class Bar(Quiet):
    """A live bar with loss, accuracy, samples per second and the time left, and a line for every epoch."""

    @override
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

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @override
    def start(self, recipe: Recipe, state: TrainState) -> None:
        self._epochs = recipe.training.epochs
        done = state.epoch * state.steps + state.position
        self._task = self._bar.add_task(
            "", total=self._epochs * state.steps, completed=done, epoch=f"1/{self._epochs}", figures=""
        )
        self._looked, self._seen = time.perf_counter(), state.seen

    @override
    def step(self, state: TrainState) -> None:
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

    @override
    def epoch(self, row: dict[str, Any]) -> None:
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
