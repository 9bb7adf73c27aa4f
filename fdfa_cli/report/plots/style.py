"""The house style of figures: legible in colour, in black and white, on light and on dark ground.

A series is told apart three times over, by colour, dashes and marker. The colours differ by at least 10
(100 ΔE in OKLab) under simulated protanopia, deuteranopia and tritanopia (Machado et al. 2009) and from
white by 3 : 1 or more. A page replaces each of them by its counterpart for dark ground (`DARK`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

#: Text and axes; also the first series.
INK = "#1a1a1a"
#: Grid lines, and what stands behind the subject of a figure.
FAINT = "#b4b4b4"
#: By which colours of figures are replaced on dark ground.
DARK = {
    INK: "#e8e8e8",
    FAINT: "#5c5c5c",
    "#0066df": "#2977f1",
    "#ff0266": "#fb6f15",
    "#0b9eb3": "#38b191",
    "#990079": "#dd98ff",
    "#177f00": "#ffc800",
}
COLORS = (INK, *list(DARK)[2:])
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "X")
#: Comes with matplotlib, so it is the same everywhere.
_FONT = "DejaVu Sans"
#: More series than this share no axes: each gets its own, with the others faint behind it.
OVERLAID = len(COLORS)


@dataclass(frozen=True)
class LineStyle:
    """How the series at some place of a legend is drawn."""

    color: str
    dashes: Any
    marker: str

    def line(self) -> dict[str, Any]:
        """Keywords of a line."""
        return {"color": self.color, "linestyle": self.dashes, "marker": self.marker, "markersize": 3.5}


def line_style(index: int) -> LineStyle:
    """The style of the series at `index`, which is counted from 0."""
    return LineStyle(
        COLORS[index % len(COLORS)], _DASHES[index % len(_DASHES)], _MARKERS[index % len(_MARKERS)]
    )


def legible(text: str) -> str:
    """`text` with what the font of figures has no letter for as escapes, where boxes would stand for it."""
    return "".join(c if ord(c) in _letters() else c.encode("unicode_escape").decode() for c in text)


@cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(_FONT)).get_charmap())


@contextmanager
def house_style() -> Iterator[None]:
    """While it is entered, figures look the same whatever the user's own matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.family": _FONT,
                "font.size": 9,
                "axes.titlesize": 9,
                "axes.labelsize": 9,
                "xtick.labelsize": 8,
                "ytick.labelsize": 8,
                "legend.fontsize": 8.5,
                "figure.titlesize": 10,
                "text.parse_math": False,  # a user's "$" is a dollar sign
                "text.color": INK,
                "axes.labelcolor": INK,
                "axes.edgecolor": INK,
                "xtick.color": INK,
                "ytick.color": INK,
                "axes.facecolor": "none",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "grid.color": FAINT,
                "grid.linewidth": 0.5,
                "grid.alpha": 0.6,
                "lines.linewidth": 1.4,
                "legend.frameon": False,
                "legend.handlelength": 3.2,
                "svg.fonttype": "path",  # the font need not be installed where it is read
                "svg.hashsalt": "fdfa",  # ids that are the same next time
                "savefig.dpi": 200,
            }
        )
        yield
