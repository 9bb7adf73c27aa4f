"""Starting and resuming one training: recipe to run folder, with signals turned into a stop."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fdfa_cli.data import data_root
from fdfa_cli.errors import Interrupted
from fdfa_cli.recipe.load import load
from fdfa_cli.recipe.overrides import apply
from fdfa_cli.recipe.resolve import Resolved, read, resolve
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import dump, identity
from fdfa_cli.runs import Run, events
from fdfa_cli.train.device import prepare
from fdfa_cli.train.loop import fit
from fdfa_cli.train.progress import Then, for_terminal

#: Seconds after a signal in which another one is taken for the same.
ECHO = 1.0


def start(
    name: str,
    overrides: Sequence[str],
    results: Path,
    quiet: bool = False,
    tensorboard: Path | None = None,
    again: Sequence[str] = (),
) -> None:
    """Train the recipe `name` under `overrides` in a new run folder of `results`, and print that.

    Every epoch also goes to the folder `tensorboard`, where one is given. To go on with it after an
    interruption takes the options `again`.
    Raises `RecipeError` and the other usage errors before anything is written, `Diverged` and
    `Interrupted` with everything up to then stored.
    """
    resolved = read(name, overrides)
    _say_recommended(resolved, quiet)
    recipe = resolved.recipe.single()
    recipe.data.require(data_root())
    environment = environment_of(recipe)
    run = Run.create(results, dump(recipe), facts(recipe), sys.argv, environment)
    with _told(run.path, again), run:
        _train(recipe, run, quiet, False, tensorboard)


def resume(
    path: Path,
    overrides: Sequence[str],
    quiet: bool = False,
    tensorboard: Path | None = None,
    again: Sequence[str] = (),
) -> None:
    """Continue the run at `path` from its last checkpoint, and print `path`; a completed one stays as it is.

    `overrides` may only change where and how fast it computes (device, threads). For the rest see `start`.
    """
    stored = Run.open(path)
    recipe = resolve(apply(load(path / "recipe.yaml"), overrides)).recipe
    if stored.status == "completed":
        print(f"{path}: completed already, nothing to resume", file=sys.stderr)
        print(path)
        return
    run = Run.resume(path, sys.argv, environment_of(recipe))
    with _told(path, again), run:
        run.update("running")
        _train(recipe, run, quiet, True, tensorboard)


def facts(recipe: Recipe) -> dict[str, Any]:
    """What a table says of a run without opening its recipe."""
    return {
        "data": recipe.data.name,
        "network": recipe.network.name,
        "rule": recipe.rule.name,
        "seed": recipe.training.seed,
        "identity": identity(recipe),
    }


@contextmanager
def _told(path: Path, again: Sequence[str]) -> Iterator[None]:
    """Prints the folder of a run however it ends, and tells how to go on with one that was interrupted."""
    try:
        yield
    except Interrupted as error:
        command = shlex.join(["fdfa", "train", "--resume", str(path), *again])
        raise Interrupted(f"{error}; to go on: {command}") from error
    finally:
        print(path)


def _train(recipe: Recipe, run: Run, quiet: bool, resuming: bool, tensorboard: Path | None) -> None:
    with _exporting(run, tensorboard) as export, stopping() as stop, for_terminal(quiet) as progress:
        summary = fit(recipe, run, data_root(), Then(progress, export), stop, resuming)
        run.update("completed", **summary)
    if not quiet:
        accuracy = summary.get("test_accuracy")
        told = "no test set, so no test accuracy" if accuracy is None else f"test accuracy {accuracy:.2%}"
        print(told, file=sys.stderr)


@contextmanager
def _exporting(run: Run, folder: Path | None) -> Iterator[Callable[[], None]]:
    """Gives what brings `folder` up to what is stored of `run`; done once more, however the run ends."""
    if folder is None:
        yield lambda: None
        return
    export = partial(events.export, run, folder)
    export()
    try:
        yield export
    finally:
        export()


def environment_of(recipe: Recipe) -> dict[str, Any]:
    """Where this process will compute; raises `UsageError` where the device is not there."""
    from fdfa_cli.lazy import torch

    device = prepare(recipe.training)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "threads": torch.get_num_threads()}


def _say_recommended(resolved: Resolved, quiet: bool) -> None:
    if resolved.recommended and not quiet:
        values = ", ".join(f"{key}={value}" for key, value in resolved.recommended.items())
        print(f"rule {resolved.recipe.rule.name} recommends {values}", file=sys.stderr)


@contextmanager
def stopping(
    numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
) -> Iterator[Callable[[], bool]]:
    """Turns the first of the signals into a stop after the current step; a later one is not waited for.

    One that follows at once is the same stop again: `timeout` and batch systems signal a process and then
    its group, and a sweep's driver its workers.
    """
    received: list[float] = []

    def receive(number: int, frame: Any) -> None:
        if received and time.monotonic() - received[0] > ECHO:
            raise Interrupted("interrupted twice: stopped without a checkpoint of this moment")
        received.append(time.monotonic())

    previous = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
