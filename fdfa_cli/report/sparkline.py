"""Learning curves in a cell of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fdfa_cli.tables import Column

#: The name of the column.
CURVE = "curve"
BLOCKS = "▁▂▃▄▅▆▇█"
#: Stands for an epoch without a finite value.
GAP = "·"
WIDTH = 12
#: What may stand in for a metric that no epoch has, in this order.
FALLBACKS = ("val_accuracy", "train_accuracy", "val_loss", "train_loss")

#: The metrics of a run, a row an epoch.
MetricRows = Sequence[dict[str, Any]]


def sparkline(values: Sequence[float | None], width: int = WIDTH) -> str | None:
    """`values` as a line of blocks from their lowest to their highest; None where there are none.

    Of more values than `width`, some at even distances, the first and the last among them.
    """
    there = [value for value in values if value is not None]
    if not there:
        return None
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    low, high = min(there), max(there)
    spread = high - low or 1.0
    return "".join(
        GAP if value is None else BLOCKS[round((value - low) / spread * (len(BLOCKS) - 1))]
        for value in values
    )


def metric_of_epochs(curves: Sequence[MetricRows], wanted: Sequence[str]) -> str:
    """The first of the `wanted` metrics, else of `FALLBACKS`, that some epoch of some run has."""
    there = {name for rows in curves for row in rows for name in row}
    return next((name for name in (*wanted, *FALLBACKS) if name in there), FALLBACKS[0])


def mean_curve(curves: Sequence[MetricRows], metric: str) -> list[float | None]:
    """The mean of `metric` over runs, after each epoch that all of them have; None where one lacks it."""
    means: list[float | None] = []
    for rows in zip(*curves, strict=False):
        values = [value for row in rows if (value := row.get(metric)) is not None]
        means.append(sum(values) / len(values) if len(values) == len(rows) else None)
    return means


def curve_column(metric: str) -> Column:
    """The column of curves of `metric`."""
    return Column(CURVE, f"{metric.replace('_', ' ').replace('accuracy', 'acc')} by epoch", "curve")
