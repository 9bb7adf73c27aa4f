"""The plots of the page, each for a wide screen and for a narrow one."""

from __future__ import annotations

from dataclasses import dataclass

from fdfa_cli.report.html.svg import Sheet, inline
from fdfa_cli.report.plots import PLOTS, DoesNotApply, Material
from fdfa_cli.report.plots.style import house_style

#: Inches, by the name of the class that shows it: a letter is then as large as the page's.
WIDTHS = {"wide": 10.0, "narrow": 4.0}


@dataclass(frozen=True)
class Figure:
    """A plot under its title: an `svg` element by width, or `absent`, why there is none."""

    name: str
    title: str
    svgs: dict[str, str]
    caption: str
    absent: str = ""


def figures(material: Material, sheet: Sheet) -> list[Figure]:
    """All plots; their styles go into `sheet`."""
    found = []
    for number, plot in enumerate(PLOTS):
        svgs: dict[str, str] = {}
        try:
            with house_style():
                for name, width in WIDTHS.items():
                    picture = plot.draw(material, width)
                    label = f"{plot.title}. {picture.caption}"
                    svgs[name] = inline(picture.figure, f"f{number}{name[0]}", sheet, label)
        except DoesNotApply as reason:
            found.append(Figure(plot.name, plot.title, {}, "", str(reason)))
        else:
            found.append(Figure(plot.name, plot.title, svgs, picture.caption))
    return found
