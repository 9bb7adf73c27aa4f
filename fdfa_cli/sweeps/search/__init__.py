"""The searches: which configurations a sweep trains.

A search is a function of the recipe's section and of what all configurations before came to. It returns the
configurations of the next round, none when the search is at its end. To add one, write a module here with
such a function `next_round`, and give it a row in `SEARCHES` and in `recipe.sweep.SEARCHES`, which says what
a recipe must give for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fdfa_cli.recipe.sweep import Overrides, Sweep
from fdfa_cli.sweeps.observation import Observation
from fdfa_cli.sweeps.search import grid, random, sobol, tpe

#: The searches by the name that a recipe gives.
SEARCHES: Mapping[str, Callable[[Sweep, Sequence[Observation]], list[Overrides]]] = {
    "grid": grid.next_round,
    "random": random.next_round,
    "sobol": sobol.next_round,
    "tpe": tpe.next_round,
}


def next_round(sweep: Sweep, observations: Sequence[Observation]) -> list[Overrides]:
    """The configurations that `sweep` trains after those of all rounds before, which came to `observations`.

    Both are in the order in which they were drawn. The list is empty when the search is at its end.
    """
    return SEARCHES[sweep.search](sweep, observations)
