"""Independent draws, in one round.

Draw i depends on nothing but the seed of the search, i and the key, so asking for more draws keeps the first
ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from fdfa_cli.recipe.sweep import Overrides, Sweep, random
from fdfa_cli.sweeps.observation import Observation


def next_round(sweep: Sweep, observations: Sequence[Observation]) -> list[Overrides]:
    """Independent draws; the recipe's `trials` says how many."""
    return [] if observations else draws(sweep, sweep.count)


def draws(sweep: Sweep, count: int) -> list[Overrides]:
    """The first `count` draws of `sweep`."""
    return [random(sweep.parameters, sweep.seed, number) for number in range(count)]
