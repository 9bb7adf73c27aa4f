"""`fdfa data`: which data sets there are, and fetching them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fdfa_cli.data import Status

data_app = typer.Typer(help="Data sets: what is on disk, and fetching what is not.", no_args_is_help=True)


@data_app.command("list")
def list_sets() -> None:
    """List every data set: whether it is on disk, and where; then what is kept of image folders."""
    from fdfa_cli.data import data_root, status
    from fdfa_cli.data.decoded import kept
    from fdfa_cli.errors import UsageError
    from fdfa_cli.report.console import show_texts

    def cells(row: Status) -> list[str]:
        size = f"{row.bytes / 1e6:.0f}" if row.bytes else ""
        return [row.name, row.state, size, str(row.location or ""), row.summary]

    titles = ("data set", "on disk", "MB", "where", "what it is")
    show_texts(titles, map(cells, status(data_root())), numbers=["MB"])
    try:
        decoded = kept(data_root())
    except UsageError:  # as its row says: unreadable
        decoded = []
    if decoded:
        typer.echo("\nImages that are kept decoded; a file that you delete is made again when it is needed:")
        rows = [[str(k.path), f"{k.bytes / 1e6:.0f}", k.folder or "of an earlier version"] for k in decoded]
        show_texts(("file", "MB", "images"), rows, numbers=["MB"])


@data_app.command()
def fetch(name: Annotated[str, typer.Argument(help="e.g. mnist")]) -> None:
    """Download a data set into the data folder (FDFA_DATA, default ~/.cache/fdfa)."""
    from fdfa_cli.data import data_root
    from fdfa_cli.data.base import DATA

    root = data_root()
    chosen = DATA.get(name)
    chosen.fetch(root)
    now = chosen.status(root)
    typer.echo(f"{name}: {now.state}" + (f" in {now.location}" if now.location else ""))
