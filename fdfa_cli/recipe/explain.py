"""Turns pydantic's errors about a recipe into sentences with their place in the file.

A sentence names the option, says what is allowed and what was found, and the nearest valid name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fdfa_cli.document import yaml12
from fdfa_cli.document.load import Document, Finding, KeyPath, describe
from fdfa_cli.errors import UnknownName, did_you_mean
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.schema_walk import field_at, model_of, registry_of
from fdfa_cli.registry import Registry

#: What must stand there, by pydantic's type of error; `{}` are filled from the error's context.
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list `[…]`",
    "list_type": "a list `[…]`",
    "dict_type": "a mapping of options",
    "model_type": "a mapping of options",
    "model_attributes_type": "a mapping of options",
    "none_required": "null",
    "literal_error": "{expected}",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "finite_number": "finite",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
}

#: What other programs call the options and sections of a recipe; without case, `_` and `-`.
_SYNONYMS = {
    "lr": "learningrate stepsize eta lrate",
    "weight_decay": "wd l2 l2penalty l2regularization",
    "betas": "beta beta1 beta2",
    "eps": "epsilon",
    "momentum": "mu",
    "batch_size": "bs batch minibatch minibatchsize trainbatchsize perdevicetrainbatchsize",
    "epochs": "nepochs numepochs maxepochs nbepochs numtrainepochs passes",
    "seed": "randomseed randomstate manualseed rngseed",
    "loss": "criterion lossfn lossfunction objective",
    "precision": "dtype amp mixedprecision",
    "threads": "nthreads numthreads cpus",
    "device": "gpu accelerator",
    "hidden": "hiddensize hiddensizes hiddenunits hiddenlayers hiddenlayersizes layers units",
    "norm": "bn batchnorm normalization layernorm",
    "activation": "act nonlinearity",
    "dropout": "dropoutrate dropoutprob",
    "validation": "val valsize valsplit validationsize validationsplit validationfraction",
    "limit": "subset maxsamples nsamples numsamples",
    "normalize": "standardize",
    "augment": "augmentation augmentations",
    "resize": "imagesize imgsize",
    "folder": "root path dir datadir",
    "n_classes": "classes numclasses",
    "warmup": "warmupepochs",
    "gamma": "decayrate lrdecay",
    "every": "stepsize interval",
    "data": "dataset datasets",
    "network": "model net architecture arch",
    "rule": "algorithm learningrule method",
    "optimizer": "optim optimiser opt",
    "schedule": "scheduler lrscheduler lrschedule",
    "training": "train trainer",
}


def explain(error: ValidationError, document: Document, tree: dict[str, Any]) -> list[Finding]:
    """One finding for each place of `error`, where `tree` is what was validated."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        found.setdefault(_path(details, tree), []).append(details)
    findings = []
    for path, errors in found.items():
        if any(path[:n] in document.unread for n in range(len(path) + 1)):
            continue  # the reader has already said what is wrong there
        inside = any(path == other[: len(path)] != other for other in found)
        if inside and isinstance(_value(tree, path), list):
            continue  # a list may stand there, and what is wrong with its entries is said of them
        unknown_key = errors[0]["type"] == "extra_forbidden"
        place = document.key_place(path) if unknown_key else document.place(path)
        findings.append(Finding(place, _sentence(path, errors, tree)))
    return findings


def dotted(path: Iterable[str | int]) -> str:
    """A path as it is written in an override; a key that is no name is quoted."""
    return ".".join(str(k) if isinstance(k, int) or k.isidentifier() else repr(k) for k in path)


def _path(details: ErrorDetails, tree: object) -> KeyPath:
    """The place in `tree` of an error: pydantic's location without its labels of union members.

    A model that finds fault with one of its options begins with its name (``trials: …``): then it is there.
    """
    path: list[str | int] = []
    chosen = False  # whether the label of this mapping's choice has been passed
    for part in details["loc"]:
        if isinstance(tree, dict):
            if tree.get("name") == part and not chosen:
                chosen = True
            elif part in tree or details["type"] == "missing":
                path.append(part)
                tree, chosen = tree.get(part), False
        elif isinstance(tree, list) and isinstance(part, int):
            path.append(part)
            tree = tree[part] if part < len(tree) else None
    if details["type"] == "union_tag_invalid":
        path.append("name")
    if details["type"] == "value_error":
        option, colon, _ = str(details["ctx"]["error"]).partition(": ")
        if colon and isinstance(tree, dict) and option in tree:
            path.append(option)
    return tuple(path)


def _value(tree: Any, path: KeyPath) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _sentence(path: KeyPath, errors: Sequence[ErrorDetails], tree: dict[str, Any]) -> str:
    kind = errors[0]["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path, tree)
    if kind == "missing":
        return _missing(path, tree)
    value = _value(tree, path)
    if kind == "union_tag_invalid":
        registry = _registry(path[:-1], tree)
        if isinstance(value, str):
            return str(UnknownName(registry.kind, value, registry))
        return f"{dotted(path)} must be {_names(registry)}, not {describe(value)}"
    field = field_at(Recipe, tree, path)
    chosen_from = registry_of(field) if field is not None else None
    if chosen_from is not None:
        names = _names(chosen_from)
        if kind == "union_tag_not_found":
            return f"{dotted(path)} has no name: give it {names}"
        return f"{dotted(path)} must be {names}, or a mapping with a name, not {describe(value)}"
    if kind == "value_error":
        message = str(errors[0]["ctx"]["error"])
        return f"{dotted(path)}: {message.removeprefix(f'{path[-1]}: ')}" if path else message
    about = f" ({field.description})" if field is not None and field.description else ""
    expected = " or ".join(dict.fromkeys(map(_expected, errors)))
    return f"{dotted(path)} must be {expected}, not {describe(value)}{_hint(value, errors)}{about}"


def _expected(details: ErrorDetails) -> str:
    """What the schema expects there; pydantic's own words for types of error that have no sentence here."""
    template = _EXPECTED.get(details["type"])
    if template is None:
        return details["msg"].removeprefix("Input should be ").removeprefix("Input should ")
    return template.format(**details.get("ctx", {}))


def _hint(value: object, errors: Sequence[ErrorDetails]) -> str:
    if not isinstance(value, str):
        return ""
    wanted = {e["type"] for e in errors} & {"int_type", "float_type"}
    if wanted and yaml12.is_number(value):
        return ": remove the quotes"
    if wanted and yaml12.is_number(value.replace(",", ".", 1)):
        fraction = "float_type" in wanted
        return ": write a decimal point, not a comma" if fraction else ": write it without a comma"
    expected = " ".join(e["ctx"]["expected"] for e in errors if e["type"] == "literal_error")
    return did_you_mean(value, re.findall("'([^']*)'", expected))


def _registry(path: KeyPath, tree: dict[str, Any]) -> Registry[Any]:
    field = field_at(Recipe, tree, path)
    registry = registry_of(field) if field is not None else None
    assert registry is not None, f"{path} chooses from no registry"
    return registry


def _names(registry: Registry[Any]) -> str:
    return f"the name of a {registry.kind} ({', '.join(registry)})"


def _synonyms(name: str) -> list[str]:
    """What options and sections called `name` in other programs are called here."""
    bare = re.sub("[-_ ]", "", name).lower()
    return [ours for ours, theirs in _SYNONYMS.items() if bare in (ours.replace("_", ""), *theirs.split())]


def _meant(name: str, known: Sequence[str]) -> str | None:
    """The one of `known` that `name` is another word for."""
    return next((ours for ours in _synonyms(name) if ours in known), None)


def _nearest(name: str, known: Sequence[str]) -> str:
    """A hint at the one of `known` that means the same as `name`, or is spelled like it."""
    meant = _meant(name, known)
    return f", did you mean {meant!r}?" if meant else did_you_mean(name, known)


def option_called(name: str) -> str | None:
    """The section or the option that people may call `name`: ``learning-rate`` is ``optimizer.lr``."""
    sections = sorted(Recipe.model_fields, key="data".__eq__)  # last: synthetic data has hidden too
    for ours in dict.fromkeys([name.replace("-", "_"), *_synonyms(name)]):
        if ours in sections:
            return ours
        for section in sections:
            field = Recipe.model_fields[section]
            registry, model = registry_of(field), model_of(field, {})
            models = registry.models().values() if registry else [model] if model else []
            if any(ours in model.model_fields for model in models) and ours != "name":
                return f"{section}.{ours}"
    return None


def _unknown_key(path: KeyPath, tree: dict[str, Any]) -> str:
    *above, key = path
    if not above:
        return _unknown_section(str(key), tree)
    field = field_at(Recipe, tree, tuple(above))
    model = model_of(field, _value(tree, tuple(above))) if field is not None else None
    assert field is not None
    assert model is not None
    options = [name for name in model.model_fields if name != "name"]
    owner, elsewhere = dotted(above), ""
    registry = registry_of(field)
    if registry is not None:
        owner = f"{registry.kind} {_value(tree, (*above, 'name'))!r}"
        others = [name for name, other in registry.models().items() if key in other.model_fields]
        elsewhere = f"; {', '.join(others)} would take it" if others else ""
    meant, home = _meant(str(key), options), _section_with(str(key), tree)
    if meant is None and not elsewhere and home is not None:
        hint = f", did you mean {'.'.join(home)!r}?"
    else:
        hint = _nearest(str(key), options)
    listed = f"options: {', '.join(options)}" if options else "it has none"
    return f"unknown option {key!r} of {owner}{hint} ({listed}{elsewhere})"


def _unknown_section(key: str, tree: dict[str, Any]) -> str:
    sections = list(Recipe.model_fields)
    if home := _section_with(key, tree):
        section, name = home
        is_called = "is" if name == key else f"is called {name!r} here,"
        return (
            f"{key!r} {is_called} an option of {section}: `{section}.{name}=…` on the command line, "
            f"in a file indented under `{section}:`"
        )
    return f"unknown section {key!r}{_nearest(key, sections)} (sections: {', '.join(sections)})"


def _section_with(key: str, tree: dict[str, Any]) -> tuple[str, str] | None:
    """The section of `tree` that takes the option `key`, and what it is called there."""
    names = [key, *(name for name in _synonyms(key) if name not in Recipe.model_fields)]
    for name, (section, field) in itertools.product(names, Recipe.model_fields.items()):
        model = model_of(field, tree.get(section))
        if model is not None and name in model.model_fields and name != "name":
            return section, name
    return None


def _missing(path: KeyPath, tree: dict[str, Any]) -> str:
    *above, key = path
    if isinstance(key, int):
        return f"{dotted(above)} has too few values: number {key + 1} is missing"
    field = field_at(Recipe, tree, path)
    registry = registry_of(field) if field is not None else None
    choices = f": add {_names(registry)}, as in `{key}: {next(iter(registry))}`" if registry else ""
    about = f" ({field.description})" if field is not None and field.description else ""
    return f"{dotted(above) or 'the recipe'} has no {key}{about}{choices}"
