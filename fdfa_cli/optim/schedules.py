"""Schedules of the learning rate, in closed form: `factor(t)` multiplies the optimizer's `lr`.

`t` is the training time in epochs, a fraction inside an epoch. Each schedule is checked against torch's
own in the tests; the closed form makes a resumed run and a stacked trial read the same rate.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field

from fdfa_cli.registry import Named, Registry


class Schedule(Named):
    """How the learning rate moves. `warmup` epochs of linear increase from 0 come before the rest."""

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
    """The same rate throughout."""

    name: Literal["constant"] = "constant"

    def decay(self, t: float, epochs: float) -> float:
        """1."""
        return 1.0


@SCHEDULES.register
class Exponential(Schedule):
    """Multiplied by `gamma` after every epoch."""

    name: Literal["exponential"] = "exponential"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.95

    def decay(self, t: float, epochs: float) -> float:
        """gamma^⌊t⌋."""
        return float(self.gamma ** math.floor(t))


@SCHEDULES.register
class Step(Schedule):
    """Multiplied by `gamma` every `every` epochs."""

    name: Literal["step"] = "step"
    every: Annotated[int, Field(ge=1, description="epochs")] = 10
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1

    def decay(self, t: float, epochs: float) -> float:
        """gamma^⌊t / every⌋."""
        return float(self.gamma ** math.floor(t / self.every))


@SCHEDULES.register
class Cosine(Schedule):
    """Half a cosine from the full rate to `floor` times it at the end, moving every step."""

    name: Literal["cosine"] = "cosine"
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0

    def decay(self, t: float, epochs: float) -> float:
        """From 1 to the floor: floor + (1 − floor)(1 + cos(π t / epochs)) / 2."""
        progress = min(t / epochs, 1.0) if epochs > 0 else 1.0
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
