"""`fdfa report`: tables of stored runs."""

from __future__ import annotations

import gc
import sys
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fdfa_cli.report.tables import Table
    from fdfa_cli.runs import Run

DEFAULT = Path("results")


class Format(StrEnum):
    """How to print the runs."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"


def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH", help="Run folders, or folders that hold some.", show_default="results"
        ),
    ] = None,
    format: Annotated[
        Format, typer.Option(help="json and csv hold every stored number, accuracies as fractions of 1.")
    ] = Format.table,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw figures into a folder, as SVG and PNG.")
    ] = None,
) -> None:
    """Show stored runs, one row each; trains nothing.

    A folder that cannot be read is named on stderr, the others are shown, and the exit code is 1.
    """
    gc.disable()  # what is read is needed to the end; looking for garbage in it takes a fifth of the time
    try:
        _report(paths or [], format, plots)
    finally:
        gc.enable()


def _report(paths: list[Path], format: Format, plots: Path | None) -> None:
    from fdfa_cli.errors import RunDamaged
    from fdfa_cli.report import export, tables
    from fdfa_cli.runs import Scan, scan

    found = scan(paths or [DEFAULT]) if paths or DEFAULT.exists() else Scan([], [])
    if not found.runs and not found.damaged:
        where = ", ".join(map(str, paths or [DEFAULT]))
        typer.echo(f"no runs in {where} yet; train one: fdfa train digits/fdfa", err=True)
    if format is Format.table:
        if found.runs:
            show(tables.runs_table(found.runs))
    else:
        write, columns = {
            Format.json: (export.to_json, tables.SUMMARY + tables.DETAILS),
            Format.csv: (export.to_csv, tables.SUMMARY + tables.DETAILS),
            Format.markdown: (export.to_markdown, tables.SUMMARY),
            Format.latex: (export.to_latex, tables.SUMMARY),
        }[format]
        sys.stdout.write(write(tables.runs_table(found.runs, columns)))
    if plots is not None and found.runs:
        _draw(found.runs, plots)
    if found.damaged:
        sys.stdout.flush()
        raise RunDamaged("these could not be read:\n" + "\n".join(f"  {error}" for error in found.damaged))


def _draw(runs: list[Run], folder: Path) -> None:
    from fdfa_cli.report.plots import PLOTS, material
    from fdfa_cli.report.plots.save import save
    from fdfa_cli.report.tables import printable

    for line in save(material(runs), folder, PLOTS):
        typer.echo(printable(line), err=True)


def show(table: Table) -> None:
    """Print `table` on stdout: to fit a terminal, or for a pipe with a line a row."""
    from fdfa_cli.report import terminal

    if not sys.stdout.isatty():
        sys.stdout.write(terminal.for_pipe(table))
        return
    from rich.console import Console
    from rich.segment import Segment, Segments

    console = Console()
    style_of = cache(console.get_style)
    pieces = [
        Segment(text, style_of(style))
        for line in terminal.for_terminal(table, console.width)
        for text, style in [*line, ("\n", "")]
    ]
    console.print(Segments(pieces), soft_wrap=True, end="")
