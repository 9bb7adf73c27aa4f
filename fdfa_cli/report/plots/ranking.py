"""What every group came to: its runs as dots, their mean and interval, the best group on top."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fdfa_cli.compare.stats import Mean
from fdfa_cli.report.plots.base import DoesNotApply, Picture, phrase, scale
from fdfa_cli.report.plots.material import Material, Member
from fdfa_cli.report.plots.panels import canvas
from fdfa_cli.report.plots.style import COLORS, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: More groups of one task than this are not drawn; what a figure leaves out it says.
MOST = 40
#: What groups are ranked by unless another metric is asked for, where there is some.
TEST = "test_accuracy"


def ranking(material: Material, width: float) -> Picture:
    """The metric at the end of training, a line a group and a panel a task."""
    metric = _metric(material)
    sign = 1 if metric.endswith("_loss") else -1
    panels: dict[str, list[tuple[Member, Mean]]] = {}
    for task, members in material.tasks.items():
        found = [(member, mean) for member in members if (mean := member.group.figure(metric)) is not None]
        panels[task] = sorted(found, key=lambda pair: sign * pair[1].mean)
    panels = {task: ranked for task, ranked in panels.items() if len(ranked) > 1}
    if not panels:
        raise DoesNotApply("on no task are there two groups with completed runs")
    labels = {
        task: ["\n".join(textwrap.wrap(member.label, int(width * 5.5))) for member, _ in ranked[:MOST]]
        for task, ranked in panels.items()
    }
    heights = [0.35 + 0.17 * sum(label.count("\n") + 1.4 for label in several) for several in labels.values()]
    figure = canvas(width, sum(heights) + 0.4 * len(panels))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights).flat
    for axes, (task, ranked) in zip(grid, panels.items(), strict=True):
        _draw(axes, [(member, mean) for member, mean in ranked[:MOST]], labels[task], metric)
        axes.set_title(task)
    return Picture(figure, _caption(panels))


def _draw(axes: Axes, ranked: Sequence[tuple[Member, Mean]], labels: Sequence[str], metric: str) -> None:
    unit = scale(metric)
    for y, (member, mean) in enumerate(ranked):
        values = [run.record.summary.get(metric) for run in member.group.completed]
        known = [unit * value for value in values if value is not None]
        axes.plot(known, [y] * len(known), "o", color=COLORS[1], markersize=4, fillstyle="none", alpha=0.8)
        half = None if mean.half is None else unit * mean.half
        axes.errorbar(
            unit * mean.mean, y, xerr=half, color=INK, marker="D", markersize=4, capsize=3, linewidth=1.4
        )
    axes.set_yticks(range(len(ranked)), labels)
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(phrase(metric))


def _metric(material: Material) -> str:
    """What was asked for, else the test accuracy: a ranking reports and chooses nothing."""
    there = {name for run in material.runs if run.status == "completed" for name in run.record.summary}
    metric = (
        material.metric if material.metric in there else TEST if TEST in there else material.metric_at_end()
    )
    if metric is None:
        raise DoesNotApply("no completed run has a metric")
    return metric


def _caption(panels: dict[str, list[tuple[Member, Mean]]]) -> str:
    means = [mean for ranked in panels.values() for _, mean in ranked]
    sentences = ["A circle is a run, a diamond the mean"]
    if any(mean.half is not None for mean in means):
        sentences[0] += " in its 95 % t-interval"
    sentences[0] += "; the best mean is on top."
    if any(mean.half is None for mean in means):
        sentences.append("No interval below 3 runs, or where runs differ in more than their seed.")
    sentences += [
        f"{task}: the {MOST} best of {len(ranked)}." for task, ranked in panels.items() if len(ranked) > MOST
    ]
    return " ".join(sentences)
