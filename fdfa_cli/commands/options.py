"""Hints at the recipe's option that a mistyped command-line option may mean."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from typer.core import TyperCommand


class OfRecipes(TyperCommand):
    """A command that takes KEY=VALUE, whose error for an unknown option names the recipe's option."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse as the base class does, and add a hint to the error for an unknown option."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # typer does not export the class of this error, and has changed it once.
            if type(error).__name__ == "NoSuchOption":
                option = str(vars(error)["option_name"])
                if (hint := _hint(option, given)) is not None:
                    message = f"No such option: {option}. It is an option of the recipe: {hint}"
                    vars(error).update(message=message, possibilities=None)
            raise


def _hint(option: str, given: Sequence[str]) -> str | None:
    """The override that says what `option` and its value mean; None where no recipe has such an option."""
    from fdfa_cli.recipe.explain import option_called

    key = option_called(option.lstrip("-"))
    if key is None:
        return None
    for i, word in enumerate(given):
        name, equals, value = word.partition("=")
        if name == option:
            following = given[i + 1] if len(given) > i + 1 else "…"
            return f"{key}={value if equals else following}"
    return f"{key}=…"
