"""The recipe's ``diagnostics`` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from fdfa_cli.registry import Options


class Diagnostics(Options):
    """What to measure of the rule beside training, and when: its training digits stay the same."""

    every: Annotated[
        int | None, Field(ge=1, description="epochs between probes, from 0 on; 1 where no steps are given")
    ] = None
    steps: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], Field(description="training steps taken before a probe")
    ] = ()
    draws: Annotated[
        int, Field(ge=0, description="fresh perturbations for bias and variance; 0 for none, else 2 or more")
    ] = 8
    settle: Annotated[
        int,
        Field(
            ge=0,
            description="steps on the probe batch, weights held still, before the draws, through which the "
            "rule's state keeps moving; with 0 it is held still too",
        ),
    ] = 0
    batches: Annotated[
        int,
        Field(ge=0, description="mini-batches for the variance between them; 0 for none, else 2 or more"),
    ] = 4
    jacobians: Annotated[
        bool, Field(description="compare the feedback with the Jacobians: a backward pass a class")
    ] = True

    @field_validator("draws", "batches")
    @classmethod
    def _more_than_one(cls, count: int) -> int:
        if count == 1:
            raise ValueError("one has no variance: give 0 for none, or 2 and more")
        return count

    def due(self, step: int, epoch_steps: int) -> bool:
        """Whether to probe after `step` steps of training, of which there are `epoch_steps` an epoch."""
        every = self.every or (None if self.steps else 1)
        return step in self.steps or (every is not None and step % (every * epoch_steps) == 0)
