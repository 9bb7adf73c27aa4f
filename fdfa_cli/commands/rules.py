"""`fdfa rules`: the registry of learning rules."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from fdfa_cli.commands.train import PluginOption


class RulesFormat(StrEnum):
    """How to print the list."""

    table = "table"
    json = "json"
    markdown = "markdown"


def rules(
    name: Annotated[
        str | None,
        typer.Argument(metavar="RULE", help="One rule: its equations and options.", show_default=False),
    ] = None,
    format: Annotated[
        RulesFormat, typer.Option(help="table, json, or the page docs/rules.md")
    ] = RulesFormat.table,
    plugin: PluginOption = None,
) -> None:
    """The learning rules: what each does, which layers are exact, its cost and source; or one, explained."""
    from fdfa_cli.registry import load_plugin
    from fdfa_cli.report.console import show_texts
    from fdfa_cli.rules.base import RULES

    for file in plugin or []:
        load_plugin(file)
    chosen = RULES.models() if name is None else {name: RULES.get(name)}
    if format is RulesFormat.markdown or (name is not None and format is RulesFormat.table):
        from fdfa_cli.report.rules_page import rule_page, rules_page

        typer.echo(rules_page() if name is None else rule_page(name), nl=False)
        return
    rows = [
        {
            "name": known,
            "summary": rule.summary(),
            "exact": rule.exact,
            "passes": rule.passes,
            "source": rule.source,
        }
        for known, rule in chosen.items()
    ]
    if format is RulesFormat.json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    titles = ("rule", "what it does", "exact layers", "passes", "source")
    show_texts(titles, ([*row.values()] for row in rows))
