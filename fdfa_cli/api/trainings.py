"""Training from Python, and for the command line: a recipe to a stored run."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from fdfa_cli.api.recipes import Source, document, leaves
from fdfa_cli.api.stored import Run
from fdfa_cli.data import data_root
from fdfa_cli.errors import DiskFull, UsageError
from fdfa_cli.recipe.overrides import check_read
from fdfa_cli.recipe.resolve import resolve
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import plain
from fdfa_cli.storage import events
from fdfa_cli.training import start
from fdfa_cli.training.loop import fit, never
from fdfa_cli.training.progress import Then, shown
from fdfa_cli.training.training_run import TrainingRun

log = logging.getLogger(__name__)


def train(
    recipe: Source,
    /,
    *,
    results: str | PathLike[str] = "results",
    progress: bool = True,
    tensorboard: str | PathLike[str] | None = None,
    ignore_limits: bool = False,
    stop: Callable[[], bool] = never,
    started: Callable[[Run], None] | None = None,
    command: Sequence[str] | None = None,
    **overrides: Any,
) -> Run:
    """Train `recipe` under `overrides` (see `load`) once, into a new run folder of `results`.

    Every epoch is shown while it trains, unless `progress` is false, and also written to the folder
    `tensorboard` where one is given. With `ignore_limits`, memory and disk that seem too small are no reason
    to refuse. `stop` is asked after every step; once it is true, the training is checkpointed where it is.
    `started` gets the run as soon as its folder is there. `command` is stored as where the run came from: by
    default the command line that trains the same.

    Raises `UsageError` and its kinds before anything is written; `Diverged`, or `Interrupted` after a `stop`,
    with everything up to then stored.
    """
    if tensorboard is not None:
        events.prepare(Path(tensorboard))
    if command is None:
        command = _command(recipe, overrides)
    given = document(recipe, overrides)
    check_read(given)
    training = start.new(resolve(given).recipe.single(), Path(results), command, ignore_limits)
    return _trained(training, progress, tensorboard, stop, started)


def resume(
    run: Run | str | PathLike[str],
    /,
    *,
    device: str | None = None,
    threads: int | None = None,
    progress: bool = True,
    tensorboard: str | PathLike[str] | None = None,
    ignore_limits: bool = False,
    stop: Callable[[], bool] = never,
    started: Callable[[Run], None] | None = None,
    command: Sequence[str] | None = None,
) -> Run:
    """Continue a run, or the one in that folder, from its last checkpoint; a completed one stays as it is.

    It ends bit for bit as it would have ended without the interruption, on the same kind of processor and on
    as many threads. `device` and `threads` say where and how fast it computes from here on; for the rest, and
    for what is raised, see `train`. Raises `RunDamaged` where the folder does not hold what it should.
    """
    path = run.path if isinstance(run, Run) else Path(run)
    options = {"device": device, "threads": threads}
    changes = [f"training.{key}={value}" for key, value in options.items() if value is not None]
    command = command or ["fdfa", "train", "--resume", str(path)]
    if tensorboard is not None:
        events.prepare(Path(tensorboard))
    training = start.resumed(path, changes, command, ignore_limits)
    if training is None:
        log.info("%s: completed already, nothing to resume", path)
        ended = Run(path)
        if started is not None:
            started(ended)
        return ended
    return _trained(training, progress, tensorboard, stop, started)


def _trained(
    training: TrainingRun,
    progress: bool,
    tensorboard: str | PathLike[str] | None,
    stop: Callable[[], bool],
    started: Callable[[Run], None] | None,
) -> Run:
    path = training.run.path
    with training.run:  # so that what goes wrong before the loop has begun is stored, too
        if started is not None:
            started(Run(path))
        with _exporting(training, tensorboard) as export, shown(progress) as bar:
            fit(training, data_root(), Then(bar, export), stop)
    return Run(path)


def _command(recipe: Source, overrides: Mapping[str, Any]) -> list[str]:
    """The command line that trains the same; where the recipe is no file, from the run's own recipe.yaml."""
    if isinstance(recipe, Recipe | Mapping):
        return ["fdfa", "train", "recipe.yaml"]
    given = [f"{'.'.join(path)}={plain(value)}" for path, value in leaves(overrides)]
    return ["fdfa", "train", str(recipe), *given]


@contextmanager
def _exporting(training: TrainingRun, folder: str | PathLike[str] | None) -> Iterator[Callable[[], None]]:
    """Gives what brings `folder` up to what is stored of the run; done once more, however the training ends.

    The training does not end for a folder that cannot be written to: a warning says so once.
    """
    if folder is None:
        yield lambda: None
        return
    run, target, warned = training.run, Path(folder), False

    def export() -> None:
        nonlocal warned
        try:
            events.export(run, target)
        except (UsageError, DiskFull) as error:
            if not warned:
                later = shlex.join(["fdfa", "report", str(run.path), "--tensorboard", str(target)])
                log.warning("%s; the training goes on, and later: %s", error, later)
            warned = True

    export()
    try:
        yield export
    finally:
        export()
