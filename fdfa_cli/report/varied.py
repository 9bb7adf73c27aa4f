"""The settings in which runs differ: a table has a column for each, and groups are told apart by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fdfa_cli.recipe.execution import EXECUTION_FIELDS
from fdfa_cli.report.catalog import SEED, Catalog
from fdfa_cli.storage import RunFolder

#: The keys of a recipe in which runs that are averaged may differ.
AVERAGED_OVER = frozenset((SEED, *(f"training.{name}" for name in EXECUTION_FIELDS)))
#: Settings that every table of runs has a column for.
_NAMED = ("data.name", "network.name", "rule.name")
#: Runs that differ in their task or rule differ in much that follows from it.
_SETTING = ("data", "network", "rule")


def varying(configurations: Sequence[dict[str, Any]]) -> list[str]:
    """The keys that do not have one value in all of some `configurations`; seeds are not counted."""
    names = dict.fromkeys(name for choices in configurations for name in choices if name not in AVERAGED_OVER)
    return [name for name in names if len({str(choices.get(name)) for choices in configurations}) > 1]


def varied(catalog: Catalog, runs: Sequence[RunFolder]) -> list[str]:
    """The keys that take several values under one rule on one task, or that a sweep of `runs` varied."""
    settings: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    sweeps: dict[Any, dict[str, dict[str, Any]]] = {}
    for run in runs:
        text = catalog.configuration(run)
        settings.setdefault(tuple(catalog.get(run, name) for name in _SETTING), {})[text] = {}
        study = catalog.study(run)
        if study is not None and study.kind == "sweep":
            sweeps.setdefault(study.folder, {})[text] = {}
    wanted = {text for known in (*settings.values(), *sweeps.values()) if len(known) > 1 for text in known}
    choices: dict[str, dict[str, Any]] = {}
    for run in runs:
        if (text := catalog.configuration(run)) in wanted and text not in choices:
            choices[text] = catalog.choices(run)
    found: dict[str, None] = {}
    for known in settings.values():
        found |= dict.fromkeys(_common([choices[text] for text in known if len(known) > 1]))
    for folder, known in sweeps.items():
        keys = _common([choices[text] for text in known if len(known) > 1])
        found |= dict.fromkeys(key for key in keys if catalog.studies[folder].varies(key))
    return [key for key in found if key not in _NAMED]


def _common(several: Sequence[dict[str, Any]]) -> list[str]:
    """The keys in which `several` configurations differ and that all of them have.

    What only some have follows from the names of what they are: only Adam has betas.
    """
    return [name for name in varying(several) if all(name in choices for choices in several)]
