"""`fdfa train`: one training, new or resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    from fdfa_cli.errors import UsageError
    from fdfa_cli.registry import load_plugin
    from fdfa_cli.training import launch

    if tensorboard is not None:
        from fdfa_cli.storage.events import prepare

        prepare(tensorboard)
    for file in plugin or []:
        load_plugin(file)
    options = {"seed": seed, "device": device, "precision": precision, "threads": threads}
    flags = [f"training.{key}={value}" for key, value in options.items() if value is not None]
    again = [part for file in plugin or [] for part in ("--plugin", str(file))]
    if tensorboard is not None:
        again += ["--tensorboard", str(tensorboard)]
    if ignore_limits:
        again.append("--ignore-limits")
    if resume is not None:
        if recipe is not None or overrides:
            raise UsageError("--resume RUN takes the recipe from the run; give neither RECIPE nor KEY=VALUE")
        keys = {flag.partition("=")[0] for flag in flags} - {"training.device", "training.threads"}
        if keys:
            raise UsageError(f"--resume RUN cannot change {', '.join(sorted(keys))}: it would be another run")
        launch.resume(resume, flags, quiet, tensorboard, again, ignore_limits)
    elif recipe is None:
        raise UsageError("give a RECIPE (see `fdfa recipe list`), or --resume RUN")
    else:
        given = [*(overrides or []), *flags]
        launch.start(recipe, given, results, quiet, tensorboard, again, ignore_limits)
