"""`fdfa rules`: the registry of learning rules."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from fdfa_cli.commands.listing import print_listing
from fdfa_cli.commands.train import PluginOption


class Format(StrEnum):
    """How to print the list."""

    table = "table"
    json = "json"
    markdown = "markdown"


def rules(
    format: Annotated[Format, typer.Option(help="table, json, or the page docs/rules.md")] = Format.table,
    plugin: PluginOption = None,
) -> None:
    """List the learning rules: what each does, which layers are exact, its cost and source."""
    from fdfa_cli.registry import RULES, load_plugin

    for file in plugin or []:
        load_plugin(file)
    if format is Format.markdown:
        from fdfa_cli.report.rules_page import rules_page

        typer.echo(rules_page(), nl=False)
        return
    rows = [
        {
            "name": name,
            "summary": rule.summary(),
            "exact": rule.exact,
            "passes": rule.passes,
            "source": rule.source,
        }
        for name, rule in RULES.models().items()
    ]
    if format is Format.json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    print_listing(
        ("rule", "what it does", "exact layers", "passes", "source"), ([*row.values()] for row in rows)
    )
