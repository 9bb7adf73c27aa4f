"""Recipes from Python: from a file, a shipped name, a mapping or another recipe, under overrides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import PurePath
from typing import Any

from fdfa_cli.document.load import Document, Finding, Place, fail
from fdfa_cli.document.load import load as load_file
from fdfa_cli.recipe.overrides import change
from fdfa_cli.recipe.resolve import resolve
from fdfa_cli.recipe.schema import OPTIONAL, Recipe
from fdfa_cli.recipe.shipped import find

#: What a recipe can be given as: a file or the name of a shipped recipe, its sections, or the recipe itself.
Source = str | PathLike[str] | Mapping[str, Any] | Recipe


def load(source: Source, /, **overrides: Any) -> Recipe:
    """The complete, checked recipe of `source` under `overrides`.

    `source` is a recipe's file, the name of a shipped recipe (``"digits/mlp"``), a mapping of sections, or a
    `Recipe`. An override is a section: a name (``rule="dfa"``) or a mapping with a name replaces it, and any
    other mapping (``training={"epochs": 3}``) changes the given keys only::

        load("digits/mlp", rule="fdfa", training={"epochs": 3, "seed": 1})

    Raises `UnknownName` where no recipe is called so, and `RecipeError` with everything that is wrong.
    """
    return resolve(document(source, overrides)).recipe


def document(source: Source, overrides: Mapping[str, Any]) -> Document:
    """The sections of `source` under `overrides`, not yet checked; raises as `load` does."""
    found = _document(source)
    for path, value in leaves(overrides):
        place = Place(f"argument {'.'.join(path)}", order=(1, 0, 0))
        try:
            found = change(found, path, value, place)
        except ValueError as error:
            raise fail([Finding(place, str(error))]) from error
    return found


def leaves(overrides: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What the overrides set, and where: a whole section, or one key of it."""
    for section, value in overrides.items():
        if isinstance(value, Mapping) and "name" not in value:
            yield from (((section, str(key)), _plain(entry)) for key, entry in value.items())
        else:
            yield (section,), _plain(value)


def _document(source: Source) -> Document:
    if isinstance(source, Recipe):
        absent = {section for section in OPTIONAL if getattr(source, section) is None}
        source = source.model_dump(mode="json", exclude=absent)
    if isinstance(source, Mapping):
        return Document(_plain(source), {(): Place("recipe")})
    return load_file(find(str(source)))


def _plain(value: Any) -> Any:
    """`value` as a recipe's file would give it: mappings, lists, text and numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, PurePath) else value
