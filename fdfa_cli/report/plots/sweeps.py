"""What a metric answers to the values that a sweep tried: one parameter at a time, and in pairs."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fdfa_cli.report.plots.axis import MOST_VALUES, Parameter
from fdfa_cli.report.plots.base import DoesNotApply, Picture, phrase, scale
from fdfa_cli.report.plots.panels import MOST, Legend, canvas
from fdfa_cli.report.plots.plot_data import PlotData, Series
from fdfa_cli.report.plots.style import FAINT, INK, legible, line_style
from fdfa_cli.report.varied import varying

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Where more parameters than this are swept, pairs are drawn of those that move the metric most.
MOST_PAIRED = 4


@dataclass(frozen=True)
class SweepPoint:
    """A configuration's values by key, and its mean over seeds in the unit of the axis."""

    values: dict[str, Any]
    score: float


@dataclass(frozen=True)
class Search:
    """The trials of one sweep on one task under one rule, and the keys that it varied.

    `sign` is −1 where less is better.
    """

    name: str
    keys: list[str]
    trials: list[SweepPoint]
    sign: int

    def best(self, cell_of: dict[str, Parameter]) -> dict[tuple[int, ...], SweepPoint]:
        """The best trial of each cell of some parameters."""
        found: dict[tuple[int, ...], SweepPoint] = {}
        for trial in self.trials:
            cell = tuple(parameter.cell(trial.values[key]) for key, parameter in cell_of.items())
            if cell not in found or self.sign * trial.score > self.sign * found[cell].score:
                found[cell] = trial
        return dict(sorted(found.items()))

    def moved(self, key: str) -> float:
        """By how much the medians over the other parameters differ between values of `key`."""
        parameter = self.parameter(key)
        cells: dict[int, list[float]] = {}
        for trial in self.trials:
            cells.setdefault(parameter.cell(trial.values[key]), []).append(trial.score)
        medians = [statistics.median(scores) for scores in cells.values()]
        return max(medians) - min(medians)

    def parameter(self, key: str) -> Parameter:
        """The axis of one of the keys."""
        return Parameter(key, [trial.values[key] for trial in self.trials])


def response(plot_data: PlotData, width: float) -> Picture:
    """The metric against each swept parameter: a dot a configuration, a line through the best."""
    metric, searches = _searches(plot_data)
    keys = list(dict.fromkeys(key for search in searches for key in search.keys))
    columns = max(1, min(len(keys), int(width // 3.0)))
    rows = math.ceil(len(keys) / columns)
    below = Legend.of([search.name for search in searches], width)
    figure = canvas(width, 2.6 * rows + below.height)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    handles: dict[str, Any] = {}
    for axes, key in zip(grid, keys, strict=False):
        tried = [search for search in searches if key in search.keys]
        axis = Parameter(key, [trial.values[key] for search in tried for trial in search.trials])
        for search in tried:
            style = line_style(searches.index(search))
            axes.plot(
                [axis.place(trial.values[key]) for trial in search.trials],
                [trial.score for trial in search.trials],
                style.marker, color=style.color, alpha=0.5, markersize=4, markeredgewidth=0,
            )  # fmt: skip
            best = search.best({key: axis}).values()
            (handles[search.name],) = axes.plot(
                [axis.place(trial.values[key]) for trial in best],
                [trial.score for trial in best],
                color=style.color, linestyle=style.dashes, marker=style.marker, markersize=5,
                fillstyle="none",
            )  # fmt: skip
        axis.draw(axes.xaxis)
        axes.set_xlabel(key)
        axes.tick_params(labelleft=True)
        if grid.index(axes) % columns == 0:
            axes.set_ylabel(phrase(metric))
    for axes in grid[len(keys) :]:
        axes.remove()
    below.draw(figure, [handles[search.name] for search in searches])
    caption = (
        "A dot is a configuration, its mean over seeds; the line joins the best of each value, or of each of "
        f"{MOST_VALUES} intervals where there are more values."
    )
    return Picture(figure, f"{caption}{_left_out(plot_data)}")


def interaction(plot_data: PlotData, width: float) -> Picture:
    """The metric over pairs of swept parameters: in each cell its best configuration."""
    metric, searches = _searches(plot_data)
    panels = [(search, *pair) for search in searches for pair in _pairs(search)]
    if not panels:
        raise DoesNotApply("no two parameters were swept together")
    columns = max(1, min(len(panels), int(width // 3.6)))
    shown = panels[:MOST]
    rows = math.ceil(len(shown) / columns)
    widest = max(len(search.parameter(x).cells) for search, x, _ in shown)
    figure = canvas(min(width, columns * (1.8 + 0.7 * widest)), 3.0 * rows + 0.2)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    scores = [trial.score for search in searches for trial in search.trials]
    ends = (min(scores), max(scores))
    for axes, (search, x, y) in zip(grid, shown, strict=False):
        mesh = _heat_map(axes, search, x, y, ends, "{:.1f}" if metric.endswith("_accuracy") else "{:.3g}")
        if len(searches) > 1:
            axes.set_title(search.name)
    for axes in grid[len(shown) :]:
        axes.remove()
    bar = figure.colorbar(mesh, ax=grid[: len(shown)], label=phrase(metric), aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    caption = (
        "A cell is the mean over seeds of the best configuration in it; the best cell is framed, and so are "
        "others that are as good to the digits shown; hatched where nothing was completed."
    )
    if len(shown) < len(panels) or any(len(search.keys) > MOST_PAIRED for search in searches):
        caption += (
            f" Drawn are the {MOST_PAIRED} parameters that move the metric most, and {MOST} pairs at most."
        )
    return Picture(figure, f"{caption}{_left_out(plot_data)}")


def _heat_map(axes: Axes, search: Search, x: str, y: str, ends: tuple[float, float], digits: str) -> Any:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    across, up = search.parameter(x), search.parameter(y)
    width, height = len(across.cells), len(up.cells)
    best = search.best({x: across, y: up})
    values = [
        [best[i, j].score if (i, j) in best else float("nan") for i in range(width)] for j in range(height)
    ]
    axes.grid(False)
    axes.add_patch(
        Rectangle((-0.5, -0.5), width, height, hatch="////", facecolor="none", edgecolor=FAINT, linewidth=0)
    )
    # In so few steps that a file holds them as shapes; matplotlib would embed more as an image.
    colors = colormaps["cividis" if search.sign > 0 else "cividis_r"].resampled(48)
    low, high = ends if ends[0] < ends[1] else (ends[0] - 1, ends[1] + 1)
    mesh = axes.pcolormesh(
        range(width), range(height), values, shading="nearest", cmap=colors, vmin=low, vmax=high,
        edgecolors=INK, linewidth=0.4,
    )  # fmt: skip
    if width <= 7 and height <= MOST_VALUES:
        for (i, j), trial in best.items():
            bright = (trial.score - low) / (high - low) * search.sign + (search.sign < 0) > 0.55
            # Not the ink of the style: the cell is the ground here, on a dark page too.
            axes.text(i, j, digits.format(trial.score), ha="center", va="center", fontsize=7.5,
                      color="#000000" if bright else "#ffffff")  # fmt: skip
    highest = max(best.values(), key=lambda trial: search.sign * trial.score)
    for (i, j), trial in best.items():
        if digits.format(trial.score) == digits.format(highest.score):  # all that look equally good
            frame = Rectangle(
                (i - 0.5, j - 0.5), 1, 1, fill=False, edgecolor=line_style(2).color, linewidth=2.2
            )
            axes.add_patch(frame)
            frame.set(clip_on=False, zorder=5)
    axes.set_xticks(range(width), across.cells, rotation=0 if width <= 5 else 90)
    axes.set_yticks(range(height), up.cells)
    axes.set(xlabel=x, ylabel=y)
    return mesh


def _pairs(search: Search) -> list[tuple[str, str]]:
    keys = search.keys
    if len(keys) > MOST_PAIRED:
        keys = sorted(keys, key=lambda key: -search.moved(key))[:MOST_PAIRED]
    return list(itertools.combinations(keys, 2))


def _searches(plot_data: PlotData) -> tuple[str, list[Search]]:
    """The metric, and what was swept, by task and rule; raises `DoesNotApply` where nothing was."""
    metric = plot_data.metric_at_end()
    if metric is None:
        raise DoesNotApply("no completed run has a metric")
    sign = -1 if metric.endswith("_loss") else 1
    found: list[tuple[tuple[str, str, str], list[str], list[SweepPoint]]] = []
    for sweep in plot_data.sweeps:
        settings: dict[tuple[str, str], list[Series]] = {}
        for series in sweep.all_series:
            settings.setdefault((series.task, series.rule), []).append(series)
        for (task, rule), all_series in settings.items():
            keys = [key for key in varying([m.choices for m in all_series]) if sweep.study.varies(key)]
            trials = [
                SweepPoint({key: series.choices.get(key) for key in keys}, figure.mean * scale(metric))
                for series in all_series
                if (figure := series.group.figure(metric)) is not None
            ]
            # Values that none of which was completed leave a parameter nothing to be drawn against.
            if keys := varying([trial.values for trial in trials]):
                found.append(((legible(sweep.study.name), task, legible(rule)), keys, trials))
    if not found:
        raise DoesNotApply("no sweep among these runs completed several values of a parameter")
    return metric, [Search(_name(i, [n for n, *_ in found]), keys, trials, sign)
                    for i, (_, keys, trials) in enumerate(found)]  # fmt: skip


def _name(index: int, names: Sequence[tuple[str, str, str]]) -> str:
    """What to call the search at `index`: its rule, and of its sweep and task what sets it apart."""
    sweep, task, rule = names[index]
    several = [part for i, part in ((0, sweep), (1, task)) if len({name[i] for name in names}) > 1]
    return ": ".join([*several, rule])


def _left_out(plot_data: PlotData) -> str:
    empty = sum(not series.group.completed for sweep in plot_data.sweeps for series in sweep.all_series)
    what = (
        "configuration without a completed run is"
        if empty == 1
        else "configurations without a completed run are"
    )
    return f" {empty} {what} not drawn." if empty else ""
