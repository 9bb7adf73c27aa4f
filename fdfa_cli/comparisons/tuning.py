"""Tuning before a comparison: every rule gets the same number of trainings, and its best values are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fdfa_cli.comparisons.plan import ComparisonPlan
from fdfa_cli.document.load import Place
from fdfa_cli.errors import FdfaError
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.sweep import Space, random
from fdfa_cli.trials.plan import Configuration, configure
from fdfa_cli.trials.store import Store

#: What tuning draws from, for a rule whose recipe has the key.
TUNED = {
    "optimizer.lr": Space(low=1e-5, high=1.0, log=True),
    "rule.feedback_rate": Space(low=1e-4, high=1.0, log=True),
}
#: The metric of the last epoch by which values are chosen.
METRIC = "val_accuracy"


@dataclass(frozen=True)
class Tuning:
    """How the rules were tuned: `budget` trainings each under one `seed`, and what was `chosen`, by rule."""

    budget: int
    seed: int
    chosen: Mapping[str, Mapping[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """What compare.json holds of it."""
        return {
            "metric": METRIC,
            "seed": self.seed,
            "budget": self.budget,
            "spaces": {key: [space.low, space.high] for key, space in TUNED.items()},
            "chosen": {rule: dict(values) for rule, values in self.chosen.items()},
        }


def tuning_seed(plan: ComparisonPlan) -> int:
    """A seed that the comparison itself does not use."""
    return max(plan.seeds) + 1


def candidates(plan: ComparisonPlan, rule: str, budget: int) -> list[Configuration]:
    """What is tried for a rule: its own settings, and `budget` − 1 random draws, under the tuning seed.

    Draw i is the same for all rules, as far as they share the keys.
    """
    own = plan.configurations[rule]
    recipe = own.trials[0].recipe
    spaces = {key: space for key, space in TUNED.items() if _has(recipe, key)}
    draws = [{}, *(random(spaces, 0, number) for number in range(1, budget))]
    seeds = [tuning_seed(plan)]
    return [
        configure(plan.document, {**own.overrides, **draw}, seeds, number, _nowhere)
        for number, draw in enumerate(draws, start=1)
    ]


def choose(plan: ComparisonPlan, tried: Mapping[str, list[Configuration]], store: Store) -> Tuning:
    """For every rule the values of the candidate that is best in `store`; of equals the earlier one.

    Raises `FdfaError` where not one training of a rule was completed.
    """
    chosen, budget = {}, max(map(len, tried.values()))
    for rule, configurations in tried.items():
        values = [store.value(candidate.trials[0], METRIC) for candidate in configurations]
        known = [(value, -i) for i, value in enumerate(values) if value is not None]
        if not known:
            raise FdfaError(f"tuning: not one of {budget} trainings of rule {rule!r} was completed")
        chosen[rule] = dict(configurations[-max(known)[1]].overrides)
    return Tuning(budget, tuning_seed(plan), chosen)


def tuned(plan: ComparisonPlan, tuning: Tuning) -> ComparisonPlan:
    """`plan` with the values that were chosen for each rule."""
    configurations = {
        rule: configure(plan.document, values, plan.seeds, 1, _nowhere)
        for rule, values in tuning.chosen.items()
    }
    return replace(plan, configurations=configurations)


def _nowhere(key: str, value: Any) -> Place:
    """Where a drawn value stands: it is within the bounds of its key, and so in no message."""
    return Place(f"{key}={value}")


def _has(recipe: Recipe, key: str) -> bool:
    section, _, option = key.partition(".")
    return option in type(getattr(recipe, section)).model_fields
