"""Starting and resuming one training: recipe to run folder, with signals turned into a stop."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fdfa_cli.data import data_root
from fdfa_cli.errors import Interrupted, OutputLost, ReaderGone, RunDamaged
from fdfa_cli.recipe.load import load
from fdfa_cli.recipe.overrides import apply
from fdfa_cli.recipe.resolve import Resolved, read, resolve
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import dump, identity
from fdfa_cli.runs import Run, events
from fdfa_cli.runs.fields import shown
from fdfa_cli.runs.run import remove_abandoned
from fdfa_cli.signals import Stop, stopping
from fdfa_cli.train.device import name, prepare
from fdfa_cli.train.loop import fit
from fdfa_cli.train.progress import Then, for_terminal


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
    remove_abandoned(results)
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

    `overrides` may only change where and how fast it computes (device, threads). Raises `RunDamaged` where
    the stored recipe is not the one that was started. For the rest see `start`.
    """
    stored = Run.open(path)
    recipe = resolve(apply(load(path / "recipe.yaml"), overrides)).recipe
    if stored.status == "completed":
        print(f"{path}: completed already, nothing to resume", file=sys.stderr)
        _print_folder(path)
        return
    _check_same(stored, recipe)
    recipe = _on_threads_of(stored, recipe)
    run = Run.resume(path, sys.argv, environment_of(recipe))
    with _told(path, again), run:
        run.update("running")
        _train(recipe, run, quiet, True, tensorboard)


def _check_same(stored: Run, recipe: Recipe) -> None:
    """Raise `RunDamaged` where `recipe` computes something else than what `stored` was started with."""
    started, now = stored.record.facts["identity"], identity(recipe)
    if now != started:
        file = stored.path / "recipe.yaml"
        again = shlex.join(["fdfa", "train", str(file)])
        raise RunDamaged(
            f"{file}: the recipe is not the one that was started: its identity is {now}, and run.json says "
            f"{shown(started)}; undo the change, or train it as a new run: {again}"
        )


def _on_threads_of(stored: Run, recipe: Recipe) -> Recipe:
    """`recipe` on as many threads as the run was trained on so far, on whose number the last digits depend.

    Where that is not possible, or another number is asked for, it is said.
    """
    from fdfa_cli.lazy import torch

    before = stored.record.provenance[-1].get("threads") if stored.record.provenance else None
    wanted = recipe.training.threads
    if before is None or before == wanted:
        return recipe
    if wanted is None and 0 < before <= max(os.cpu_count() or 1, torch.get_num_threads()):
        training = recipe.training.model_copy(update={"threads": before})
        return recipe.model_copy(update={"training": training})
    print(
        f"{stored.path}: trained on {before} threads so far, now on {wanted or torch.get_num_threads()}: "
        "the digits will not be those of a training without the interruption",
        file=sys.stderr,
    )
    return recipe


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
        _print_folder(path)


def _print_folder(path: Path) -> None:
    """Print `path`. Where that cannot be done, the run has ended no worse for it."""
    try:
        print(path, flush=True)
    except ReaderGone:
        pass  # as after `| head -1`, and the run can be found
    except OutputLost as error:
        print(f"{error}; the run is in {path}", file=sys.stderr)


def _train(recipe: Recipe, run: Run, quiet: bool, resuming: bool, tensorboard: Path | None) -> None:
    with _exporting(run, tensorboard) as export, stopping() as stop, for_terminal(quiet) as progress:
        summary = fit(
            recipe, run, data_root(), Then(progress, export), partial(_asked, stop, quiet), resuming
        )
        run.update("completed", **summary)
    if not quiet:
        accuracy = summary.get("test_accuracy")
        told = "no test set, so no test accuracy" if accuracy is None else f"test accuracy {accuracy:.2%}"
        print(told, file=sys.stderr)


def _asked(stop: Stop, quiet: bool) -> bool:
    """`stop`, with a word where it is true: the checkpoint of a large network takes its time."""
    if stop() and not quiet:
        print("stopping: a checkpoint is being written", file=sys.stderr)
    return stop()


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
    return {"device": name(device), "threads": torch.get_num_threads()}


def _say_recommended(resolved: Resolved, quiet: bool) -> None:
    if resolved.recommended and not quiet:
        values = ", ".join(f"{key}={value}" for key, value in resolved.recommended.items())
        print(f"rule {resolved.recipe.rule.name} recommends {values}", file=sys.stderr)
