"""Which configurations a search looks at.

Random and Sobol searches place points u in [0, 1)ᴰ, one coordinate for each of the D parameters, which
`Space.at` turns into values. Point i depends on nothing but the seed of the search and i, so asking for
more points keeps the first ones. TPE learns: its points come in rounds, each a function of the seed and of
what all rounds before it came to.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from fdfa_cli.recipe.sweep import Overrides, Space, Sweep, Tpe, random
from fdfa_cli.sweeps.observation import Observation


def next_round(sweep: Sweep, observations: Sequence[Observation]) -> list[Overrides]:
    """The configurations to look at once those of all rounds before are `observations`, in the order of both.

    None when the search is at its end. Every search but TPE has one round.
    """
    if sweep.search == "tpe":
        return _next_of_tpe(sweep, observations)
    if observations:
        return []
    if sweep.search == "grid":
        return list(grid(sweep.parameters))
    assert sweep.trials is not None, "the schema asks for it"
    if sweep.search == "random":
        return [random(sweep.parameters, sweep.seed, i) for i in range(sweep.trials)]
    return sobol(sweep.parameters, sweep.seed, sweep.trials)


def grid(parameters: Mapping[str, Space]) -> Iterator[Overrides]:
    """Every combination, the last parameter changing fastest. Every space must be listed."""
    listed = [space.listed or () for space in parameters.values()]
    for values in itertools.product(*listed):
        yield dict(zip(parameters, values, strict=True))


def sobol(parameters: Mapping[str, Space], seed: int, count: int) -> list[Overrides]:
    """The first `count` points of Sobol's sequence, scrambled by `seed` (Owen 1998, through scipy)."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(parameters), scramble=True, rng=seed)
    # Asked for a power of two, as the sequence likes it: the points before it are the same.
    points = sequence.random_base2((count - 1).bit_length())[:count]
    return [
        {key: space.at(float(u)) for (key, space), u in zip(parameters.items(), point, strict=True)}
        for point in points
    ]


def _next_of_tpe(sweep: Sweep, observations: Sequence[Observation]) -> list[Overrides]:
    from fdfa_cli.sweeps.tpe import suggest

    assert sweep.trials is not None, "the schema asks for it"
    options, left = sweep.tpe or Tpe(), sweep.trials - len(observations)
    if not observations:
        return [random(sweep.parameters, sweep.seed, i) for i in range(min(options.startup, left))]
    return suggest(sweep.parameters, sweep.seed, observations, min(options.round, left))
