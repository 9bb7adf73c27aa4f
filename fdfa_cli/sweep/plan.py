"""From a recipe to its trials. Pure: nothing is trained, read or written here.

Every trial is the recipe under other values, resolved and checked as `fdfa train` would, before any of
them starts; whatever is wrong with any of them is reported at its place in the recipe, once. A plan has
rounds: a search that learns adds the next one when all before it are at their end, any other has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from fdfa_cli.errors import Problem, RecipeError
from fdfa_cli.recipe.execution import EXECUTION_FIELDS
from fdfa_cli.recipe.load import Document, Finding, Place, fail
from fdfa_cli.recipe.overrides import assign, change
from fdfa_cli.recipe.resolve import resolve
from fdfa_cli.recipe.schema import MANY, Recipe
from fdfa_cli.recipe.write import identities
from fdfa_cli.sweep import search
from fdfa_cli.sweep.options import MAX_TRIALS, Sweep
from fdfa_cli.sweep.search import Told

SEED = "training.seed"


@dataclass(frozen=True)
class Trial:
    """One training: the recipe of its configuration, its seed, and the identity by which a store knows it."""

    configured: Recipe
    seed: int
    identity: str

    @classmethod
    def of(cls, recipe: Recipe, seeds: Sequence[int]) -> tuple[Trial, ...]:
        """The trials that train `recipe`, one a seed.

        On one CPU thread unless the recipe says otherwise: sums then round the same whichever engine
        trains it, beside however many others.
        """
        threads = recipe.training.threads or 1
        recipe = _with_training(recipe.single(), threads=threads)
        known = zip(seeds, identities(recipe, seeds), strict=True)
        return tuple(cls(recipe, seed, key) for seed, key in known)

    @property
    def recipe(self) -> Recipe:
        """The complete recipe; made when it is asked for, since most trials of a large plan are done."""
        return _with_training(self.configured, seed=self.seed)

    @property
    def epochs(self) -> int:
        """How long it trains."""
        return self.configured.training.epochs


@dataclass(frozen=True)
class Configuration:
    """Values for some keys of the recipe, and a trial for each seed. `number` counts from 1."""

    number: int
    overrides: Mapping[str, Any]
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Plan:
    """A sweep as far as it is known: the recipe, its section, and what to train, round by round.

    Draws that agree are one configuration, which then stands in `rounds` once for each draw.
    """

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
        """All of them, each once."""
        return list({configuration.number: configuration for configuration in self.draws}.values())

    @property
    def trials(self) -> list[Trial]:
        """All of them, seed by seed within each configuration."""
        return [trial for configuration in self.configurations for trial in configuration.trials]

    @property
    def left(self) -> int:
        """How many configurations are to be drawn in rounds to come."""
        return 0 if self.sweep.trials is None else self.sweep.trials - len(self.draws)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those under which every configuration is trained."""
        return self.sweep.seed_list(self.base.training.seed)

    def extended(self, told: Sequence[Told]) -> Plan | None:
        """The plan with one more round, once all `draws` are at their end; None where there is none.

        Raises `RecipeError` with everything that is wrong with the round's trials.
        """
        overrides = search.next_round(self.sweep, told)
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
        """Check trials at the ends of every parameter's values, one parameter at a time.

        Raises `RecipeError`. For a search of which only the first round is known before it is trained.
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


def plan(document: Document) -> Plan:
    """The sweep that a recipe file asks for, up to and including its first round.

    Raises `RecipeError` with everything that is wrong with the recipe, its section, or any trial.
    """
    recipe = resolve(document).recipe
    sweep = recipe.sweep
    if sweep is None:
        raise fail([Finding(document.place(()), "no section sweep: it says what to try (see the README)")])
    _check(recipe, sweep, document)
    empty = Plan(recipe.single(), sweep, document)
    if sweep.search == "tpe":
        empty.check_ends()
    first = empty.extended(())
    assert first is not None, "the schema asks for at least one"
    return first


def configure(
    base: Document,
    overrides: Mapping[str, Any],
    seeds: Sequence[int],
    number: int,
    place_of: Callable[[str, Any], Place],
    key_place: Callable[[str], Place] | None = None,
) -> Configuration:
    """The trials of `base` under `overrides`, one a seed.

    `place_of` says where a key's value was written; `key_place` where the key was, and is given where a
    person chose `overrides`: then one of them that throws away another one, or what `base` was given, is
    an error too. Raises `RecipeError` at these places.
    """
    document = base
    for key, value in overrides.items():
        path, place = tuple(key.split(".")), place_of(key, value)
        try:
            if key_place is None:
                document = assign(document, path, value, place)
            else:
                document = change(document, path, value, place, key_place(key))
        except ValueError as error:
            raise fail([Finding(place, str(error))]) from error
    return Configuration(number, dict(overrides), Trial.of(resolve(document).recipe, seeds))


def collect(build: Callable[[Mapping[str, Any]], object], overrides: Iterable[Mapping[str, Any]]) -> None:
    """Call `build` on all `overrides`; raises `RecipeError` with the problems of all of them, each once."""
    problems: dict[Problem, None] = {}
    for chosen in overrides:
        try:
            build(chosen)
        except RecipeError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise RecipeError(list(problems))


def without_sections(document: Document) -> Document:
    """`document` as a single run's: without the sections that say what else to train."""
    tree = {key: value for key, value in document.tree.items() if key not in MANY}
    return replace(document, tree=tree, given=tuple(g for g in document.given if g.path[0] not in MANY))


def check_searchable(key: str, place: Place) -> list[Finding]:
    """What is wrong with changing `key` from trial to trial, in one comparison of trials."""
    section, _, option = key.partition(".")
    if section in MANY:
        return [Finding(place, f"{key} is no part of a single run, so it cannot change between runs")]
    if key == SEED:
        return [Finding(place, f"{SEED} is not a parameter: list the seeds under `seeds`")]
    if section == "training" and option in EXECUTION_FIELDS:
        return [Finding(place, f"{key} changes where a run computes, not what: set it in its section")]
    return []


def check_seed(document: Document, seeds: int | tuple[int, ...], section: str) -> list[Finding]:
    """What is wrong with a seed that was asked for beside the list `seeds` of the `section`."""
    if isinstance(seeds, int):
        return []
    where = document.place((section, "seeds")).where
    message = f"{SEED} has no effect, since {where} lists the seeds: give {section}.seeds=[…] instead"
    return [
        Finding(given.place, message)
        for given in document.given
        if given.path == ("training", "seed") or (given.path == ("training",) and "seed" in given.value)
    ]


def _with_training(recipe: Recipe, **changed: Any) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changed)})


def _check(recipe: Recipe, sweep: Sweep, document: Document) -> None:
    """What the schema of the section cannot see; raises `RecipeError`."""
    findings = []
    for key, space in sweep.parameters.items():
        place = document.key_place(("sweep", "parameters", key))
        findings += check_searchable(key, place)
        if sweep.search == "grid" and space.listed is None:
            message = f"{key}: a grid needs values: […], or a step for its range"
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
