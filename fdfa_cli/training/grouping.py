"""Which trainings can share a stack (see `fdfa_cli.training.stack`).

What fixes the shape of the work must be the same: data, network, batch size, loss, precision, and the
rule with its structural options. What is a number in it, or comes after it, may differ: seed, epochs,
optimizer and schedule with all of their options, and the rule's own. A rule's options of type float enter
its step as tensors where they differ, but for those that it declares as `Rule.shared_options`; those that
are an optimizer or a schedule never enter it.

Three kinds of training are always alone: with diagnostics, which look into the single state; in bfloat16,
for which `torch.func.vmap` has no batch norm with statistics in float32; and with an optimizer that is not
`elementwise`, which would mix the trials whose tensors it is given as rows of one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from fdfa_cli.optim.optimizers import Optimizer
from fdfa_cli.optim.schedules import Schedule
from fdfa_cli.recipe.execution import EXECUTION_FIELDS
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.rules.base import Rule

#: Fields of ``training`` in which the trials of a stack may differ.
FREE = (EXECUTION_FIELDS | {"seed", "epochs"}) - {"device"}


def shared(recipe: Recipe) -> Hashable:
    """What a recipe must have in common with those it is stacked with."""
    return (
        recipe.data.model_dump_json(),
        recipe.network.model_dump_json(),
        type(recipe.rule),
        tuple((name, _fixed(recipe.rule, name, value)) for name, value in recipe.rule),
        recipe.training.model_dump_json(exclude=set(FREE)),
    )


def moves_by_entries(recipe: Recipe) -> bool:
    """Whether weights and feedback of a recipe both move by optimizers that are `elementwise`."""
    rule, given = recipe.rule, (recipe.optimizer, recipe.schedule)
    return all(training(*given)[0].elementwise for training in (rule.weight_training, rule.feedback_training))


def _fixed(rule: Rule, option: str, value: object) -> str:
    """What of a rule's option must be the same."""
    if isinstance(value, float) and option not in rule.shared_options:
        return "a number"
    return "a way to move" if isinstance(value, Optimizer | Schedule) else repr(value)


def groups(recipes: Iterable[Recipe]) -> list[list[int]]:
    """The positions of those that can be stacked, group by group, in their order.

    Within a group, those with the same optimizer settings are neighbours.
    """
    found: dict[Hashable, list[int]] = {}
    ordered = list(recipes)
    for position, recipe in enumerate(ordered):
        alone = recipe.diagnostics is not None or recipe.training.precision == "bf16"
        alone = alone or not moves_by_entries(recipe)
        found.setdefault(position if alone else shared(recipe), []).append(position)
    return [sorted(group, key=lambda i: _settings(ordered[i])) for group in found.values()]


def real_options(rules: Sequence[Rule]) -> dict[str, list[float]]:
    """The float options in which `rules` differ: the value of each rule, by option."""
    options = {name: [getattr(rule, name) for rule in rules] for name in type(rules[0]).model_fields}
    return {
        name: values
        for name, values in options.items()
        if isinstance(values[0], float) and any(value != values[0] for value in values)
    }


def _settings(recipe: Recipe) -> str:
    return repr((recipe.optimizer, recipe.schedule, recipe.rule, recipe.training.epochs))
