"""What every group came to: its runs as dots, their mean and interval, the best group on top."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fdfa_cli.report.plots.base import DoesNotApply, Picture, phrase, scale
from fdfa_cli.report.plots.panels import canvas
from fdfa_cli.report.plots.plot_data import PlotData, Series
from fdfa_cli.report.plots.style import COLORS, INK
from fdfa_cli.stats import Mean
from fdfa_cli.tables import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: More groups of one task than this are not drawn; what a figure leaves out it says.
MOST = 40
#: Values nearer than this share of the axis are drawn beside each other, at such distances (1: between two
#: lines), and no further than so from their line.
NEAR, STEP, HIGHEST = 0.012, 0.16, 0.4
#: What groups are ranked by unless another metric is asked for, where there is some.
TEST = "test_accuracy"


def ranking(plot_data: PlotData, width: float) -> Picture:
    """The metric at the end of training, a line a group and a panel a task."""
    metric = _metric(plot_data)
    sign = 1 if metric.endswith("_loss") else -1
    panels: dict[str, list[tuple[Series, Mean]]] = {}
    for task, all_series in plot_data.tasks.items():
        found = [(series, mean) for series in all_series if (mean := series.group.figure(metric)) is not None]
        panels[task] = sorted(found, key=lambda pair: sign * pair[1].mean)
    panels = {task: ranked for task, ranked in panels.items() if len(ranked) > 1}
    if not panels:
        raise DoesNotApply("on no task are there two groups with completed runs")
    labels = {
        task: [
            "\n".join(textwrap.wrap(f"{series.label} (n={mean.n})", int(width * 5.5)))
            for series, mean in ranked[:MOST]
        ]
        for task, ranked in panels.items()
    }
    heights = [0.35 + 0.17 * sum(label.count("\n") + 1.4 for label in several) for several in labels.values()]
    figure = canvas(width, sum(heights) + 0.4 * len(panels))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights).flat
    for axes, (task, ranked) in zip(grid, panels.items(), strict=True):
        _draw(axes, [(series, mean) for series, mean in ranked[:MOST]], labels[task], metric)
        axes.set_title(task)
    return Picture(figure, _caption(panels, plot_data.catalog.column(metric)))


def _draw(axes: Axes, ranked: Sequence[tuple[Series, Mean]], labels: Sequence[str], metric: str) -> None:
    unit = scale(metric)
    rows = [
        [unit * v for run in series.group.completed if (v := run.record.summary.get(metric)) is not None]
        for series, _ in ranked
    ]
    near = NEAR * (max(map(max, rows)) - min(map(min, rows)))
    for y, (known, (_, mean)) in enumerate(zip(rows, ranked, strict=True)):
        heights = [y + offset for offset in stacked(known, near)]
        axes.plot(known, heights, "o", color=COLORS[1], markersize=4, fillstyle="none", alpha=0.8)
        half = None if mean.half is None else unit * mean.half
        axes.errorbar(
            unit * mean.mean, y, xerr=half, color=INK, marker="D", markersize=4, capsize=3, linewidth=1.4
        )
    axes.set_yticks(range(len(ranked)), labels)
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(phrase(metric))


def stacked(values: Sequence[float], near: float) -> list[float]:
    """How far above or below its line to draw each of `values`, so that none hides another.

    Values no further than `near` from each other are put side by side, the first on the line itself; more
    than fit between two lines are put closer.
    """
    levels: dict[int, int] = {}
    last: dict[int, float] = {}  # the rightmost value of each level
    for i in sorted(range(len(values)), key=lambda i: values[i]):
        level = next(
            level for level in range(len(values)) if level not in last or values[i] - last[level] > near
        )
        levels[i], last[level] = level, values[i]
    step = min(STEP, HIGHEST / max(1, len(last) // 2))
    signed = [-(level // 2) if level % 2 == 0 else level // 2 + 1 for level in range(len(last))]
    return [step * signed[levels[i]] for i in range(len(values))]


def _metric(plot_data: PlotData) -> str:
    """What was asked for, else the test accuracy: a ranking reports and chooses nothing."""
    there = {name for run in plot_data.runs if run.status == "completed" for name in run.record.summary}
    metric = (
        plot_data.metric
        if plot_data.metric in there
        else TEST
        if TEST in there
        else plot_data.metric_at_end()
    )
    if metric is None:
        raise DoesNotApply("no completed run has a metric")
    return metric


def _caption(panels: dict[str, list[tuple[Series, Mean]]], column: Column) -> str:
    means = [mean for ranked in panels.values() for _, mean in ranked]
    sentences = ["A circle is a run (equal ones are stacked), a diamond the mean"]
    if any(mean.half is not None for mean in means):
        sentences[0] += " in its 95 % t-interval"
    sentences[0] += "; the best mean is on top."
    for task, ranked in panels.items():
        best = column.show(ranked[0][1].mean)
        alike = [series.name for series, mean in ranked if column.show(mean.mean) == best]
        if len(alike) > 1:
            named = ", ".join(alike[:-1]) + f" and {alike[-1]}"
            sentences.append(f"{task}: {named} are equally good to the digits that tables show.")
    if any(mean.half is None for mean in means):
        sentences.append("No interval below 3 runs, or where runs differ in more than their seed.")
    sentences += [
        f"{task}: the {MOST} best of {len(ranked)}." for task, ranked in panels.items() if len(ranked) > MOST
    ]
    return " ".join(sentences)
