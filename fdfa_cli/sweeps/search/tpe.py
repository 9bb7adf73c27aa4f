"""Suggestions of tree-structured Parzen estimators, through Optuna, in rounds.

Source: Bergstra et al. 2011 (Algorithms for hyper-parameter optimization, NeurIPS), with one estimate of all
parameters together as in Falkner et al. 2018 (BOHB, ICML). Optuna's study is made anew for every round, from
what the store holds, and its sampler is seeded by the round: nothing is remembered that an interruption could
lose, and no worker that is faster than another can change what comes next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fdfa_cli.recipe.sweep import Overrides, Space, Sweep, Tpe
from fdfa_cli.sweeps.observation import Observation
from fdfa_cli.sweeps.search import random

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


def next_round(sweep: Sweep, observations: Sequence[Observation]) -> list[Overrides]:
    """Independent draws first, and then rounds that are suggested from what all rounds before came to."""
    options, left = sweep.tpe or Tpe(), sweep.count - len(observations)
    if not observations:
        return random.draws(sweep, min(options.startup, left))
    return suggest(sweep.parameters, sweep.seed, observations, min(options.round, left))


def suggest(
    parameters: Mapping[str, Space], seed: int, observations: Sequence[Observation], count: int
) -> list[Overrides]:
    """`count` configurations to train after `observations`; the first ones are the same for any `count`.

    Those that were suggested already count as poor while they have no result ("constant liar"), or else a
    round would be the same configuration many times.
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
    """Optuna's distribution for `space`; listed values go by their number, in order where they are steps."""
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
    """`observation` for Optuna.

    Optuna ranks one that was pruned by the epoch that it reached, and one without a score last.
    """
    from optuna.trial import TrialState, create_trial

    score, epoch = observation.score, observation.epoch
    whole = score is not None and epoch is None
    return create_trial(
        state=TrialState.COMPLETE if whole else TrialState.PRUNED,
        value=score if whole else None,
        params={key: _coordinate(space, observation.overrides[key]) for key, space in parameters.items()},
        distributions=spaces,
        intermediate_values={} if score is None or epoch is None else {epoch: score},
    )
