"""``key=value`` on the command line, on top of a recipe.

A key is a dotted path, a value is YAML on one line: ``training.epochs=3``, ``network.hidden=[800, 800]``.
Naming a section replaces the whole of it: ``rule=dfa`` is dfa with its defaults, whatever the recipe set
for another rule. Later overrides win. A dotted key that the recipe has, as `sweep.parameters` may, is one
step of the path: ``sweep.parameters.optimizer.lr.values=[0.1, 0.01]``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fdfa_cli.errors import RecipeError
from fdfa_cli.recipe.load import Document, Finding, KeyPath, Place, describe, read
from fdfa_cli.recipe.outline import by_name, model_of
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.registry import Options

_NAME = re.compile(r"[A-Za-z_][\w-]*\Z")


def apply(document: Document, overrides: Sequence[str]) -> Document:
    """`document` with every override applied; a malformed one becomes a finding."""
    for number, text in enumerate(overrides):
        place = Place(f"override {text!r}", order=(1, number, 0))
        try:
            path, value = _split(text, place)
            document = assign(document, _in_tree(document.tree, path), value, place)
        except ValueError as error:
            document = replace(document, findings=(*document.findings, Finding(place, str(error))))
    return document


def assign(document: Document, path: tuple[str, ...], value: object, place: Place) -> Document:
    """`document` with `value` at `path`, said to stand at `place`; what stood there is gone.

    Raises ValueError where the path leads through a value that has no keys.
    """
    tree = _with(Recipe, document.tree, path, value, done=())

    def elsewhere(key: KeyPath) -> bool:
        return key[: len(path)] != path

    new = {path[:n]: place for n in range(1, len(path) + 1)}
    values = {key: at for key, at in document.values.items() if elsewhere(key)}
    keys = {key: at for key, at in document.keys.items() if elsewhere(key)}
    return replace(
        document,
        tree=tree,
        values=new | values | {path: place},
        keys=new | keys | {path: place},
        unread=frozenset(filter(elsewhere, document.unread)),
    )


def _split(text: str, place: Place) -> tuple[tuple[str, ...], object]:
    key, equals, written = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals:
        raise ValueError("is not key=value: write, for example, training.epochs=3")
    if not all(map(_NAME.match, path)):
        raise ValueError(f"{key!r} is not a dotted name such as rule.feedback_rate")
    try:
        document = read(written, lambda line, column: place)
    except RecipeError as error:
        raise ValueError(error.problems[0].message) from error
    if document.findings:
        raise ValueError(document.findings[0].message)
    return path, document.tree


def _in_tree(tree: object, path: tuple[str, ...]) -> tuple[str, ...]:
    """`path` with those of its parts put together that are one key of `tree`."""
    if isinstance(tree, dict):
        for n in range(len(path), 0, -1):
            if (key := ".".join(path[:n])) in tree:
                return (key, *_in_tree(tree[key], path[n:]))
    return path


def _with(
    model: type[Options] | None,
    tree: dict[str, Any],
    path: tuple[str, ...],
    value: object,
    done: tuple[str, ...],
) -> dict[str, Any]:
    head, *rest = path
    if not rest:
        return {**tree, head: value}
    field = model.model_fields.get(head) if model else None
    inner = tree.get(head)
    inner = {} if inner is None else by_name(field, inner) if field else inner
    done = (*done, head)
    if not isinstance(inner, dict):
        raise ValueError(f"{'.'.join(done)} is {describe(inner)}, and so has no key {rest[0]!r}")
    within = model_of(field, inner) if field else None
    return {**tree, head: _with(within, inner, tuple(rest), value, done)}
