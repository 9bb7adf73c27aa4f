"""The whole page from runs."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fdfa_cli.printable import printable_lines
from fdfa_cli.report.facts import Facts
from fdfa_cli.report.html import listing
from fdfa_cli.report.html.figures import figures
from fdfa_cli.report.html.summary import summary
from fdfa_cli.report.html.svg import PROPERTIES, Sheet
from fdfa_cli.report.names import Rows
from fdfa_cli.report.plots.material import Material
from fdfa_cli.report.plots.style import DARK
from fdfa_cli.report.query import Query
from fdfa_cli.storage import STATUSES, Run
from fdfa_cli.version import __version__

_HERE = Path(__file__).parent


def page(facts: Facts, runs: Sequence[Run], query: Query, damaged: Sequence[Exception] = ()) -> str:
    """HTML that shows `runs` as `query` asks, with figures, and what could not be read.

    Everything is in it: no other file, no network, and a Content-Security-Policy that allows neither, nor
    any script or style but its own. All text of users is escaped. The same runs give the same bytes.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    material = Material.of(facts, runs, query)
    sheet = Sheet()
    plots = figures(material, sheet)
    style = _theme() + (_HERE / "page.css").read_text("utf-8") + sheet.css
    script = (_HERE / "page.js").read_text("utf-8")
    counts = Counter(run.status for run in runs)
    content = {
        "summary": summary(material, query),
        "runs": listing.listing(facts, runs, replace(query, by=(), rows=Rows.runs)),
        "origins": listing.origins(runs),
    }
    return environment.get_template("page.html").render(
        **content,
        title=_title(runs, material),
        style=style,
        script=script,
        policy=_policy(style, script),
        counts=[(status, counts[status]) for status in STATUSES if counts[status]],
        shared=listing.shared(facts, runs),
        figures=plots,
        troubles=listing.troubles(runs),
        commands=listing.commands(runs),
        # Last, for what was found while tables were made.
        damaged=[printable_lines(str(error)) for error in (*damaged, *facts.damaged)],
        version=__version__,
    )


def _title(runs: Sequence[Run], material: Material) -> str:
    tasks = "; ".join(list(material.tasks)[:3]) + ("; …" if len(material.tasks) > 3 else "")
    return f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} of {tasks}"


def _theme() -> str:
    """The colours of figures as custom properties, for light ground and for dark."""
    light = "".join(f"{property}:{color};" for color, property in PROPERTIES.items())
    dark = "".join(f"{property}:{DARK[color]};" for color, property in PROPERTIES.items())
    return f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def _policy(style: str, script: str) -> str:
    """A Content-Security-Policy under which nothing but this very style and script has any effect."""
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
