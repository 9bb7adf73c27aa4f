"""The whole page from runs."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fdfa_cli.printable import printable_lines
from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.enums import RowKind
from fdfa_cli.report.html import run_grids
from fdfa_cli.report.html.page_figures import page_figures
from fdfa_cli.report.html.summary import summary
from fdfa_cli.report.plots.plot_data import PlotData
from fdfa_cli.report.query import Query
from fdfa_cli.storage import STATUSES, RunFolder
from fdfa_cli.version import __version__

_HERE = Path(__file__).parent


def page(catalog: Catalog, runs: Sequence[RunFolder], query: Query, damaged: Sequence[Exception] = ()) -> str:
    """HTML that shows `runs` as `query` asks, with figures, and what could not be read.

    Everything is in it: no other file, no network, and a Content-Security-Policy that allows neither, nor
    any script or style but its own. All text of users is escaped. The same runs give the same bytes.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    plot_data = PlotData.of(catalog, runs, query)
    style = (_HERE / "page.css").read_text("utf-8")
    script = (_HERE / "page.js").read_text("utf-8")
    counts = Counter(run.status for run in runs)
    content = {
        "summary": summary(plot_data, query),
        "runs": run_grids.runs_grid(catalog, runs, replace(query, by=(), rows=RowKind.runs)),
        "origins": run_grids.origins_grid(runs),
    }
    return environment.get_template("page.html").render(
        **content,
        title=_title(runs, plot_data),
        style=style,
        script=script,
        policy=_policy(style, script),
        counts=[(status, counts[status]) for status in STATUSES if counts[status]],
        shared=run_grids.shared(catalog, runs),
        figures=page_figures(plot_data),
        troubles=run_grids.troubles(runs),
        commands=run_grids.commands(runs),
        # Last, for what was found while tables were made.
        damaged=[printable_lines(str(error)) for error in (*damaged, *catalog.damaged)],
        version=__version__,
    )


def _title(runs: Sequence[RunFolder], plot_data: PlotData) -> str:
    tasks = "; ".join(list(plot_data.tasks)[:3]) + ("; …" if len(plot_data.tasks) > 3 else "")
    return f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} of {tasks}"


def _policy(style: str, script: str) -> str:
    """A Content-Security-Policy under which only this very style and script and pictures inside act."""
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
