"""What diagnostics have measured: alignment over training, and variance against what was swept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fdfa_cli.report.plots.axis import Parameter
from fdfa_cli.report.plots.base import DoesNotApply, Picture
from fdfa_cli.report.plots.panels import MOST, Legend, Line, canvas, lines
from fdfa_cli.report.plots.plot_data import PlotData, Series, Sweep
from fdfa_cli.report.plots.style import OVERLAID, legible, line_style
from fdfa_cli.report.varied import varying
from fdfa_cli.stats import FEWEST, mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A row of metrics, a probe in it, or a block of that.
Stored = dict[str, Any]


def alignment(plot_data: PlotData, width: float) -> Picture:
    """Cosine between a rule's error signal and the true one, over training; a panel a block."""
    panels: dict[str, list[Line]] = {}
    for task, all_series in plot_data.tasks.items():
        for series in all_series:
            for block, line in _alignments(series).items():
                title = f"block {block}" if len(plot_data.tasks) == 1 else f"{task}: block {block}"
                panels.setdefault(title, []).append(line)
    if not panels:
        raise DoesNotApply("no completed run was probed twice (section diagnostics of the recipe)")
    shown = _first(panels)
    caption = (
        "Between the error signal that reaches a block and the exact one of the same weights and batch; "
        "where a rule brings none, between the gradients of the block's weights. Mean over seeds"
        + (", bands: 95 % t-interval." if any(line.low for ls in shown.values() for line in ls) else ".")
    )
    if len(shown) < len(panels):
        caption += f" Of {len(panels)} panels there is room for {', '.join(shown)}."
    figure = lines(shown, "epoch", "cosine to the truth", width)
    drawn = [y for several in shown.values() for line in several for y in (*line.y, *line.low)]
    for axes in figure.axes:  # one scale, so that blocks can be compared
        axes.set_ylim(min(0.0, *drawn) - 0.05, 1.05)
    return Picture(figure, caption)


def variance(plot_data: PlotData, width: float) -> Picture:
    """Variance of the gradient estimate against each swept number, measured and in closed form."""
    panels = dict(list(_variances(plot_data))[:MOST])
    if not panels:
        raise DoesNotApply("no sweep has measured a variance over draws under several values of one number")
    labels = list(dict.fromkeys(curve.label for several in panels.values() for curve in several))
    styles = {label: line_style(i) for i, label in enumerate(labels)}
    columns = min(len(panels), max(1, int(width // 3.3)))
    rows = -(-len(panels) // columns)
    below = Legend.of(labels, width)
    figure = canvas(width if columns > 1 else min(width, 5.0), 3.0 * rows + below.height)
    handles: dict[str, Any] = {}
    all_axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, ((title, key), several) in zip(all_axes, panels.items(), strict=False):
        axis = Parameter(key, [x for curve in several for x in curve.x])
        for curve in several:
            style = styles[curve.label]
            keywords = style.line() | {"fillstyle": "none", "markersize": 6}
            measured = keywords if not curve.theory else keywords | {"linestyle": "none"}
            axes.plot(curve.x, curve.y, **measured)
            axes.plot(*curve.theory_line, color=style.color, linestyle=style.dashes)
            (handles[curve.label],) = axes.plot([], [], **keywords)
        axis.draw(axes.xaxis)
        _logarithmic(axes, [y for curve in several for y in curve.y])
        axes.set(title=title, xlabel=key, ylabel="variance / ‖gradient‖²")
    for axes in all_axes[len(panels) :]:
        axes.remove()
    below.draw(figure, [handles[label] for label in labels])
    caption = (
        "Of the estimate of a block's gradient over fresh perturbations, summed over its weights and divided "
        "by the squared norm of the exact gradient, at the last probe; mean over seeds. Markers: measured. "
        "Lines without markers: the closed form, where there is one."
    )
    return Picture(figure, caption)


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic scale, its ticks at powers of ten, or at 1, 2 and 5 of them where there would be few."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    wide = max(values) / min(values) > 100
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: _power(value) if wide else f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: "")


def _first(panels: dict[str, list[Line]]) -> dict[str, list[Line]]:
    """The first panels, so many as one page holds where every line gets a panel of its own."""
    if max(map(len, panels.values())) <= OVERLAID:
        return dict(list(panels.items())[:MOST])
    shown: dict[str, list[Line]] = {}
    for title, several in panels.items():
        if shown and sum(map(len, shown.values())) + len(several) > MOST:
            break
        shown[title] = several
    return shown


def _power(value: float) -> str:
    """A power of ten: 10⁻³."""
    exponent = str(round(math.log10(value)))
    return "10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


# --- alignment -------------------------------------------------------------------------------------------


def _alignments(series: Series) -> dict[int, Line]:
    """A line for each block over all probes that every run of the group has."""
    runs = [_probes(rows) for rows in series.rows]
    found: dict[int, Line] = {}
    for probes in zip(*runs, strict=False):
        for blocks in zip(*(probe["blocks"] for probe in probes), strict=False):
            key = "signal_cosine" if "signal_cosine" in blocks[0] else "weight_cosine"
            values = [block[key] for block in blocks if block.get(key) is not None]
            centre = mean(values)
            if centre is None or centre.n < len(blocks):
                continue
            label = series.label if key == "signal_cosine" else f"{series.label}, gradients"
            line = found.setdefault(blocks[0]["block"], Line(label, len(runs), [], [], [], []))
            line.x.append(probes[0]["epoch"])
            line.y.append(centre.mean)
            if len(runs) >= FEWEST:
                line.low.append(centre.mean - (centre.half or 0.0))
                line.high.append(centre.mean + (centre.half or 0.0))
    return {block: line for block, line in found.items() if len(line.x) > 1}


# --- variance --------------------------------------------------------------------------------------------


@dataclass
class _VarianceCurve:
    """Variances `y` at `x`, and of the closed form where there is one."""

    label: str
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    theory: dict[float, float] = field(default_factory=dict)

    @property
    def theory_line(self) -> tuple[list[float], list[float]]:
        """Both coordinates, by rising x."""
        points = sorted(self.theory.items())
        return [x for x, _ in points], [y for _, y in points]


def _variances(plot_data: PlotData) -> Iterator[tuple[tuple[str, str], list[_VarianceCurve]]]:
    """For each sweep, task, block and swept number: a title and a name of the axis, and a series a rule."""
    tasks: dict[tuple[str, str], tuple[Sweep, dict[str, list[Series]]]] = {}
    for sweep in plot_data.sweeps:
        for series in sweep.all_series:
            of_task = tasks.setdefault((legible(sweep.study.name), series.task), (sweep, {}))
            of_task[1].setdefault(series.rule, []).append(series)
    for names, (sweep, by_rule) in tasks.items():
        found: dict[tuple[int, str], list[_VarianceCurve]] = {}
        for rule, all_series in by_rule.items():
            axis = _axis(all_series, sweep)
            if axis is None:
                continue
            name, values = axis
            curve: dict[int, _VarianceCurve] = {}
            for x, series in sorted(zip(values, all_series, strict=True), key=lambda pair: pair[0]):
                for block, (measured, theory) in _at_last_probe(series).items():
                    line = curve.setdefault(block, _VarianceCurve(rule))
                    line.x.append(x)
                    line.y.append(measured)
                    if theory is not None:
                        line.theory[x] = theory
            for block, line in curve.items():
                if len(line.x) > 1:
                    found.setdefault((block, name), []).append(line)
        above = [part for i, part in enumerate(names) if len({each[i] for each in tasks}) > 1]
        for (block, name), several in sorted(found.items(), key=lambda item: item[0]):
            yield (": ".join([*above, f"block {block}"]), name), several


def _axis(all_series: Sequence[Series], sweep: Sweep) -> tuple[str, list[float]] | None:
    """The one number in which all `all_series` of `sweep` differ, and its name; None where it is not one."""
    keys = [key for key in varying([series.choices for series in all_series]) if sweep.study.varies(key)]
    if len(keys) != 1:
        return None
    values = [series.choices.get(keys[0]) for series in all_series]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return keys[0], [float(v) for v in values if v is not None]
    lists = [v for v in values if isinstance(v, list) and _equal_numbers(v)]
    if len(lists) < len(values):
        return None
    if len({len(v) for v in lists}) == 1:
        return f"{keys[0]} (units)", [float(v[0]) for v in lists]
    if len({v[0] for v in lists}) == 1:
        return f"{keys[0]} (layers)", [float(len(v)) for v in lists]
    return None


def _equal_numbers(values: list[Any]) -> bool:
    """Whether `values` are one number some times over, as the units of equal layers are."""
    return all(isinstance(v, int | float) and v == values[0] for v in values) and len(values) > 0


def _probes(rows: Sequence[Stored]) -> list[Stored]:
    """All of a run."""
    return [probe for row in rows for probe in row.get("diagnostics") or ()]


def _at_last_probe(series: Series) -> dict[int, tuple[float, float | None]]:
    """Measured variance and closed form of every block, means over seeds; of variances above zero."""
    blocks: dict[int, list[Stored]] = {}
    for rows in series.rows:
        for probe in _probes(rows)[-1:]:
            for block in probe["blocks"]:
                if block.get("variance"):
                    blocks.setdefault(block["block"], []).append(block)
    found = {}
    for block, several in blocks.items():
        measured = mean([b["variance"] for b in several])
        theory = mean([b["variance_theory"] for b in several if b.get("variance_theory") is not None])
        if measured is not None:
            found[block] = (measured.mean, None if theory is None else theory.mean)
    return found
