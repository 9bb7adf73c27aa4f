"""`fdfa sweep`: many trainings over a space of configurations and seeds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fdfa_cli.commands.train import IgnoreLimitsOption, OverridesArgument, PluginOption
from fdfa_cli.recipe.write import command
from fdfa_cli.trials.engine_name import EngineName

if TYPE_CHECKING:
    from fdfa_cli.sweeps.plan import Plan
    from fdfa_cli.trials.store import Store


EngineOption = Annotated[
    EngineName,
    typer.Option(
        metavar="ENGINE",  # the list would be broken inside a name; the help has it
        help="serial: one after the other in this process; batched: stacked, as one computation; "
        "processes: several at a time; ray: on a cluster. auto: batched for small networks, else processes.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Ray cluster to join, or auto for that of this machine.",
        show_default="one is started here",
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Trials that train at a time; for batched, in one stack at most.",
        show_default="one a GPU, or cores / training.threads",
    ),
]
FailFastOption = Annotated[
    bool, typer.Option("--fail-fast", help="Stop at the first trial that fails or diverges.")
]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Go on with trials that failed.")]
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    ignore_limits: IgnoreLimitsOption = False,
    plugin: PluginOption = None,
) -> None:
    """Train every trial of RECIPE's section sweep, then show its configurations, best first.

    What is stored already is not trained again: after an interruption, start the same command again. The
    last line on stdout is the sweep's folder. Exit code 1 when any trial failed or diverged.
    """
    from fdfa_cli.document.load import load
    from fdfa_cli.recipe.library import find
    from fdfa_cli.recipe.overrides import apply
    from fdfa_cli.registry import load_plugin
    from fdfa_cli.sweeps.plan import plan as make_plan
    from fdfa_cli.sweeps.run import known, run
    from fdfa_cli.trials.engines.options import EngineOptions
    from fdfa_cli.trials.runner import Runner, folder_of
    from fdfa_cli.trials.store import Store, open_store

    for file in plugin or []:
        load_plugin(file)
    given = list(overrides or [])
    file = find(recipe)
    plan = make_plan(apply(load(file), given))
    chooser = EngineOptions(engine, jobs, plugin or [], address, plan.sweep.learns, ignore_limits)
    folder = folder_of(plan.base, file.stem, "sweep", results)
    if dry_run:
        store = Store(folder)
        _print_trials(known(plan, store), store)
        typer.echo(folder)
        return
    with open_store(folder, retry_failed) as store:
        for error in store.damaged:
            typer.echo(f"cannot be read, so trained again: {error}", err=True)
        plan = run(plan, Runner(store, chooser, fail_fast, quiet))
        ends = _finish(plan, store, recipe, given, plugin or [])
    say_failed(ends["failed"])
    typer.echo(folder)
    if ends["failed"] or ends["diverged"]:
        raise typer.Exit(1)


def say_failed(count: int) -> None:
    """Say on stderr that `count` trials failed, which the same command leaves out."""
    if count:
        trials = "1 trial failed, and is" if count == 1 else f"{count} trials failed, and are"
        typer.echo(f"{trials} not trained again without --retry-failed", err=True)


def _print_trials(plan: Plan, store: Store) -> None:
    from fdfa_cli.recipe.write import plain
    from fdfa_cli.report.console import show
    from fdfa_cli.tables import Column, Table

    keys = list(plan.sweep.parameters)
    titles = ["trial", *keys, "seed", "identity", "status"]
    pairs = [(c, trial) for c in plan.configurations for trial in c.trials]
    rows = []
    for number, (configuration, trial) in enumerate(pairs, start=1):
        result = store.get(trial)
        values = (plain(configuration.overrides[key]) for key in keys)
        status = result.status if result else "new"
        rows.append((str(number), *values, str(trial.seed), trial.identity, status))
    notes = []
    if plan.left:
        notes.append(f"and {plan.left} more, suggested in rounds from the results of those before")
    show(Table(tuple(Column(title, title) for title in titles), tuple(rows), tuple(notes)))


def _finish(plan: Plan, store: Store, recipe: str, given: list[str], plugins: list[Path]) -> Counter[str]:
    """Print and store what was found; returns how many trials ended how."""
    from fdfa_cli.recipe.write import dump
    from fdfa_cli.report.console import show
    from fdfa_cli.storage import atomic_write
    from fdfa_cli.storage.files import dump_json
    from fdfa_cli.sweeps import table

    standings = table.standings(plan, store)
    whole = plan.base.model_copy(update={"sweep": plan.sweep})
    atomic_write(store.folder / "sweep.yaml", dump(whole).encode())
    atomic_write(store.folder / "sweep.json", dump_json(table.stored(plan, store, standings), 2) + b"\n")
    show(table.table(plan, standings))
    best = table.winner(standings)
    if best is None:
        typer.echo("\nno winner: no configuration was completed for all of its seeds")
    else:
        score = table.test_accuracy(best, store)
        told = "no test set" if score is None else f"test accuracy {score} (n={score.n})"
        typer.echo(f"\nwinner: #{best.configuration.number}, {told}")
        typer.echo(command(recipe, best.configuration.overrides, given, plugins))
    return sum((s.statuses for s in standings), Counter[str]())
