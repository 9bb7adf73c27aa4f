"""What a plot is: a function from groups of runs to a picture with its caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fdfa_cli.report.plots.plot_data import PlotData

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DoesNotApply(Exception):
    """The runs have nothing to draw here; the message says why, to follow "not drawn: "."""


@dataclass(frozen=True)
class Picture:
    """A figure, and what a reader must know of it: what is averaged, what bands mean, what is left out."""

    figure: Figure
    caption: str


@dataclass(frozen=True)
class Plot:
    """A kind of figure: `name` is that of its files, `title` its heading.

    `draw` takes the groups and the width in inches, and raises `DoesNotApply`.
    """

    name: str
    title: str
    draw: Callable[[PlotData, float], Picture]


def phrase(metric: str) -> str:
    """A metric in words with its unit, for an axis."""
    words = metric.replace("_", " ")
    for short, long in (("val ", "validation "), ("train ", "training ")):
        words = words.replace(short, long)
    return f"{words} (%)" if metric.endswith("_accuracy") else words


def scale(metric: str) -> float:
    """How many of the unit of `phrase` make one of the stored unit."""
    return 100.0 if metric.endswith("_accuracy") else 1.0
