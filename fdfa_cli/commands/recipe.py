"""`fdfa recipe`: check recipes, show them resolved, list and copy the shipped ones, export the schema."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fdfa_cli.commands.options import OfRecipes
from fdfa_cli.commands.train import OverridesArgument, PluginOption

recipe_app = typer.Typer(help="Check, show, list and copy recipes.", no_args_is_help=True)


@recipe_app.command(cls=OfRecipes)
def check(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE... [KEY=VALUE]...", help="Recipes, and overrides for all.")
    ],
    plugin: PluginOption = None,
) -> None:
    """Check recipes without running them; every problem of every file is reported."""
    _load(plugin)
    from fdfa_cli.errors import UsageError
    from fdfa_cli.recipe.shipped import split

    recipes, overrides = split(files)
    if not recipes:
        raise UsageError("give a FILE to check")
    failed = False
    for recipe in recipes:
        try:
            _check(recipe, overrides)
        except UsageError as error:
            print(error, file=sys.stderr)
            failed = True
        else:
            print(f"{recipe}: ok")
    if failed:
        raise typer.Exit(2)


@recipe_app.command(cls=OfRecipes)
def show(
    file: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    overrides: OverridesArgument = None,
    plugin: PluginOption = None,
) -> None:
    """Print the complete recipe, every default written out; it can be given back to `fdfa train`."""
    _load(plugin)
    from fdfa_cli.recipe.resolve import read
    from fdfa_cli.recipe.write import dump

    resolved = read(file, overrides or [])
    if resolved.recommended:
        rule = resolved.recipe.rule.name
        values = ", ".join(f"{key}={value}" for key, value in resolved.recommended.items())
        print(f"rule {rule} sets {values}, because the recipe does not", file=sys.stderr)
    print(dump(resolved.recipe), end="")


@recipe_app.command()
def schema(plugin: PluginOption = None) -> None:
    """Print the JSON Schema of recipes, with which editors complete and check them.

    Save it (fdfa recipe schema > fdfa.schema.json) and open a recipe with the line
    `# yaml-language-server: $schema=fdfa.schema.json`.
    """
    _load(plugin)
    import json

    from fdfa_cli.recipe.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@recipe_app.command("list")
def list_recipes() -> None:
    """List the recipes that come with the program."""
    from fdfa_cli.recipe.shipped import shipped_recipes, summary
    from fdfa_cli.report.console import show_texts

    rows = [[name, summary(file)] for name, file in shipped_recipes().items()]
    show_texts(("recipe", "what it is"), rows)


@recipe_app.command()
def copy(
    name: Annotated[str, typer.Argument(help="e.g. mnist/mlp")],
    destination: Annotated[Path, typer.Argument(metavar="[DEST]", help="File or folder.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite DEST.")] = False,
) -> None:
    """Copy a shipped recipe, to edit it."""
    from fdfa_cli.recipe import shipped

    print(shipped.copy(name, destination, force=force))
    print("to have an editor complete and check it, see `fdfa recipe schema --help`", file=sys.stderr)


def _check(recipe: str, overrides: list[str]) -> None:
    """Raise what is wrong with a recipe, with any trial of its sweep, or with any rule it compares."""
    from fdfa_cli.comparisons.plan import plan_comparison
    from fdfa_cli.document.load import load
    from fdfa_cli.recipe.overrides import apply
    from fdfa_cli.recipe.resolve import resolve
    from fdfa_cli.recipe.shipped import find
    from fdfa_cli.sweeps.plan import plan_sweep
    from fdfa_cli.training.preflight import require_possible

    document = apply(load(find(recipe)), overrides)
    checked = resolve(document).recipe
    require_possible(checked)
    if checked.sweep is not None:
        plan_sweep(document)
    if checked.compare is not None:
        plan_comparison(document, recipe)


def _load(plugins: list[Path] | None) -> None:
    """Register what the user's files hold, before the schema collects the registries."""
    from fdfa_cli.registry import load_plugin

    for file in plugins or []:
        load_plugin(file)
