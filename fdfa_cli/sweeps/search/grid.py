"""Every combination of listed values, in one round."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from fdfa_cli.recipe.sweep import Overrides, Sweep
from fdfa_cli.sweeps.observation import Observation


def next_round(sweep: Sweep, observations: Sequence[Observation]) -> list[Overrides]:
    """Every combination, the last parameter changing fastest; every space must be listed."""
    if observations:
        return []
    listed = [space.listed or () for space in sweep.parameters.values()]
    return [dict(zip(sweep.parameters, values, strict=True)) for values in itertools.product(*listed)]
