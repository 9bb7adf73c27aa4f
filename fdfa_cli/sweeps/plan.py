"""From a recipe to the trials of its sweep. Pure: nothing is trained, read or written here.

Every trial is the recipe under other values, resolved and checked as `fdfa train` would before any of them
starts; whatever is wrong with one of them is reported at its place in the recipe, once. A plan has rounds: a
search that learns adds the next one when all before it are at their end, any other search has one round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from fdfa_cli.document.load import Document, Finding, Place, fail
from fdfa_cli.recipe.resolve import resolve
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.sweep import MAX_TRIALS, SEARCHES, Sweep
from fdfa_cli.sweeps import search
from fdfa_cli.sweeps.observation import Observation
from fdfa_cli.trials.plan import (
    Configuration,
    Trial,
    check_searchable,
    check_seed,
    collect,
    configure,
    without_sections,
)


@dataclass(frozen=True)
class SweepPlan:
    """A sweep as far as it is known: the recipe, its section, and what to train, round by round.

    Its folder is called after `name`. Draws that agree are one configuration, which then stands in `rounds`
    once for each draw.
    """

    name: str
    base: Recipe
    sweep: Sweep
    document: Document = field(repr=False)
    rounds: tuple[tuple[Configuration, ...], ...] = ()

    @cached_property
    def draws(self) -> list[Configuration]:
        """The configurations of all rounds in the order in which they were drawn."""
        return [configuration for drawn in self.rounds for configuration in drawn]

    @cached_property
    def configurations(self) -> list[Configuration]:
        """The configurations of all rounds, each once."""
        return list({configuration.number: configuration for configuration in self.draws}.values())

    @property
    def trials(self) -> list[Trial]:
        """The trials of all configurations, seed by seed within each of them."""
        return [trial for configuration in self.configurations for trial in configuration.trials]

    @property
    def left(self) -> int:
        """The number of configurations that are still to be drawn, in rounds to come."""
        return 0 if self.sweep.trials is None else self.sweep.trials - len(self.draws)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds under which every configuration is trained."""
        return self.sweep.seed_list(self.base.training.seed)

    def extended(self, observations: Sequence[Observation]) -> SweepPlan | None:
        """The plan with one more round, after `observations` of all `draws`; None where there is none.

        Raises `RecipeError` with everything that is wrong with the trials of the round.
        """
        overrides = search.next_round(self.sweep, observations)
        if not overrides:
            return None
        known = {c.trials[0].identity: c for c in self.configurations}
        drawn = []

        def build(overrides: Mapping[str, Any]) -> None:
            new = self._configure(overrides, len(known) + 1)
            drawn.append(known.setdefault(new.trials[0].identity, new))

        collect(build, overrides)
        return replace(self, rounds=(*self.rounds, tuple(drawn)))

    def check_ends(self) -> None:
        """Raise `RecipeError` where a trial at one end of one parameter's values is wrong.

        This is for a search of which only the first round is known before it is trained.
        """
        alone = [{key: value} for key, space in self.sweep.parameters.items() for value in space.ends]
        collect(lambda overrides: self._configure(overrides, 0), alone)

    def _configure(self, overrides: Mapping[str, Any], number: int) -> Configuration:
        def place_of(key: str, value: Any) -> Place:
            return _place(self.document, self.sweep, key, value)

        def key_place(key: str) -> Place:
            return self.document.key_place(("sweep", "parameters", key))

        base = without_sections(self.document)
        return configure(base, overrides, self.seeds, number, place_of, key_place)


def plan_sweep(document: Document, name: str = "recipe") -> SweepPlan:
    """The sweep that a recipe asks for, with its first round; `name` is what its folder is called after.

    Raises `RecipeError` with everything that is wrong with the recipe, its section, or any trial.
    """
    recipe = resolve(document).recipe
    sweep = recipe.sweep
    if sweep is None:
        raise fail([Finding(document.place(()), "no section sweep: it says what to try (see the README)")])
    _check(recipe, sweep, document)
    empty = SweepPlan(name, recipe.single(), sweep, document)
    if sweep.learns:
        empty.check_ends()
    first = empty.extended(())
    assert first is not None, "the schema asks for at least one"
    return first


def _check(recipe: Recipe, sweep: Sweep, document: Document) -> None:
    """Raise `RecipeError` for what is wrong with the section, but cannot be seen by its schema."""
    findings = []
    for key, space in sweep.parameters.items():
        place = document.key_place(("sweep", "parameters", key))
        findings += check_searchable(key, place)
        if not SEARCHES[sweep.search].draws and space.listed is None:
            message = f"{key}: a {sweep.search} needs values: […], or a step for its range"
            findings.append(Finding(place, message))
    count = sweep.trials or math.prod(len(space.listed or ()) for space in sweep.parameters.values())
    count *= len(sweep.seed_list(0))
    if count > MAX_TRIALS:
        place = document.place(("sweep",))
        findings.append(
            Finding(place, f"{count} trials are more than the {MAX_TRIALS} that a sweep may have")
        )
    findings += check_seed(document, sweep.seeds, "sweep")
    if sweep.metric.startswith("val_") and not recipe.data.validation:
        place = document.place(("sweep", "metric"))
        findings.append(Finding(place, f"{sweep.metric} needs a validation set, but data.validation is 0"))
    if findings:
        raise fail(findings)


def _place(document: Document, sweep: Sweep, key: str, value: Any) -> Place:
    """Where the recipe says that `key` may be `value`: at the listed value, else at the parameter."""
    path = ("sweep", "parameters", key)
    values = sweep.parameters[key].values
    if values is not None:
        index = next(i for i, listed in enumerate(values) if listed is value or listed == value)
        return document.place((*path, "values", index))
    return document.place(path)
