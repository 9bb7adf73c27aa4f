"""Training over time: learning curves, and accuracy against the seconds it took."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from fdfa_cli.report.plots.base import DoesNotApply, Picture, phrase, scale
from fdfa_cli.report.plots.panels import MOST, Line, lines
from fdfa_cli.report.plots.plot_data import PlotData, Series
from fdfa_cli.stats import FEWEST, mean

MetricRow = dict[str, Any]


def learning_curves(plot_data: PlotData, width: float) -> Picture:
    """The metric after each epoch, mean and spread over the seeds of each group."""
    metric = _metric(plot_data)
    panels = _panels(plot_data, metric, lambda rows: [float(row["epoch"]) for row in rows])
    return Picture(
        lines(panels, "epoch", phrase(metric), width), _caption(plot_data, panels, "Mean over runs")
    )


def accuracy_over_time(plot_data: PlotData, width: float) -> Picture:
    """The metric against the seconds of training, of runs that one machine trained alone."""
    metric = _metric(plot_data)
    runs = [run for series in plot_data.all_series for run in series.group.completed]
    origins = [run.record.provenance[-1] if run.record.provenance else {} for run in runs]
    if any(origin.get("workers", 1) != 1 for origin in origins):
        raise DoesNotApply("runs trained beside others, so their seconds cannot be compared")
    machines = {
        tuple(origin.get(k) for k in ("device", "threads", "cores", "platform")) for origin in origins
    }
    if len(machines) > 1:
        raise DoesNotApply("runs come from different machines, so their seconds cannot be compared")

    def seconds(rows: Sequence[MetricRow]) -> list[float]:
        return list(itertools.accumulate(row.get("train_seconds") or 0.0 for row in rows))

    panels = _panels(plot_data, metric, seconds)
    caption = _caption(plot_data, panels, "Mean over runs of both axes; evaluation not counted")
    return Picture(lines(panels, "seconds of training (s)", phrase(metric), width), caption)


def _metric(plot_data: PlotData) -> str:
    metric = plot_data.metric_of_epochs()
    if metric is None:
        raise DoesNotApply("no completed run has a metric of its epochs")
    return metric


def _panels(
    plot_data: PlotData, metric: str, x_of: Callable[[Sequence[MetricRow]], list[float]]
) -> dict[str, list[Line]]:
    """A line for each group with completed runs, the one that ends best first where there are many."""
    sign = -1 if metric.endswith("_loss") else 1
    panels: dict[str, list[Line]] = {}
    for task, all_series in plot_data.tasks.items():
        drawn = [line for series in all_series if (line := _line(series, metric, x_of)) is not None]
        if len(drawn) > MOST:
            drawn.sort(key=lambda line: -sign * line.y[-1])
        if drawn:
            panels[task] = drawn
    if not panels:
        raise DoesNotApply(f"no group has {metric} at an epoch that all its runs have")
    return panels


def _line(series: Series, metric: str, x_of: Callable[[Sequence[MetricRow]], list[float]]) -> Line | None:
    """Mean and spread of a group at every epoch that all its completed runs have."""
    unit = scale(metric)
    xs = [x_of(rows) for rows in series.rows]
    line = Line(series.label, len(xs), [], [], [], [])
    for i in range(min(map(len, series.rows), default=0)):
        found = (rows[i].get(metric) for rows in series.rows)
        values = [unit * value for value in found if value is not None]
        centre = mean(values)
        if centre is None or centre.n < len(xs):
            continue
        line.x.append(math.fsum(x[i] for x in xs) / len(xs))
        line.y.append(centre.mean)
        if centre.half is not None and not series.group.mixed:
            line.low.append(centre.mean - centre.half)
            line.high.append(centre.mean + centre.half)
        elif len(xs) > 1:
            line.low.append(min(values))
            line.high.append(max(values))
    return line if line.y else None


def _caption(plot_data: PlotData, panels: dict[str, list[Line]], what: str) -> str:
    mixed = [series for series in plot_data.all_series if series.group.mixed and len(series.rows) > 1]
    sizes = {len(series.rows) for series in plot_data.all_series if series not in mixed}
    parts = []
    if any(n >= FEWEST for n in sizes):
        parts.append("95 % t-interval")
    if 2 in sizes or mixed:
        causes = ["n = 2"] * (2 in sizes) + ["runs differ in more than their seed"] * bool(mixed)
        parts.append(f"minimum to maximum where {' or '.join(causes)}")
    sentences = [f"{what}; bands: {', '.join(parts)}." if parts else f"{what}; one run each, so no bands."]
    sentences += [
        f"{task}: the {MOST} of {len(several)} that end best."
        for task, several in panels.items()
        if len(several) > MOST
    ]
    others = sum(series.group.statuses.total() - len(series.rows) for series in plot_data.all_series)
    if others:
        runs = "1 run is" if others == 1 else f"{others} runs are"
        sentences.append(f"{runs} not drawn: not completed, or unreadable.")
    return " ".join(sentences)
