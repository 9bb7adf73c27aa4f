"""The command line: parses, calls, prints, and maps errors to exit codes.

Exit codes: 0 ok, 1 a run failed or diverged, 2 usage or recipe, 130 interrupted. A traceback is shown
with ``--debug`` only. Nothing heavy is imported here, so ``--help`` answers at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from fdfa_cli.commands.compare import compare
from fdfa_cli.commands.data import data_app
from fdfa_cli.commands.options import OfRecipes
from fdfa_cli.commands.recipe import recipe_app
from fdfa_cli.commands.report import report
from fdfa_cli.commands.rules import rules
from fdfa_cli.commands.sweep import sweep
from fdfa_cli.commands.train import train
from fdfa_cli.errors import FdfaError, Interrupted, ReaderGone
from fdfa_cli.printable import printable_lines
from fdfa_cli.version import __version__

app = typer.Typer(
    name="fdfa",
    help="Train deep networks without backpropagating errors, and compare the rules that do.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=OfRecipes)(train)
app.command(cls=OfRecipes)(sweep)
app.command(cls=OfRecipes)(compare)
app.command()(report)
app.command()(rules)
app.add_typer(recipe_app, name="recipe")
app.add_typer(data_app, name="data")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fdfa {__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, and what torch lacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train deep networks without backpropagating errors, and compare the rules that do."""
    log = logging.getLogger("fdfa_cli")
    log.handlers = [_Remarks()]
    log.setLevel(logging.DEBUG if debug else logging.INFO)


class _Remarks(logging.Handler):
    """Prints what the package logs on standard error, as it is at that moment: a live bar may stand there."""

    def emit(self, record: logging.LogRecord) -> None:
        warning = "warning: " if record.levelno >= logging.WARNING else ""
        print(f"{warning}{printable_lines(record.getMessage())}", file=sys.stderr, flush=True)


def run(arguments: list[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    code = _said(lambda: app(arguments), "--debug" in arguments)
    # Now, because the interpreter would flush when it ends, with a traceback where that fails.
    flushed = _said(sys.stdout.flush, "--debug" in arguments)
    return code or flushed


def _said(act: Callable[[], object], debug: bool) -> int:
    """The exit code of `act`, with its error on stderr."""
    try:
        act()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except ReaderGone as error:
        return error.exit_code
    except (FdfaError, Interrupted) as error:
        if debug:
            raise
        print(f"fdfa: {printable_lines(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if debug:
            raise
        about = f"{error.filename}: " if error.filename else ""
        print(f"fdfa: {printable_lines(f'{about}{error.strerror or error}')}", file=sys.stderr)
        return FdfaError.exit_code
    return 0
