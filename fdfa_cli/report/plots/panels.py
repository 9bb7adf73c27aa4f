"""Figures of many lines: one panel a task where a few share it, else one panel a line; legends outside."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fdfa_cli.report.plots.style import FAINT, INK, OVERLAID, line_style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

#: More panels of one task than this are not drawn; what a figure leaves out it says.
MOST = 24
#: The narrowest panel that its numbers fit in, in inches.
_NARROWEST = 1.9


@dataclass(frozen=True)
class Line:
    """A curve of `n` runs through `y`, in a band from `low` to `high` unless these are empty."""

    label: str
    n: int
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06))


def lines(panels: dict[str, list[Line]], x: str, y: str, width: float, log_x: bool = False) -> Figure:
    """The lines of each panel, by its title; `x` and `y` say what is on the axes, with units."""
    if max(map(len, panels.values())) <= OVERLAID:
        return _overlaid(panels, x, y, width, log_x)
    return _multiples(panels, x, y, width, log_x)


def _overlaid(panels: dict[str, list[Line]], x: str, y: str, width: float, log_x: bool) -> Figure:
    columns = min(len(panels), max(1, int(width // 3.3)))
    rows = math.ceil(len(panels) / columns)
    sizes: dict[str, list[int]] = {}  # one look for a label in all panels
    for line in (line for several in panels.values() for line in several):
        sizes.setdefault(line.label, []).append(line.n)
    styles = {label: line_style(i) for i, label in enumerate(sizes)}
    below = Legend.of([_counted(label, ns) for label, ns in sizes.items()], width)
    figure = canvas(width, 2.8 * rows + below.height)
    handles: dict[str, Artist] = {}
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (title, several) in zip(grid, panels.items(), strict=False):
        for line in several:
            style = styles[line.label]
            if line.low:
                axes.fill_between(line.x, line.low, line.high, color=style.color, alpha=0.13, linewidth=0)
            (handles[line.label],) = axes.plot(
                line.x, line.y, **style.line(), markevery=max(1, len(line.x) // 10)
            )
        axes.set(title=title, xlabel=x, ylabel=y)
        _scale(axes, x, log_x)
    for axes in grid[len(panels) :]:
        axes.remove()
    below.draw(figure, [handles[label] for label in sizes])
    return figure


def _multiples(panels: dict[str, list[Line]], x: str, y: str, width: float, log_x: bool) -> Figure:
    """A panel a line, with the others drawn of its task faint behind it; all of a task share their axes."""
    columns = max(1, min(5, int(width // _NARROWEST)))
    fit = int((width - 0.8) / columns * 14)  # letters of a title over a panel
    blocks = [(*panel, math.ceil(min(len(panel[1]), MOST) / columns)) for panel in panels.items()]
    single = len(panels) == 1
    titles = {
        (title, line.label): textwrap.wrap(
            _counted(line.label if single else f"{title}: {line.label}", [line.n]), fit
        )
        for title, several in panels.items()
        for line in several
    }
    figure, cells = _grid(sum(rows for *_, rows in blocks), columns, width, max(map(len, titles.values())))
    above = 0
    for title, several, rows in blocks:
        first: Axes | None = None
        for i, line in enumerate(several[:MOST]):
            axes = figure.add_subplot(cells[above + i // columns, i % columns], sharex=first, sharey=first)
            first = first or axes
            axes.plot(*_joined(several[:MOST]), color=FAINT, linewidth=0.6)
            if line.low:
                axes.fill_between(line.x, line.low, line.high, color=INK, alpha=0.2, linewidth=0)
            axes.plot(line.x, line.y, color=INK, linewidth=1.6)
            axes.set_title("\n".join(titles[title, line.label]), fontsize=8.5)
            axes.tick_params(labelleft=i % columns == 0, labelbottom=i + columns >= min(len(several), MOST))
            _scale(axes, x, log_x)
        above += rows
    figure.supxlabel(x, fontsize=9, y=0.06 / figure.get_figheight(), va="bottom")
    figure.supylabel(y, fontsize=9, x=0.06 / width, ha="left")
    return figure


def _grid(rows: int, columns: int, width: float, lines: int) -> tuple[Figure, GridSpec]:
    """Equal cells at fixed distances, with titles of so many lines; the layout engine takes seconds."""
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

    left, right, bottom, top, gap, cell = 0.65, 0.1, 0.5, 0.2 + 0.15 * lines, 0.27 + 0.15 * lines, 1.15
    height = bottom + rows * cell + (rows - 1) * gap + top
    figure = Figure(figsize=(width, height))
    cells = GridSpec(
        rows,
        columns,
        figure,
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - top / height,
        hspace=gap / cell,
        wspace=0.14,
    )
    return figure, cells


def _counted(label: str, sizes: Sequence[int]) -> str:
    """A label with how many runs it stands for, in each panel."""
    fewest, most = min(sizes), max(sizes)
    return f"{label} (n={fewest}{f'–{most}' if most > fewest else ''})"


def _joined(several: Sequence[Line]) -> tuple[list[float], list[float]]:
    """All lines as one, with gaps between them."""
    nan = float("nan")
    return [v for line in several for v in (*line.x, nan)], [v for line in several for v in (*line.y, nan)]


@dataclass(frozen=True)
class Legend:
    """Names to go below the axes of a figure, broken into lines and in as many columns as fit."""

    labels: list[str]
    columns: int

    @classmethod
    def of(cls, labels: Iterable[str], width: float) -> Legend:
        """The legend of `labels` in a figure of `width` inches."""
        broken = ["\n".join(textwrap.wrap(label, int((width - 0.7) * 13))) for label in labels]
        longest = max(len(line) for label in broken for line in label.split("\n"))
        return cls(broken, max(1, min(len(broken), int(width / (0.65 + 0.075 * longest)))))

    @property
    def height(self) -> float:
        """Inches that it takes."""
        lines = sum(label.count("\n") + 1 for label in self.labels)
        return 0.1 + 0.18 * math.ceil(lines / self.columns)

    def draw(self, figure: Figure, handles: Sequence[Artist]) -> None:
        """Put it into `figure`, each label beside its handle."""
        # A label that begins with an underscore would be left out.
        labels = [f" {label}" if label.startswith("_") else label for label in self.labels]
        figure.legend(handles, labels, loc="outside lower center", ncols=self.columns)


def _scale(axes: Axes, x: str, log_x: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    if log_x:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=x == "epoch"))
