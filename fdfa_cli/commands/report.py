"""`fdfa report`: tables of stored runs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fdfa_cli.report.enums import RowKind

if TYPE_CHECKING:
    from fdfa_cli.errors import RunDamaged
    from fdfa_cli.report.catalog import Catalog
    from fdfa_cli.report.query import Query
    from fdfa_cli.storage import RunFolder

DEFAULT = Path("results")


class ReportFormat(StrEnum):
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
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Only runs with data=mnist, rule=dfa,fdfa (one of), 'optimizer.lr>1e-3', …; repeatable.",
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="A row for each rule,network,… with means over its runs."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Figures of groups, the first also as a curve: test_accuracy,…"),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="NAMES", help="By rule,-test_accuracy,…; - is descending.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Exactly these: run,optimizer.lr,test_accuracy,curve,…"),
    ] = None,
    rows: Annotated[
        RowKind, typer.Option(help="A row for each run, epoch, or block that diagnostics looked at.")
    ] = RowKind.runs,
    format: Annotated[
        ReportFormat,
        typer.Option(help="json and csv hold every stored number, accuracies as fractions of 1."),
    ] = ReportFormat.table,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw figures into a folder, as SVG and PNG.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it all on one page that needs no network.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="The group the page compares others with, as rule=bp; repeatable.",
            show_default="that of fdfa compare",
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write every number there for TensorBoard.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow what is being trained, until Ctrl-C.")
    ] = False,
) -> None:
    """Show stored runs, one row each, or groups of them; trains nothing.

    A name is a column of the table, a number that a run ended with, or a key of its recipe (optimizer.lr).
    A folder that cannot be read is named on stderr, the others are shown, and the exit code is 1.
    """
    from fdfa_cli.errors import UsageError
    from fdfa_cli.report.query import Query
    from fdfa_cli.report.select import Condition, SortKey

    query = Query(
        where=tuple(map(Condition.parse, where or ())),
        by=_names("--group-by", group_by),
        metrics=_names("--metric", metric),
        sort=tuple(map(SortKey.parse, _names("--sort", sort))),
        columns=_names("--columns", columns),
        rows=rows,
        baseline=tuple(Condition.parse(text, "--baseline") for text in baseline or ()),
    )
    if baseline and html is None:
        raise UsageError("--baseline is for the page: it goes with --html")
    if tensorboard is not None:
        from fdfa_cli.storage.events import prepare

        prepare(tensorboard)
    if watch:
        if format is not ReportFormat.table or plots is not None or html is not None:
            raise UsageError("--watch follows the table: it excludes --format, --plots and --html")
        _watch(paths or [], query, tensorboard)
        return
    gc.disable()  # what is read is needed to the end; looking for garbage in it takes a fifth of the time
    try:
        _report(paths or [], query, format, plots, html, tensorboard)
    finally:
        gc.enable()


def _names(option: str, text: str | None) -> tuple[str, ...]:
    """The names of a comma list; raises `UsageError` where one is empty or there twice."""
    from fdfa_cli.errors import UsageError

    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(f"{option} {text!r}: a name is {'missing' if not all(names) else 'given twice'}")
    return names


def _report(
    paths: list[Path],
    query: Query,
    format: ReportFormat,
    plots: Path | None,
    html: Path | None,
    tensorboard: Path | None,
) -> None:
    from fdfa_cli.report import export
    from fdfa_cli.report.catalog import Catalog
    from fdfa_cli.report.console import show
    from fdfa_cli.report.query_table import query_table
    from fdfa_cli.report.select import select
    from fdfa_cli.storage import Scan, scan

    found = scan(paths or [DEFAULT]) if paths or DEFAULT.exists() else Scan([], [])
    catalog = Catalog(found.runs)
    chosen = select(catalog, query.where)
    _explain(paths, catalog, chosen, found.damaged, query)
    if format is ReportFormat.table:
        table = query_table(catalog, query, curves=sys.stdout.isatty())
        if chosen:
            show(table)
    else:
        write = {
            ReportFormat.json: export.to_json,
            ReportFormat.csv: export.to_csv,
            ReportFormat.markdown: export.to_markdown,
            ReportFormat.latex: export.to_latex,
        }[format]
        sys.stdout.write(
            write(query_table(catalog, query, details=format in (ReportFormat.json, ReportFormat.csv)))
        )
    if (plots or html) and chosen:
        _draw(catalog, chosen, found.damaged, query, plots, html)
    damaged = [*found.damaged, *catalog.damaged]
    if tensorboard is not None:
        damaged += _export(chosen, tensorboard)
    _name_damaged(damaged)


def _explain(
    paths: list[Path], catalog: Catalog, chosen: list[RunFolder], damaged: list[RunDamaged], query: Query
) -> None:
    """Say why no run is shown, and what a condition that is met by none may have meant."""
    from fdfa_cli.printable import printable
    from fdfa_cli.report.select import why_none

    if not catalog.runs and not damaged:
        where = ", ".join(map(str, paths or [DEFAULT]))
        typer.echo(printable(f"no runs in {where} yet; train one: fdfa train digits/fdfa"), err=True)
    elif not chosen and catalog.runs:
        typer.echo(printable(why_none(catalog, query.where)), err=True)
    for hint in filter(None, (condition.hint for condition in query.where)):
        typer.echo(printable(hint), err=True)


def _watch(paths: list[Path], query: Query, tensorboard: Path | None) -> None:
    """Follow the runs until Ctrl-C, which ends nothing before its time, and so is no failure."""
    from fdfa_cli.errors import Interrupted
    from fdfa_cli.report.poll import PollResult, RunPoller
    from fdfa_cli.report.watch import watch

    damaged: list[RunDamaged] = []

    def see(result: PollResult) -> None:
        broken = _export(result.changed, tensorboard) if tensorboard is not None else []
        damaged[:] = [*result.damaged, *broken]

    with suppress(Interrupted):
        watch(RunPoller(paths or [DEFAULT], query, wait=not paths), query, see)
    _name_damaged(damaged)


def _export(runs: Iterable[RunFolder], folder: Path) -> list[RunDamaged]:
    """Write `runs` for TensorBoard; returns an error for each that cannot be read."""
    from fdfa_cli.errors import RunDamaged
    from fdfa_cli.storage.events import export

    damaged = []
    for run in runs:
        try:
            export(run, folder)
        except RunDamaged as error:
            damaged.append(error)
    return damaged


def _name_damaged(damaged: list[RunDamaged]) -> None:
    from fdfa_cli.errors import RunDamaged

    messages = dict.fromkeys(map(str, damaged))
    if messages:
        sys.stdout.flush()
        raise RunDamaged("these could not be read:\n" + "\n".join(f"  {message}" for message in messages))


def _draw(
    catalog: Catalog,
    runs: list[RunFolder],
    damaged: list[RunDamaged],
    query: Query,
    plots: Path | None,
    html: Path | None,
) -> None:
    """Write figures and page, and say on stderr what was written."""
    from fdfa_cli.errors import UsageError
    from fdfa_cli.printable import printable
    from fdfa_cli.report.html import page
    from fdfa_cli.report.plots import PLOTS, PlotData
    from fdfa_cli.report.plots.save import save
    from fdfa_cli.storage import atomic_write

    if plots:
        plot_data = PlotData.of(catalog, runs, query)
        for line in [*plot_data.apart, *save(plot_data, plots, PLOTS)]:
            typer.echo(printable(line), err=True)
    if html:
        text = page(catalog, runs, query, damaged)
        try:
            atomic_write(html, text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise UsageError(f"cannot write {html}: {error.strerror}") from error
        typer.echo(printable(f"{html}: open it in a browser"), err=True)
