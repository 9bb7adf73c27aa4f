"""`fdfa data`: which data sets there are, and fetching them."""

from __future__ import annotations

from typing import Annotated

import typer

data_app = typer.Typer(help="Data sets: what is on disk, and fetching what is not.", no_args_is_help=True)


@data_app.command("list")
def list_sets() -> None:
    """List every data set: whether it is on disk, and where."""
    from rich.console import Console
    from rich.table import Table

    from fdfa_cli.data import data_root, status

    root = data_root()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("data set", "on disk", "MB", "where", "what it is"):
        table.add_column(title, overflow="fold", justify="right" if title == "MB" else "left")
    for row in status(root):
        size = f"{row.bytes / 1e6:.0f}" if row.bytes else ""
        table.add_row(row.name, row.state, size, str(row.location or ""), row.summary)
    Console(markup=False, highlight=False).print(table)


@data_app.command()
def fetch(name: Annotated[str, typer.Argument(help="e.g. mnist")]) -> None:
    """Download a data set into the data folder (FDFA_DATA, default ~/.cache/fdfa)."""
    from fdfa_cli.data import data_root
    from fdfa_cli.registry import DATA

    root = data_root()
    chosen = DATA.get(name)
    chosen.fetch(root)
    now = chosen.status(root)
    typer.echo(f"{name}: {now.state}" + (f" in {now.location}" if now.location else ""))
