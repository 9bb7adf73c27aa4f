"""What the schema expects at each place of a recipe, found by walking the models beside the values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from fdfa_cli.document.load import KeyPath
from fdfa_cli.registry import Choice, Named, Options, Registry


def registry_of(field: FieldInfo) -> Registry[Any] | None:
    """The registry a field chooses from; None for a field that is no `Choice`."""
    metadata = [*field.metadata]
    for part in get_args(field.annotation):  # Annotated[..., Choice(...)] | None
        metadata += getattr(part, "__metadata__", ())
    return next((item.registry for item in metadata if isinstance(item, Choice)), None)


def model_of(field: FieldInfo, value: object) -> type[Options] | None:
    """The model that `value`, or what it names, is validated against; None for plain values."""
    registry = registry_of(field)
    if registry is not None:
        name = value.get("name") if isinstance(value, dict) else value
        return registry.models().get(name) if isinstance(name, str) else None
    if get_origin(field.annotation) is dict:
        return None
    types = (field.annotation, *get_args(field.annotation))
    return next((t for t in types if isinstance(t, type) and issubclass(t, Options)), None)


def entry_of(field: FieldInfo) -> FieldInfo | None:
    """The field that each value of a mapping with free keys is; None for any other field."""
    if get_origin(field.annotation) is not dict:
        return None
    return FieldInfo.from_annotation(get_args(field.annotation)[1])


def field_at(model: type[Options], tree: object, path: KeyPath) -> FieldInfo | None:
    """The field that `path` leads to from `model`, beside the values of `tree`; None where there is none."""
    field: FieldInfo | None = None
    at: type[Options] | None = model
    entry: FieldInfo | None = None
    for key in path:
        if not isinstance(key, str) or not (at or entry) or not isinstance(tree, dict):
            return None
        field, tree = entry or (at.model_fields.get(key) if at else None), tree.get(key)
        at = model_of(field, tree) if field else None
        entry = entry_of(field) if field else None
    return field


def by_name(field: FieldInfo, value: object) -> object:
    """`value`, with what stands for a section (``rule: dfa``) written out (``{name: dfa}``)."""
    if not isinstance(value, str):
        return value
    if registry_of(field):
        return {"name": value}
    model = model_of(field, value)
    return {model.shorthand: value} if model and model.shorthand else value


def expand(model: type[Options], tree: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with every bare name written out, and a choice without a name based on the field's default."""
    expanded = dict(tree)
    for key, field in model.model_fields.items():
        if key not in tree:
            continue
        value = by_name(field, tree[key])
        if isinstance(value, dict):
            if "name" not in value and isinstance(field.default, Named):
                value = field.default.model_dump(mode="json") | value
            inner = model_of(field, value)
            value = expand(inner, value) if inner else value
        expanded[key] = value
    return expanded
