"""Suggestions by tree-structured Parzen estimators, through Optuna.

Bergstra et al. 2011 (Algorithms for hyper-parameter optimization, NeurIPS), all parameters together as in
Falkner et al. 2018 (BOHB, ICML). A study is made anew for every round, from what the store holds, and its
sampler is seeded by the round: nothing is remembered that an interruption could lose, and no worker that
is faster than another can change what comes next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fdfa_cli.recipe.sweep import Overrides, Space
from fdfa_cli.sweeps.observation import Observation

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


def suggest(
    parameters: Mapping[str, Space], seed: int, observations: Sequence[Observation], count: int
) -> list[Overrides]:
    """`count` configurations to look at after those `observations`, the first ones the same for any `count`.

    Those suggested already count as poor while they have no result ("constant liar"), which keeps a round
    from being one place many times.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spaces = {key: _distribution(space) for key, space in parameters.items()}
    digest = hashlib.sha256(f"{seed}/tpe/{len(observations)}".encode()).digest()
    sampler = optuna.samplers.TPESampler(
        # The first round is complete by now: what it came to is enough to begin with, however little.
        n_startup_trials=0,
        multivariate=True,
        constant_liar=True,
        seed=int.from_bytes(digest[:4], "big"),
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials([_trial(parameters, spaces, one) for one in observations])
    points = [study.ask(spaces).params for _ in range(count)]
    return [{key: _value(space, point[key]) for key, space in parameters.items()} for point in points]


def _distribution(space: Space) -> BaseDistribution:
    """Listed values by their number: as a choice, or, where they are the steps of a range, in order."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if space.values is not None:
        return CategoricalDistribution(range(len(space.values)))
    if (listed := space.listed) is not None:
        return IntDistribution(0, len(listed) - 1)
    assert space.low is not None
    assert space.high is not None
    if space.whole:
        return IntDistribution(int(space.low), int(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)


def _value(space: Space, coordinate: int | float) -> Any:
    """The value of the recipe's key at a coordinate of `_distribution`."""
    listed = space.listed
    return space.nearest(coordinate) if listed is None else listed[int(coordinate)]


def _coordinate(space: Space, value: Any) -> Any:
    """The inverse of `_value`."""
    listed = space.listed
    return value if listed is None else listed.index(value)


def _trial(
    parameters: Mapping[str, Space], spaces: dict[str, BaseDistribution], observation: Observation
) -> FrozenTrial:
    """`observation` for Optuna, which ranks a pruned one by the epoch it reached, and one without a score last."""
    from optuna.trial import TrialState, create_trial

    whole = observation.score is not None and observation.epoch is None
    return create_trial(
        state=TrialState.COMPLETE if whole else TrialState.PRUNED,
        value=observation.score if whole else None,
        params={key: _coordinate(space, observation.overrides[key]) for key, space in parameters.items()},
        distributions=spaces,
        intermediate_values={}
        if observation.score is None or observation.epoch is None
        else {observation.epoch: observation.score},
    )
