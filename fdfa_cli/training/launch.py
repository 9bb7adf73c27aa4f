"""Starting and resuming one training: recipe to run folder, with signals turned into a stop."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fdfa_cli.data import data_root
from fdfa_cli.document.load import Document, load
from fdfa_cli.errors import DiskFull, Interrupted, OutputLost, ReaderGone, RunDamaged, UsageError
from fdfa_cli.recipe.outline import by_name, registry_of
from fdfa_cli.recipe.overrides import apply
from fdfa_cli.recipe.resolve import Resolved, read, resolve
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import dump, facts, identity
from fdfa_cli.signals import Stop, stopping
from fdfa_cli.storage import Run, events
from fdfa_cli.storage.fields import shown
from fdfa_cli.storage.provenance import plugins_of, quote
from fdfa_cli.storage.run import FILES, is_folder, remove_abandoned
from fdfa_cli.training import preflight
from fdfa_cli.training.device import environment_of
from fdfa_cli.training.loop import fit
from fdfa_cli.training.progress import Then, for_terminal


def start(
    name: str,
    overrides: Sequence[str],
    results: Path,
    quiet: bool = False,
    tensorboard: Path | None = None,
    again: Sequence[str] = (),
    ignore_limits: bool = False,
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
    preflight.require([recipe], data_root(), results, ignore=ignore_limits)
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
    ignore_limits: bool = False,
) -> None:
    """Continue the run at `path` from its last checkpoint, and print `path`; a completed one stays as it is.

    `overrides` may only change where and how fast it computes (device, threads). Raises `UsageError` where
    `path` is no run, or one by a plugin that is not loaded, and `RunDamaged` where the stored recipe is not
    the one that was started. For the rest see `start`.
    """
    _require_run(path)
    stored = Run.open(path)
    document = apply(load(path / "recipe.yaml"), overrides)
    _require_plugins(stored, document)
    recipe = resolve(document).recipe
    if stored.status == "completed":
        print(f"{path}: completed already, nothing to resume", file=sys.stderr)
        _print_folder(path)
        return
    _check_same(stored, recipe, again)
    recipe = _on_threads_of(stored, recipe)
    environment = environment_of(recipe)
    preflight.require([recipe], data_root(), path, ignore=ignore_limits)
    run = Run.resume(path, sys.argv, environment)
    with _told(path, again), run:
        run.update("running")
        _train(recipe, run, quiet, True, tensorboard)


def _require_run(path: Path) -> None:
    """Raise `UsageError` where `path` is a folder with nothing of a run in it."""
    if not is_folder(path) or any((path / name).exists() for name in FILES):
        return
    inside = sorted(file.parent for file in path.glob("*/run.json"))
    hint = f"; the last of the runs in it is {inside[-1]}" if inside else ""
    raise UsageError(f"{path}: not the folder of a run{hint}")


def _require_plugins(stored: Run, document: Document) -> None:
    """Raise `UsageError` where the recipe of a run names what its plugin registers, which is not loaded."""
    plugins = plugins_of(stored.record.provenance)
    for section, field in Recipe.model_fields.items():
        registry, chosen = registry_of(field), by_name(field, document.tree.get(section))
        name = chosen.get("name") if isinstance(chosen, dict) else None
        if plugins and registry is not None and isinstance(name, str) and name not in registry:
            options = " ".join(f"--plugin {quote(plugin)}" for plugin in plugins)
            raise UsageError(
                f"{stored.path}: {registry.kind} {name!r} is not registered; the run was started with "
                f"{options}: give that again"
            )


def _check_same(stored: Run, recipe: Recipe, options: Sequence[str]) -> None:
    """Raise `RunDamaged` where `recipe` computes something else than what `stored` was started with."""
    started, now = stored.record.facts["identity"], identity(recipe)
    if now != started:
        file = stored.path / "recipe.yaml"
        again = shlex.join(["fdfa", "train", str(file), *options])
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


@contextmanager
def _told(path: Path, again: Sequence[str]) -> Iterator[None]:
    """Prints the folder of a run however it ends, and tells how to go on with one that was interrupted."""
    try:
        yield
    except (Interrupted, DiskFull) as error:
        when = "to go on" if isinstance(error, Interrupted) else "to go on, once there is room"
        command = shlex.join(["fdfa", "train", "--resume", str(path), *again])
        raise type(error)(f"{error}; {when}: {command}") from error
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
    """Gives what brings `folder` up to what is stored of `run`; done once more, however the run ends.

    The training does not end for a folder that cannot be written to: that is said once.
    """
    if folder is None:
        yield lambda: None
        return
    said = False

    def export() -> None:
        nonlocal said
        try:
            events.export(run, folder)
        except (UsageError, DiskFull) as error:
            if not said:
                command = shlex.join(["fdfa", "report", str(run.path), "--tensorboard", str(folder)])
                print(f"{error}; the training goes on, and later: {command}", file=sys.stderr)
            said = True

    export()
    try:
        yield export
    finally:
        export()


def _say_recommended(resolved: Resolved, quiet: bool) -> None:
    if resolved.recommended and not quiet:
        values = ", ".join(f"{key}={value}" for key, value in resolved.recommended.items())
        print(f"rule {resolved.recipe.rule.name} recommends {values}", file=sys.stderr)
