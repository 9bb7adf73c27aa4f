"""Schedules of the learning rate, in closed form: `factor(t)` multiplies the optimizer's `lr`.

`t` is the training time in epochs, a fraction inside an epoch. Each schedule is checked against torch's
own in the tests; the closed form makes a resumed run and a stacked trial read the same rate.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.registry import Named, Registry


class Schedule(Named):
    """A schedule of the learning rate; `warmup` epochs of linear increase from 0 come before the rest."""

    warmup: Annotated[float, Field(ge=0, description="epochs of linear warm-up")] = 0.0

    def factor(self, t: float, epochs: int) -> float:
        """The multiplier of the rate at time `t` (epochs) of a training of `epochs` epochs."""
        if t < self.warmup:
            return t / self.warmup
        return self.decay(t - self.warmup, epochs - self.warmup)

    @abstractmethod
    def decay(self, t: float, epochs: float) -> float:
        """The multiplier `t` epochs after the warm-up, `epochs` of which there are."""


SCHEDULES: Registry[Schedule] = Registry("schedule", "fdfa_cli.optim.schedules")


@SCHEDULES.register
class Constant(Schedule):
    """The rate stays the same throughout."""

    name: Literal["constant"] = "constant"

    @override
    def decay(self, t: float, epochs: float) -> float:
        return 1.0


@SCHEDULES.register
class Exponential(Schedule):
    """The rate is multiplied by `gamma` after every epoch: gamma^⌊t⌋."""

    name: Literal["exponential"] = "exponential"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.95

    @override
    def decay(self, t: float, epochs: float) -> float:
        return float(self.gamma ** math.floor(t))


@SCHEDULES.register
class Step(Schedule):
    """The rate is multiplied by `gamma` every `every` epochs: gamma^⌊t / every⌋."""

    name: Literal["step"] = "step"
    every: Annotated[int, Field(ge=1, description="epochs")] = 10
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1

    @override
    def decay(self, t: float, epochs: float) -> float:
        return float(self.gamma ** math.floor(t / self.every))


@SCHEDULES.register
class Cosine(Schedule):
    """The rate follows half a cosine from its full value to `floor` times that, and moves at every step."""

    name: Literal["cosine"] = "cosine"
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0

    @override
    def decay(self, t: float, epochs: float) -> float:
        """The multiplier falls from 1 to the floor: floor + (1 − floor)(1 + cos(π t / epochs)) / 2."""
        progress = min(t / epochs, 1.0) if epochs > 0 else 1.0
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
