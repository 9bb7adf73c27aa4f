"""The values of a swept parameter along an axis: numbers to scale, anything else side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fdfa_cli.recipe.write import plain
from fdfa_cli.report.plots.style import legible

if TYPE_CHECKING:
    from matplotlib.axis import Axis

#: A parameter with more values than this was drawn at random; its range is cut into as many intervals.
MOST_VALUES = 12
#: Numbers over as many times their smallest get a logarithmic axis.
_WIDE = 10


class Parameter:
    """The axis of the parameter `key`, which takes `values`."""

    def __init__(self, key: str, values: Sequence[Any]) -> None:
        self.key = key
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        self.numeric = len(numbers) == len(values)
        self.log = self.numeric and min(numbers) > 0 and max(numbers) / min(numbers) > 0.999 * _WIDE
        self.values = sorted(set(numbers)) if self.numeric else list({str(v): v for v in values}.values())
        self.names = [f"{v:g}" if isinstance(v, float) else legible(plain(v)) for v in self.values]
        self._places = {str(value): i for i, value in enumerate(self.values)}

    @property
    def binned(self) -> bool:
        """Whether there are more values than cells."""
        return self.numeric and len(self.values) > MOST_VALUES

    def place(self, value: Any) -> float:
        """Where `value` is on the axis."""
        return float(value) if self.numeric else self._places[str(value)]

    def cell(self, value: Any) -> int:
        """The index of its value, or of the interval it lies in."""
        if not self.binned:
            return self._places[str(value)]
        low, high, at = (math.log(v) if self.log else v for v in (self.values[0], self.values[-1], value))
        return min(int((at - low) / (high - low) * MOST_VALUES), MOST_VALUES - 1)

    @property
    def cells(self) -> list[str]:
        """The name of each cell: a value, or the middle of an interval."""
        if not self.binned:
            return self.names
        ends = [math.log(v) if self.log else v for v in (self.values[0], self.values[-1])]
        middles = [ends[0] + (ends[1] - ends[0]) * (i + 0.5) / MOST_VALUES for i in range(MOST_VALUES)]
        return [f"{math.exp(m) if self.log else m:.2g}" for m in middles]

    def draw(self, axis: Axis) -> None:
        """Scale and ticks: the values themselves where they are few."""
        from matplotlib.ticker import FixedLocator, NullLocator

        if self.log:
            axis.axes.set_xscale("log")
        if not self.numeric:
            axis.set_ticks(range(len(self.values)), self.names)
        elif len(self.values) <= 6:
            axis.set_major_locator(FixedLocator(self.values))
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_locator(NullLocator())
