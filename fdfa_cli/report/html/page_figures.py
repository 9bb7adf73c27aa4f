"""The plots of the page: each as a picture for a wide and one for a narrow screen, on either ground."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fdfa_cli.report.plots import PLOTS, DoesNotApply, PlotData
from fdfa_cli.report.plots.style import DARK, house_style

if TYPE_CHECKING:
    import matplotlib.figure

#: The width of a picture in inches, by the kind of screen: letters are then as large as the page's.
WIDTHS = {"wide": 10.0, "narrow": 4.0}


@dataclass(frozen=True)
class PageFigure:
    """A plot under its `title`, as `pictures`, or `absent`, why there is none.

    A picture is the address of an SVG, ``data:image/svg+xml;base64,…``, by the kind of screen.
    """

    name: str
    title: str
    pictures: dict[str, str]
    caption: str
    absent: str = ""


def page_figures(plot_data: PlotData) -> list[PageFigure]:
    """All plots, in their order."""
    found = []
    for plot in PLOTS:
        pictures: dict[str, str] = {}
        try:
            with house_style():
                for screen, width in WIDTHS.items():
                    picture = plot.draw(plot_data, width)
                    pictures[screen] = _address(_svg(picture.figure))
        except DoesNotApply as reason:
            found.append(PageFigure(plot.name, plot.title, {}, "", str(reason)))
        else:
            found.append(PageFigure(plot.name, plot.title, pictures, picture.caption))
    return found


def _svg(figure: matplotlib.figure.Figure) -> str:
    """The figure, whose palette is that of the ground on which the reader's screen shows pages."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg, light, dark = file.getvalue(), "", ""
    for i, (on_light, on_dark) in enumerate(DARK.items()):
        svg = svg.replace(on_light, f"var(--c{i})")
        light += f"--c{i}:{on_light};"
        dark += f"--c{i}:{on_dark};"
    style = f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return svg.replace("<defs>", f"<style>{style}</style><defs>", 1)


def _address(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
