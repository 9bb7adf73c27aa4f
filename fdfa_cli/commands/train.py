"""`fdfa train`: one training, new or resumed."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

if TYPE_CHECKING:
    from fdfa_cli.api.stored import Run
    from fdfa_cli.recipe.resolve import Resolved
    from fdfa_cli.signals import Stop

log = logging.getLogger("fdfa_cli")

RecipeArgument = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. rule=dfa training.epochs=3"),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Python file that registers rules, networks or data; repeatable."),
]

IgnoreLimitsOption = Annotated[
    bool,
    typer.Option("--ignore-limits", help="Start even where memory or disk seem too small."),
]


def train(
    recipe: RecipeArgument = None,
    overrides: OverridesArgument = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run from its last checkpoint.", metavar="RUN")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same as training.seed=…")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, mps, cuda or cuda:N")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, tf32 or bf16")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
    results: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("results"),
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write every epoch there for TensorBoard, too.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    ignore_limits: IgnoreLimitsOption = False,
    plugin: PluginOption = None,
) -> None:
    """Train once: RECIPE with KEY=VALUE overrides, or --resume RUN.

    The last line on stdout is the run folder, however the run ends.
    """
    from fdfa_cli.api import trainings
    from fdfa_cli.document.load import load
    from fdfa_cli.errors import UsageError
    from fdfa_cli.recipe.overrides import apply, check_read
    from fdfa_cli.recipe.resolve import resolve
    from fdfa_cli.recipe.shipped import find
    from fdfa_cli.registry import load_plugin
    from fdfa_cli.signals import stopping

    if quiet:
        log.setLevel(logging.WARNING)
    for file in plugin or []:
        load_plugin(file)
    options = {"seed": seed, "precision": precision, "device": device, "threads": threads}
    flags = [f"training.{key}={value}" for key, value in options.items() if value is not None]
    if resume is not None:
        _require_alone(recipe, overrides, {"seed": seed, "precision": precision})
    with _FolderLast(plugin or [], tensorboard, ignore_limits) as last, stopping() as stop:
        if recipe is not None:
            document = apply(load(find(recipe)), [*(overrides or []), *flags])
            check_read(document)
            resolved = resolve(document)
            _log_recommended(resolved)
            run = trainings.train(
                resolved.recipe,
                results=results,
                progress=not quiet,
                tensorboard=tensorboard,
                ignore_limits=ignore_limits,
                stop=partial(_asked, stop),
                started=last.started,
                command=sys.argv,
            )
        elif resume is not None:
            run = trainings.resume(
                resume,
                device=device,
                threads=threads,
                progress=not quiet,
                tensorboard=tensorboard,
                ignore_limits=ignore_limits,
                stop=partial(_asked, stop),
                started=last.started,
                command=sys.argv,
            )
        else:
            raise UsageError("give a RECIPE (see `fdfa recipe list`), or --resume RUN")
        accuracy = run.summary.get("test_accuracy")
        log.info("no test set" if accuracy is None else f"test accuracy {accuracy:.2%}")


def _require_alone(
    recipe: str | None, overrides: Sequence[str] | None, changes: Mapping[str, object]
) -> None:
    """Raise `UsageError` where something is given beside --resume that would make it another run."""
    from fdfa_cli.errors import UsageError

    if recipe is not None or overrides:
        raise UsageError("--resume RUN takes the recipe from the run; give neither RECIPE nor KEY=VALUE")
    if keys := [f"training.{key}" for key, value in sorted(changes.items()) if value is not None]:
        raise UsageError(f"--resume RUN cannot change {', '.join(keys)}: it would be another run")


def _asked(stop: Stop) -> bool:
    """`stop`, with a word where it is true: the checkpoint of a large network takes its time."""
    if stop():
        log.info("stopping: a checkpoint is being written")
    return stop()


def _log_recommended(resolved: Resolved) -> None:
    if resolved.recommended:
        values = ", ".join(f"{key}={value}" for key, value in resolved.recommended.items())
        rule = resolved.recipe.rule.name
        log.info("rule %s sets %s, because the recipe does not", rule, values)


class _FolderLast:
    """Prints the run folder last, however the training ends, and says how to go on with an interrupted one.

    What has been given as `plugins`, `tensorboard` and `ignore_limits` is to be given again.
    """

    def __init__(self, plugins: Sequence[Path], tensorboard: Path | None, ignore_limits: bool) -> None:
        self._again = [part for file in plugins for part in ("--plugin", str(file))]
        self._again += [] if tensorboard is None else ["--tensorboard", str(tensorboard)]
        self._again += ["--ignore-limits"] if ignore_limits else []
        self._path: Path | None = None

    def started(self, run: Run) -> None:
        """Note where the run is stored."""
        self._path = run.path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from fdfa_cli.errors import DiskFull, Interrupted, OutputLost, ReaderGone

        if self._path is None:
            return
        try:
            if isinstance(error, Interrupted | DiskFull):
                when = "to go on" if isinstance(error, Interrupted) else "to go on, once there is room"
                command = shlex.join(["fdfa", "train", "--resume", str(self._path), *self._again])
                raise type(error)(f"{error}; {when}: {command}") from error
        finally:
            try:
                print(self._path, flush=True)
            except ReaderGone:
                pass  # as after `| head -1`, and the run can be found
            except OutputLost as lost:  # the run has ended no worse for it
                log.warning("%s; the run is in %s", lost, self._path)
