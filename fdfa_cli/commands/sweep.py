"""`fdfa sweep`: many trainings over a space of configurations and seeds."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fdfa_cli.commands.train import IgnoreLimitsOption, OverridesArgument, PluginOption
from fdfa_cli.trials.engine_name import EngineName

if TYPE_CHECKING:
    from fdfa_cli.sweeps.result import SweepResult
    from fdfa_cli.trials.engines.options import EngineOptions
    from fdfa_cli.trials.runner import Execution


EngineOption = Annotated[
    EngineName,
    typer.Option(
        metavar="ENGINE",  # the list would be broken inside a name; the help has it
        help="serial: one trial after the other; batched: many trials as one computation; processes: several "
        "at a time; ray: on a cluster; auto: batched for small networks, else processes.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Ray cluster to join; auto: the one of this machine.",
        show_default="start one on this machine",
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Trials to train at a time; for batched, the most in one computation.",
        show_default="one for each GPU, else cores / training.threads",
    ),
]
FailFastOption = Annotated[
    bool, typer.Option("--fail-fast", help="Stop at the first trial that fails or diverges.")
]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Continue trials that failed earlier.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the trials, train nothing.")]


def sweep(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe with a section sweep.")],
    overrides: OverridesArgument = None,
    engine: EngineOption = EngineName.auto,
    jobs: JobsOption = None,
    address: AddressOption = None,
    fail_fast: FailFastOption = False,
    retry_failed: RetryOption = False,
    dry_run: DryRunOption = False,
    results: Annotated[Path, typer.Option(help="Where the sweep's folder goes.")] = Path("results"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress but failures.")] = False,
    ignore_limits: IgnoreLimitsOption = False,
    plugin: PluginOption = None,
) -> None:
    """Train every trial of RECIPE's section sweep, and show the configurations, best first.

    What is stored already is not trained again: after an interruption, start the same command again. The
    last line on stdout is the sweep's folder. Exit code 1 when any trial failed or diverged.
    """
    from fdfa_cli.document.load import load
    from fdfa_cli.recipe.overrides import apply, check_read
    from fdfa_cli.recipe.shipped import find
    from fdfa_cli.registry import load_plugin
    from fdfa_cli.sweeps.plan import plan_sweep
    from fdfa_cli.sweeps.run import run, stored
    from fdfa_cli.trials.engines.options import EngineOptions

    for file in plugin or []:
        load_plugin(file)
    given, file = list(overrides or []), find(recipe)
    document = apply(load(file), given)
    check_read(document, "sweep")
    plan = plan_sweep(document, file.stem)
    options = EngineOptions(engine, jobs, plugin or [], address, ignore_limits=ignore_limits)
    if dry_run:
        known = stored(plan, results)
        _print_trials(known)
        typer.echo(known.folder)
        return
    with execution(options, quiet, fail_fast, retry_failed) as chosen:
        result = run(plan, results, chosen)
    _print_result(result, recipe, given, plugin or [])
    typer.echo(result.folder)
    end(result.statuses)


@contextmanager
def execution(engine: EngineOptions, quiet: bool, fail_fast: bool, retry_failed: bool) -> Iterator[Execution]:
    """How this command line trains its trials: it shows them on stderr, and a signal stops it."""
    from fdfa_cli.signals import stopping
    from fdfa_cli.trials.progress import for_terminal
    from fdfa_cli.trials.runner import Execution

    if quiet:
        logging.getLogger("fdfa_cli").setLevel(logging.WARNING)
    with stopping() as stop:
        yield Execution(engine, for_terminal(quiet), stop, fail_fast, retry_failed, tuple(sys.argv))


def end(statuses: Counter[str]) -> None:
    """End the command with exit code 1 where a trial failed or diverged; says what becomes of failed ones."""
    from fdfa_cli.printable import counted

    if failed := statuses["failed"]:
        again = "it trains" if failed == 1 else "they train"
        typer.echo(f"{counted(failed, 'trial')} failed; with --retry-failed {again} again", err=True)
    if failed or statuses["diverged"]:
        raise typer.Exit(1)


def _print_trials(result: SweepResult) -> None:
    from fdfa_cli.printable import counted
    from fdfa_cli.recipe.write import plain
    from fdfa_cli.report.console import show
    from fdfa_cli.tables import Column, Table

    keys = list(result.plan.sweep.parameters)
    titles = ["trial", *keys, "seed", "identity", "status"]
    rows: list[tuple[str, ...]] = []
    for ranked in sorted(result.ranking, key=lambda ranked: ranked.configuration.number):
        values = [plain(ranked.configuration.overrides[key]) for key in keys]
        for trial, run in zip(ranked.configuration.trials, ranked.results, strict=True):
            status = "new" if run is None else run.status
            rows.append((str(len(rows) + 1), *values, str(trial.seed), trial.identity, status))
    left = result.plan.left
    more = f"{counted(left, 'more configuration')} will be suggested from the results of those before"
    notes = [more] if left else []
    show(Table(tuple(Column(title, title) for title in titles), tuple(rows), tuple(notes)))


def _print_result(result: SweepResult, recipe: str, given: list[str], plugins: list[Path]) -> None:
    from fdfa_cli.recipe.write import command
    from fdfa_cli.report.console import show
    from fdfa_cli.sweeps.table import table

    show(table(result))
    best = result.winner
    if best is None:
        typer.echo("\nno winner: no configuration was completed for all of its seeds")
        return
    accuracy = best.test_accuracy
    score = "no test set" if accuracy is None else f"test accuracy {accuracy} (n={accuracy.n})"
    typer.echo(f"\nwinner: #{best.configuration.number}, {score}")
    typer.echo(command(recipe, best.configuration.overrides, given, plugins))
