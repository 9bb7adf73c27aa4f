"""From a recipe file and overrides to a complete, checked `Recipe`.

    read        file or name, and overrides -> Resolved
    resolve     Document -> Resolved

A rule may recommend values for other sections (`Rule.recommended`): they lie under what the recipe and
the overrides say, and over the schema's defaults. Everything wrong is reported at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from fdfa_cli.data.base import DATA
from fdfa_cli.document.load import Document, Finding, fail, load
from fdfa_cli.errors import DataNotFound, UsageError
from fdfa_cli.network.base import NETWORKS, Network
from fdfa_cli.optim.optimizers import OPTIMIZERS
from fdfa_cli.optim.schedules import SCHEDULES
from fdfa_cli.recipe.explain import explain
from fdfa_cli.recipe.overrides import apply
from fdfa_cli.recipe.schema import Recipe, Training
from fdfa_cli.recipe.schema_walk import by_name, expand, model_of
from fdfa_cli.recipe.shipped import find
from fdfa_cli.registry import Options
from fdfa_cli.rules.base import RULES, Rule


@dataclass(frozen=True)
class Resolved:
    """A checked recipe, and the values in it that its rule recommended: ``{"optimizer.lr": 0.1}``."""

    recipe: Recipe
    recommended: Mapping[str, Any]


def read(name: str, overrides: Sequence[str] = ()) -> Resolved:
    """The recipe in file `name`, or the shipped recipe called so, under `overrides`.

    Raises `UnknownName` where there is neither, and `RecipeError` with everything that is wrong.
    """
    return resolve(apply(load(find(name)), overrides))


def resolve(document: Document) -> Resolved:
    """The complete recipe of a document; raises `RecipeError` with everything that is wrong."""
    _build(tuple(tuple(registry) for registry in (DATA, NETWORKS, RULES, OPTIMIZERS, SCHEDULES)))
    tree, recommended = _recommend(document.tree)
    tree = expand(Recipe, tree)
    findings = list(document.findings)
    try:
        # strict JSON mode: lists become tuples and integers floats, nothing else is converted
        recipe = Recipe.model_validate_json(json.dumps(tree, allow_nan=False))
    except ValidationError as error:
        findings += explain(error, document, tree)
    if findings:
        raise fail(findings)
    recipe = _located(recipe, document)
    _check_together(recipe, document)
    return Resolved(recipe, recommended)


def _located(recipe: Recipe, document: Document) -> Recipe:
    """`recipe` with the full path of data that lies beside its file."""
    if document.file is None:
        return recipe
    with _reported_at(document, "data"):
        return recipe.model_copy(update={"data": recipe.data.beside(document.file.parent)})


@lru_cache(maxsize=1)
def _build(names: tuple[tuple[str, ...], ...]) -> None:
    """Build the validator, once for what the registries hold: a plugin may have added to them."""
    Recipe.model_rebuild(force=True)


def _recommend(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`tree` on top of what its rule recommends, and what of that it did not say itself."""
    merged = dict(tree)
    applied: dict[str, Any] = {}
    rule = model_of(Recipe.model_fields["rule"], tree.get("rule")) or Rule
    for section, base in _recommendations(rule).items():
        field = Recipe.model_fields[section]
        given = by_name(field, tree.get(section, {}))
        if not isinstance(given, dict):
            continue  # the schema will say so
        if "name" in base:
            if given.get("name", base["name"]) != base["name"]:
                continue  # the recipe chose another one, with its own defaults
        else:
            model = model_of(field, given)
            base = {key: value for key, value in base.items() if model and key in model.model_fields}
        if base:
            merged[section] = {**base, **given}
            applied |= {f"{section}.{key}": value for key, value in base.items() if key not in given}
    return merged, applied


def _recommendations(rule: type[Options]) -> dict[str, Mapping[str, Any]]:
    """What a rule recommends, by section; a section it does not mention is as its base class says."""
    merged: dict[str, Mapping[str, Any]] = {}
    for ancestor in reversed(rule.__mro__):
        merged |= vars(ancestor).get("recommended", {})
    return merged


def _check_together(recipe: Recipe, document: Document) -> None:
    """Raise `RecipeError` where sections do not fit one another, as far as that shows without the data."""
    with _reported_at(document, "data"):
        try:
            shape, classes = recipe.data.shape(), recipe.data.classes()
        except DataNotFound:
            return  # a folder of images says how many classes it has once it is there
        counts = recipe.data.counts()
        sizes = recipe.data.sizes(counts) if counts is not None else None
    with _reported_at(document, "network"):
        network = recipe.network.build(shape, classes)
    with _reported_at(document, "rule"):
        recipe.rule.check(network, recipe.training.loss)
    if sizes is not None:
        with _reported_at(document, "training", "batch_size"):
            check_batches(recipe.training, network, sizes.train)


def check_batches(training: Training, network: Network, samples: int) -> None:
    """Raise `UsageError` where no step could be taken on so many training samples, or none could learn."""
    size = training.batch_size
    if training.drop_last and size > samples:
        raise UsageError(
            f"training.batch_size: with drop_last, {samples} training samples do not make a batch of {size}; "
            f"the most is {samples}"
        )
    if min(size, samples) == 1 and network.normalises_single_values:
        raise UsageError(
            "training.batch_size: batch norm makes 0 of every unit where a batch is one sample; take batches "
            "of 2 or more (and as many samples to train on), or network.norm=layer"
        )


@contextmanager
def _reported_at(document: Document, *path: str) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise fail([Finding(document.place(path), str(error))]) from error
