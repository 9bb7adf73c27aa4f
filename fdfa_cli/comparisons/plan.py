"""From a recipe to the trials of its comparison. Pure: nothing is trained, read or written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fdfa_cli.document.load import Document, Finding, KeyPath, Place, fail
from fdfa_cli.errors import UnknownName, did_you_mean
from fdfa_cli.recipe.compare import Compare
from fdfa_cli.recipe.resolve import resolve
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.sweep import seed_list
from fdfa_cli.rules.base import RULES
from fdfa_cli.trials.plan import (
    Configuration,
    Trial,
    check_searchable,
    check_seed,
    collect,
    configure,
    without_sections,
)

SECTION = "compare"


@dataclass(frozen=True)
class ComparisonPlan:
    """One recipe under several rules: a configuration for each by its name, with a trial for each of `seeds`.

    `rules` are their names, `baseline` is that of the rule that the others are compared with. `name` is the
    recipe as it was given, and `document` the recipe without the sections that say what else to train from
    it: other values can be assigned there.
    """

    name: str
    base: Recipe
    rules: tuple[str, ...]
    baseline: str
    seeds: tuple[int, ...]
    configurations: Mapping[str, Configuration]
    document: Document

    @property
    def trials(self) -> list[Trial]:
        """The trials of all rules, seed by seed, and within a seed rule by rule.

        Where they train in this order one after the other, a machine that slows down slows all rules alike.
        """
        columns = [configuration.trials for configuration in self.configurations.values()]
        return [trial for row in zip(*columns, strict=True) for trial in row]


def plan_comparison(document: Document, name: str) -> ComparisonPlan:
    """The comparison that the recipe called `name` asks for.

    Raises `RecipeError` with everything that is wrong with the recipe, its section, or any rule on it.
    """
    recipe = resolve(document).recipe
    compare = recipe.compare
    if compare is None:
        message = "no section compare: add it, or give --rules, as in --rules bp,dfa,fdfa"
        raise fail([Finding(document.place(()), message)])
    rules = tuple(RULES) if compare.rules == "all" else compare.rules
    _check(compare, rules, document, recipe.rule.name)
    counts = recipe.data.counts()
    if counts is not None and not counts.test and not recipe.data.validation:
        message = "rules are compared on test data, or else by validation, and these options leave neither"
        raise fail([Finding(document.place(("data",)), message)])
    seeds = seed_list(compare.seeds, recipe.training.seed)
    base = without_sections(document)
    configurations: dict[str, Configuration] = {}

    def build(overrides: Mapping[str, Any]) -> None:
        rule = overrides.get("rule", recipe.rule.name)
        index = rules.index(rule)
        mine = base if rule == recipe.rule.name else _without_rule(base)
        configurations[rule] = configure(
            mine,
            overrides,
            seeds,
            index + 1,
            lambda key, value: _place(document, rule, index, key),
            lambda key: _place(document, rule, index, key),
        )

    collect(build, (_overrides(recipe, compare, rule) for rule in rules))
    baseline = compare.baseline or rules[0]
    return ComparisonPlan(name, recipe.single(), rules, baseline, seeds, configurations, base)


def _overrides(recipe: Recipe, compare: Compare, rule: str) -> dict[str, Any]:
    """The overrides that make `recipe` one of `rule`; its own rule keeps the options that it has there."""
    own = {} if rule == recipe.rule.name else {"rule": rule}
    return {**own, **compare.overrides.get(rule, {})}


def _without_rule(document: Document) -> Document:
    """`document` for another rule than its own, without what was asked of its own rule."""
    return replace(document, given=tuple(given for given in document.given if given.path[0] != "rule"))


def _check_given_rule(compare: Compare, rules: Sequence[str], document: Document, own: str) -> list[Finding]:
    """What is wrong with the options that were asked of `own`, the rule that the recipe names."""
    asked = [given for given in document.given if given.path[0] == "rule"]
    if own not in rules:
        message = f"is for rule {own!r}, which is not compared ({', '.join(rules)})"
        return [Finding(given.place, message) for given in asked]
    findings = []
    for given in asked:
        key = ".".join(given.path[:2])
        if others := [rule for rule in rules if rule != own and _lacks(compare, rule, key)]:
            example = f"compare.overrides={{{own}: {{{key}: …}}, {others[0]}: {{{key}: …}}}}"
            message = f"is for rule {own!r} alone: say it for {', '.join(others)} too, as in {example}"
            findings.append(Finding(given.place, message))
    return findings


def _lacks(compare: Compare, rule: str, key: str) -> bool:
    """Whether `rule` has the option `key`, and the comparison does not set it."""
    option = key.removeprefix("rule.")
    known = option != "name" and option in RULES.get(rule).model_fields
    return known and key not in compare.overrides.get(rule, {})


def _check(compare: Compare, rules: Sequence[str], document: Document, own: str) -> None:
    """Raise `RecipeError` for what is wrong with the section, but cannot be seen by its schema."""
    findings = []
    for i, rule in enumerate(rules):
        place = document.place((SECTION, "rules", i))
        if rule not in RULES:
            findings.append(Finding(place, str(UnknownName("rule", rule, RULES))))
        elif rule in rules[:i]:
            findings.append(Finding(place, f"rule {rule!r} is given twice"))
    if compare.baseline is not None and compare.baseline not in rules:
        near = did_you_mean(compare.baseline, rules)
        message = f"the baseline {compare.baseline!r} is not among the rules{near}"
        findings.append(Finding(document.place((SECTION, "baseline")), message))
    findings += check_seed(document, compare.seeds, SECTION)
    if not findings:  # all rules are known
        findings += _check_given_rule(compare, rules, document, own)
    if isinstance(compare.seeds, tuple) and len(set(compare.seeds)) < len(compare.seeds):
        findings.append(Finding(document.place((SECTION, "seeds")), "a seed is given twice"))
    for rule, values in compare.overrides.items():
        path: KeyPath = (SECTION, "overrides", rule)
        if rule not in RULES:  # a known rule may be there that is not compared this time
            findings.append(Finding(document.key_place(path), str(UnknownName("rule", rule, RULES))))
        for key in values:
            place = document.key_place((*path, key))
            findings += check_searchable(key, place)
            if key in ("rule", "rule.name"):
                findings.append(Finding(place, "another rule is another entry of `rules`"))
    if findings:
        raise fail(findings)


def _place(document: Document, rule: str, index: int, key: str) -> Place:
    """The place of the recipe that gives the value of `key` for `rule`, which is at `index` of its list."""
    path: KeyPath = (SECTION, "rules", index) if key == "rule" else (SECTION, "overrides", rule, key)
    return document.place(path)
