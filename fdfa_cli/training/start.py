"""Starting one training, new or resumed, once everything that it needs is known to be there."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from fdfa_cli.data import data_root
from fdfa_cli.document.load import Document, load
from fdfa_cli.errors import RunDamaged, UsageError
from fdfa_cli.recipe.overrides import apply
from fdfa_cli.recipe.resolve import resolve
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.schema_walk import by_name, registry_of
from fdfa_cli.recipe.write import identity
from fdfa_cli.storage import RunFolder
from fdfa_cli.storage.fields import shown
from fdfa_cli.storage.provenance import plugins_of, quote
from fdfa_cli.storage.run import FILES, is_folder, remove_abandoned
from fdfa_cli.training import preflight
from fdfa_cli.training.training_run import TrainingRun

log = logging.getLogger(__name__)


def new(recipe: Recipe, results: Path, command: Sequence[str], ignore_limits: bool = False) -> TrainingRun:
    """A training of `recipe` in a new run folder of `results`.

    `command` is stored as where it came from. With `ignore_limits`, memory and disk that seem too small are
    no reason to stop. Raises `UsageError` and its kinds before anything is written.
    """
    recipe.data.require(data_root())
    preflight.require([recipe], data_root(), results, ignore=ignore_limits)
    remove_abandoned(results)
    return TrainingRun.new(recipe, results, command)


def resumed(
    path: Path, overrides: Sequence[str], command: Sequence[str], ignore_limits: bool = False
) -> TrainingRun | None:
    """The training whose run folder is `path`, to go on from its last checkpoint; None where it is completed.

    `overrides` may only change where and how fast it computes (device, threads). Raises `UsageError` where
    `path` is no run, or one by a plugin that is not loaded, and `RunDamaged` where the stored recipe is not
    the one that was started. For the rest see `new`.
    """
    _require_run(path)
    stored = RunFolder.open(path)
    document = apply(load(path / "recipe.yaml"), overrides)
    _require_plugins(stored, document)
    recipe = resolve(document).recipe
    if stored.status == "completed":
        return None
    _check_same(stored, recipe)
    recipe = _on_threads_of(stored, recipe)
    recipe.data.require(data_root())
    preflight.require([recipe], data_root(), path, ignore=ignore_limits)
    return TrainingRun.resume(recipe, path, command)


def _require_run(path: Path) -> None:
    """Raise `UsageError` where `path` is a folder with nothing of a run in it."""
    if not is_folder(path) or any((path / name).exists() for name in FILES):
        return
    inside = sorted(file.parent for file in path.glob("*/run.json"))
    hint = f"; the last of the runs in it is {inside[-1]}" if inside else ""
    raise UsageError(f"{path}: not the folder of a run{hint}")


def _require_plugins(stored: RunFolder, document: Document) -> None:
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


def _check_same(stored: RunFolder, recipe: Recipe) -> None:
    """Raise `RunDamaged` where `recipe` computes something else than what `stored` was started with."""
    started, now = stored.record.facts["identity"], identity(recipe)
    if now != started:
        file = stored.path / "recipe.yaml"
        again = shlex.join(["fdfa", "train", str(file)])
        raise RunDamaged(
            f"{file}: the recipe is not the one that was started: its identity is {now}, and run.json says "
            f"{shown(started)}; undo the change, or train it as a new run: {again}"
        )


def _on_threads_of(stored: RunFolder, recipe: Recipe) -> Recipe:
    """`recipe` on as many threads as the run was trained on so far, on whose number the last digits depend.

    Where that is not possible, or another number is asked for, a warning says so.
    """
    from fdfa_cli.lazy import torch

    before = stored.record.provenance[-1].get("threads") if stored.record.provenance else None
    wanted = recipe.training.threads
    if before is None or before == wanted:
        return recipe
    if wanted is None and 0 < before <= max(os.cpu_count() or 1, torch.get_num_threads()):
        training = recipe.training.model_copy(update={"threads": before})
        return recipe.model_copy(update={"training": training})
    log.warning(
        "%s: trained on %s threads so far, now on %s: the digits will not be those of a training without the "
        "interruption",
        stored.path,
        before,
        wanted or torch.get_num_threads(),
    )
    return recipe
