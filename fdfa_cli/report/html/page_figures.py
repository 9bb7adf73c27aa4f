"""The plots of the page, each for a wide screen and for a narrow one."""

from __future__ import annotations

from dataclasses import dataclass

from fdfa_cli.report.html.svg import Sheet, inline
from fdfa_cli.report.plots import PLOTS, DoesNotApply, PlotData
from fdfa_cli.report.plots.style import house_style

#: Inches, by the name of the class that shows it: a letter is then as large as the page's.
WIDTHS = {"wide": 10.0, "narrow": 4.0}


@dataclass(frozen=True)
class PageFigure:
    """A plot under its title: an `svg` element by width, or `absent`, why there is none."""

    name: str
    title: str
    svgs: dict[str, str]
    caption: str
    absent: str = ""


def page_figures(plot_data: PlotData, sheet: Sheet) -> list[PageFigure]:
    """All plots; their styles go into `sheet`."""
    found = []
    for number, plot in enumerate(PLOTS):
        svgs: dict[str, str] = {}
        try:
            with house_style():
                for name, width in WIDTHS.items():
                    picture = plot.draw(plot_data, width)
                    label = f"{plot.title}. {picture.caption}"
                    svgs[name] = inline(picture.figure, f"f{number}{name[0]}", sheet, label)
        except DoesNotApply as reason:
            found.append(PageFigure(plot.name, plot.title, {}, "", str(reason)))
        else:
            found.append(PageFigure(plot.name, plot.title, svgs, picture.caption))
    return found
