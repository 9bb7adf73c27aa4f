"""Overrides: ``key=value`` on the command line, on top of a recipe.

A key is a dotted path, a value is YAML on one line: ``training.epochs=3``, ``network.hidden=[800, 800]``.
Naming a section replaces the whole of it: ``rule=dfa`` is dfa with its defaults, whatever the recipe set
for another rule. An override that would throw away what an earlier one says is an error: all that is asked
for holds, or nothing is trained. A dotted key that the recipe has, as `sweep.parameters` may, is one
step of the path: ``sweep.parameters.optimizer.lr.values=[0.1, 0.01]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from fdfa_cli.document.load import Document, Finding, Given, KeyPath, Place, describe, fail, read
from fdfa_cli.errors import RecipeError
from fdfa_cli.recipe.schema import MANY, Recipe
from fdfa_cli.recipe.schema_walk import by_name, expand, field_at, model_of
from fdfa_cli.registry import Options

_MISSING = object()
_NAME = re.compile(r"[A-Za-z_][\w-]*\Z")


def apply(document: Document, overrides: Sequence[str]) -> Document:
    """`document` with every override applied; a malformed one becomes a finding."""
    for number, text in enumerate(overrides):
        place = Place(f"override {text!r}", order=(1, number, 0))
        try:
            path, value = _split(text, place)
            document = change(document, _in_tree(document.tree, path), value, place)
        except ValueError as error:
            document = replace(document, findings=(*document.findings, Finding(place, str(error))))
    return document


def change(
    document: Document, path: tuple[str, ...], value: object, place: Place, named: Place | None = None
) -> Document:
    """`document` with `value` at `path` as a person asked for at `place`, on top of what was asked before.

    What was asked for before and no longer holds becomes a finding at `named`, which is `place` unless
    given. Raises ValueError where the path leads through a value that has no keys.
    """
    asked = Given(path, value, named or place)
    changed = assign(document, path, value, place)
    tree = expand(Recipe, changed.tree) if document.given else {}
    kept, findings = [], []
    for earlier in document.given:
        if instead := list(_instead(tree, earlier.path, earlier.value)):
            findings.append(Finding(asked.place, _loss(asked, earlier, instead)))
        else:
            kept.append(earlier)
    return replace(changed, given=(*kept, asked), findings=(*document.findings, *findings))


def check_read(document: Document, own: str | None = None) -> None:
    """Raise `RecipeError` for overrides of a section that only another command reads than the one of `own`.

    Those are the sections of `MANY`, each of which has a command of its name; `own` is None for a command
    that trains a single run. An override that takes such a section away is no error.
    """
    findings = [
        Finding(given.place, f"has no effect here: only `fdfa {section}` reads the section {section}")
        for given in document.given
        if (section := given.path[0]) in MANY and section != own and given.value is not None
    ]
    if findings:
        raise fail(findings)


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


def _instead(tree: Any, path: tuple[str, ...], value: object) -> Iterator[object]:
    """What `tree`, in which bare names are written out, holds instead of each option that `value` names.

    `path` is where `value` was put; an option that is gone gives `_MISSING`, one that still holds nothing.
    """
    field = field_at(Recipe, tree, path)
    value = by_name(field, value) if field else value
    found = tree
    for key in path:
        found = found.get(key, _MISSING) if isinstance(found, dict) else _MISSING
    if isinstance(value, dict) and isinstance(found, dict):
        for key, inner in value.items():
            yield from _instead(tree, (*path, key), inner)
    elif found != value or isinstance(found, bool) != isinstance(value, bool):
        yield found


def _loss(asked: Given, earlier: Given, instead: Sequence[object]) -> str:
    """The sentence that `asked` threw away what `earlier` says, and what would work."""
    key, lost, before = ".".join(asked.path), ".".join(earlier.path), earlier.place.where
    if asked.value is None or any(found is not _MISSING for found in instead):
        return f"{lost} is something else in {before}: give one of the two"
    remedy = f"write both as one {key}={{…}}" if key == lost else f"give {key} first, then {lost}"
    return f"{key} is replaced as a whole, and with it what {before} says: {remedy}"


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
