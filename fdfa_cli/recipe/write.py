"""A resolved recipe as text: its YAML, and the hash that identifies what it computes."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fdfa_cli.document.load import Place, read
from fdfa_cli.document.yaml12 import CoreResolver
from fdfa_cli.recipe.execution import EXECUTION_FIELDS
from fdfa_cli.recipe.schema import MANY, OPTIONAL, Recipe


def identity(recipe: Recipe) -> str:
    """Sixteen hex digits: equal for recipes that compute the same, wherever and however fast they run.

    The SHA-256 of the complete recipe as canonical JSON, without the `EXECUTION_FIELDS` of ``training``
    and the sections that are no part of a run; ``diagnostics`` count where there are some.
    """
    return identities(recipe, [recipe.training.seed])[0]


def identities(recipe: Recipe, seeds: Iterable[int]) -> list[str]:
    """The identity of `recipe` under each of `seeds`."""
    no_part: dict[str, Any] = {**dict.fromkeys(MANY, True), **_absent(recipe)}
    content = recipe.model_dump(mode="json", exclude={"training": set(EXECUTION_FIELDS), **no_part})
    found = []
    for seed in seeds:
        content["training"]["seed"] = seed
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        found.append(hashlib.sha256(canonical.encode()).hexdigest()[:16])
    return found


def dump(recipe: Recipe) -> str:
    """Complete YAML: every default written out; reading it gives an equal recipe."""
    content = recipe.model_dump(mode="json", exclude=_absent(recipe))
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _absent(recipe: Recipe) -> dict[str, bool]:
    return {section: True for section in OPTIONAL if getattr(recipe, section) is None}


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as another value, and writes lists on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _first, _resolvers in CoreResolver.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        _Dumper.add_implicit_resolver(_tag, _pattern, [_first])
_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)
_Dumper.add_representer(  # line breaks and the like are escaped, since a reader would fold them
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"'
    ),
)


def command(
    recipe: str, overrides: Mapping[str, Any], given: Sequence[str] = (), plugins: Sequence[Path] = ()
) -> str:
    """The `fdfa train` that trains `recipe` under `given` and `overrides`, to paste into a shell."""
    values = [f"{key}={plain(value)}" for key, value in overrides.items()]
    single = [text for text in given if re.split("[.=]", text)[0].strip() not in MANY]
    options = [part for file in plugins for part in ("--plugin", str(file))]
    return shlex.join(["fdfa", "train", recipe, *single, *values, *options])


def plain(value: Any) -> str:
    """`value` as an override on the command line is written: YAML on one line."""
    if isinstance(value, str) and value.isprintable():
        try:
            if read(value, lambda line, column: Place("")).tree == value:
                return value
        except ValueError:
            pass
    return json.dumps(value, ensure_ascii=False)


def facts(recipe: Recipe) -> dict[str, Any]:
    """The facts of a run that tables show without opening its recipe."""
    return {
        "data": recipe.data.name,
        "network": recipe.network.name,
        "rule": recipe.rule.name,
        "seed": recipe.training.seed,
        "identity": identity(recipe),
    }
