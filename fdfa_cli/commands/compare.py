"""`fdfa compare`: the same task under several learning rules."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fdfa_cli.commands.report import ReportFormat
from fdfa_cli.commands.sweep import (
    AddressOption,
    DryRunOption,
    FailFastOption,
    JobsOption,
    RetryOption,
    end,
    execution,
)
from fdfa_cli.commands.train import IgnoreLimitsOption, PluginOption
from fdfa_cli.trials.engine_name import EngineName

if TYPE_CHECKING:
    from fdfa_cli.comparisons.plan import ComparisonPlan
    from fdfa_cli.comparisons.result import ComparisonResult

#: Trainings a rule that tuning takes where nothing else is said.
BUDGET = 8


def compare(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE... [KEY=VALUE]...",
            help="Recipes to compare rules on; overrides are for all.",
        ),
    ],
    rules: Annotated[
        str | None, typer.Option(help="Learning rules to compare, as in bp,dfa,fdfa, or all")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each rule; their seeds count up from training.seed.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Rule that the others are compared with.", show_default="the first rule"),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="First choose the rates of each rule by its validation accuracy.")
    ] = False,
    budget: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Trainings of each rule for --tune.", show_default=str(BUDGET)),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Count the epochs until this validation accuracy.",
            show_default="95 % of the baseline's best",
        ),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="As for `fdfa sweep`, but auto is serial: times are compared only of runs that train "
            "one after the other."
        ),
    ] = EngineName.auto,
    jobs: JobsOption = None,
    address: AddressOption = None,
    fail_fast: FailFastOption = False,
    retry_failed: RetryOption = False,
    dry_run: DryRunOption = False,
    format: Annotated[
        ReportFormat, typer.Option(help="json and csv hold all figures, with accuracies as fractions of 1.")
    ] = ReportFormat.table,
    results: Annotated[Path, typer.Option(help="Where the comparison's folders go.")] = Path("results"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress but failures.")] = False,
    ignore_limits: IgnoreLimitsOption = False,
    plugin: PluginOption = None,
) -> None:
    """Train RECIPE under several rules with the same seeds, and show how the rules compare.

    What is stored already is not trained again: after an interruption, start the same command again. Several
    recipes are several tasks: each has a table, and one more is across all of them. The last line on stdout
    is the folder of the last task. Exit code 1 when any run failed or diverged.
    """
    from fdfa_cli.comparisons.run import run
    from fdfa_cli.errors import UsageError
    from fdfa_cli.registry import load_plugin
    from fdfa_cli.trials.engines.options import EngineOptions

    for file in plugin or []:
        load_plugin(file)
    if budget is not None and not tune:
        raise UsageError("--budget is for --tune, which is not given")
    trainings = (budget or BUDGET) if tune else None
    plans = _plans(recipes, rules, seeds, baseline)
    options = EngineOptions(engine, jobs, plugin or [], address, ignore_limits=ignore_limits)
    if dry_run:
        _print_trials(plans, trainings)
        return
    with execution(options, quiet, fail_fast, retry_failed) as chosen:
        found = [run(plan, results, chosen, target, trainings) for plan in plans]
    _print_results(found, format)
    for result in found:
        typer.echo(result.folder, err=format is not ReportFormat.table)
    end(sum((result.statuses for result in found), Counter[str]()))


def _plans(
    recipes: list[str], rules: str | None, seeds: int | None, baseline: str | None
) -> list[ComparisonPlan]:
    """What to compare on each recipe; the options lie over its section."""
    from fdfa_cli.comparisons.plan import plan_comparison
    from fdfa_cli.document.load import Place, load
    from fdfa_cli.errors import UsageError
    from fdfa_cli.recipe.overrides import apply, change, check_read
    from fdfa_cli.recipe.shipped import find, split

    names, overrides = split(recipes)
    if not names:
        raise UsageError("give a RECIPE (see `fdfa recipe list`)")
    options: dict[str, Any] = {
        "rules": rules if rules in (None, "all") else [rule.strip() for rule in rules.split(",")],
        "seeds": seeds,
        "baseline": baseline,
    }
    plans = []
    for name in names:
        file = find(name)
        document = apply(load(file), overrides)
        check_read(document, "compare")
        for key, value in options.items():
            if value is not None and (rules is not None or document.tree.get("compare") is not None):
                document = change(document, ("compare", key), value, Place(f"--{key}"))
        plans.append(plan_comparison(document, name))
    if len(baselines := sorted({plan.baseline for plan in plans})) > 1:
        raise UsageError(f"different baselines ({', '.join(baselines)}): give one --baseline")
    return plans


def _print_trials(plans: list[ComparisonPlan], budget: int | None) -> None:
    """What would be trained; with a `budget` the trials that tune each rule, whose choice is open."""
    from fdfa_cli.comparisons.tuning import candidates
    from fdfa_cli.report.console import show
    from fdfa_cli.tables import Column, Table
    from fdfa_cli.trials.progress import label

    rows = []
    for plan in plans:
        for rule, compared in plan.configurations.items():
            known = [compared] if budget is None else candidates(plan, rule, budget)
            rows += [
                (plan.name, rule, label(configuration.overrides), str(trial.seed), trial.identity)
                for configuration in known
                for trial in configuration.trials
            ]
            if budget is not None:
                rows += [(plan.name, rule, "as tuned", str(seed), "") for seed in plan.seeds]
    titles = ("task", "rule", "overrides", "seed", "identity")
    show(Table(tuple(Column(title, title) for title in titles), tuple(rows)))


def _print_results(results: list[ComparisonResult], format: ReportFormat) -> None:
    from fdfa_cli.comparisons import table
    from fdfa_cli.printable import printable
    from fdfa_cli.report import export
    from fdfa_cli.report.console import show

    if format in (ReportFormat.json, ReportFormat.csv):
        write = export.to_json if format is ReportFormat.json else export.to_csv
        sys.stdout.write(write(table.for_programs(results)))
        return
    parts = [(result.plan.name, *table.for_people(result)) for result in results]
    if len(results) > 1:
        parts.append(("all tasks", "", table.across(results)))
    for name, line, content in parts:
        heading = f"{name}: {line}" if line else name
        if format is ReportFormat.table:
            typer.echo(printable(heading))
            show(content)
            typer.echo()
        elif format is ReportFormat.markdown:
            sys.stdout.write(f"{printable(heading)}\n\n{export.to_markdown(content)}\n")
        else:
            sys.stdout.write(f"% {printable(heading)}\n{export.to_latex(content)}\n")
