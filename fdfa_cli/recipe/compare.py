"""The recipe's ``compare`` section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fdfa_cli.recipe.sweep import Seeds
from fdfa_cli.registry import Options


class Compare(Options):
    """The same task under several rules, which all train with the same seeds and data order."""

    rules: Annotated[
        Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)],
        Field(description="names of learning rules, or all"),
    ]
    seeds: Annotated[Seeds, Field(description="a list, or how many from training.seed on")] = 5
    baseline: Annotated[
        str | None, Field(description="the rule that the others are compared with; the first when absent")
    ] = None
    overrides: Annotated[
        dict[str, dict[str, Any]],
        Field(
            default_factory=dict,
            description="values for dotted keys of the recipe, by the rule's name",
        ),
    ]
