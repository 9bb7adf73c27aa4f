"""Trials: one recipe under other values, resolved and checked before any of them starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fdfa_cli.data.base import Data
from fdfa_cli.document.load import Document, Finding, Place, fail
from fdfa_cli.errors import Problem, RecipeError
from fdfa_cli.recipe.execution import EXECUTION_FIELDS
from fdfa_cli.recipe.overrides import assign, change
from fdfa_cli.recipe.resolve import resolve
from fdfa_cli.recipe.schema import MANY, Recipe
from fdfa_cli.recipe.write import identities

SEED = "training.seed"


@dataclass(frozen=True)
class Trial:
    """One training: the recipe of its configuration, its seed, and the identity by which a store knows it."""

    configured: Recipe
    seed: int
    identity: str

    @classmethod
    def of(cls, recipe: Recipe, seeds: Sequence[int]) -> tuple[Trial, ...]:
        """The trials that train `recipe`, one for each seed.

        They train on one CPU thread unless the recipe says otherwise, so that sums round the same whichever
        engine trains them, and beside however many others.
        """
        threads = recipe.training.threads or 1
        recipe = _with_training(recipe.single(), threads=threads)
        known = zip(seeds, identities(recipe, seeds), strict=True)
        return tuple(cls(recipe, seed, key) for seed, key in known)

    @property
    def recipe(self) -> Recipe:
        """The complete recipe, made when it is asked for: most trials of a large plan are done already."""
        return _with_training(self.configured, seed=self.seed)

    @property
    def epochs(self) -> int:
        """The number of epochs it trains, when nothing ends it before."""
        return self.configured.training.epochs

    def reading(self, data: Data) -> Trial:
        """The same trial on a machine where `data` are the options by which its data set is read."""
        return replace(self, configured=self.configured.model_copy(update={"data": data}))


@dataclass(frozen=True)
class Configuration:
    """Values for some keys of the recipe, and a trial for each seed; `number` counts from 1."""

    number: int
    overrides: Mapping[str, Any]
    trials: tuple[Trial, ...]


def configure(
    base: Document,
    overrides: Mapping[str, Any],
    seeds: Sequence[int],
    number: int,
    place_of: Callable[[str, Any], Place],
    key_place: Callable[[str], Place] | None = None,
) -> Configuration:
    """The configuration of `base` under `overrides`, with a trial for each seed.

    `place_of` says where the value of a key was written, and `key_place` where the key was. The latter is
    given where a person chose `overrides`: then an override that throws away another one, or what `base` was
    given, is an error too. Raises `RecipeError` at these places.
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
    """Call `build` on each of `overrides`; raises `RecipeError` with the problems of all, each once."""
    problems: dict[Problem, None] = {}
    for chosen in overrides:
        try:
            build(chosen)
        except RecipeError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise RecipeError(list(problems))


def without_sections(document: Document) -> Document:
    """`document` as that of a single run, without the sections that say what else to train from it."""
    tree = {key: value for key, value in document.tree.items() if key not in MANY}
    return replace(document, tree=tree, given=tuple(g for g in document.given if g.path[0] not in MANY))


def check_searchable(key: str, place: Place) -> list[Finding]:
    """What is wrong with changing `key` from trial to trial; empty where it may change."""
    section, _, option = key.partition(".")
    if section in MANY:
        return [Finding(place, f"{key} is no part of a single run, so it cannot change from trial to trial")]
    if key == SEED:
        return [Finding(place, f"{SEED} is not a parameter: list the seeds under `seeds`")]
    if section == "training" and option in EXECUTION_FIELDS:
        return [Finding(place, f"{key} changes where a run computes, not what: set it under training")]
    return []


def check_seed(document: Document, seeds: int | tuple[int, ...], section: str) -> list[Finding]:
    """What is wrong with a seed that was asked for, where the `section` lists its `seeds`."""
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
