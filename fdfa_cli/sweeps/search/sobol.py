"""The first points of Sobol's sequence, in one round.

Points u in [0, 1)ᴰ, one coordinate for each of the D parameters, become values through `Space.at`. The
sequence is scrambled by the seed of the search (Owen 1998, Discrepancy and complexity, through scipy). Asking
for more points keeps the first ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fdfa_cli.recipe.sweep import Overrides, Space, Sweep
from fdfa_cli.sweeps.observation import Observation


def next_round(sweep: Sweep, observations: Sequence[Observation]) -> list[Overrides]:
    """The first points of the sequence; the recipe's `trials` says how many."""
    return [] if observations else points(sweep.parameters, sweep.seed, sweep.count)


def points(parameters: Mapping[str, Space], seed: int, count: int) -> list[Overrides]:
    """The first `count` points of the sequence that `seed` scrambles."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(parameters), scramble=True, rng=seed)
    # A power of two, because the sequence is balanced over so many; the points before `count` are the same.
    drawn = sequence.random_base2((count - 1).bit_length())[:count]
    return [
        {key: space.at(float(u)) for (key, space), u in zip(parameters.items(), point, strict=True)}
        for point in drawn
    ]
