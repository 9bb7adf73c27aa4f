"""What a mistyped option of a command that takes recipes may mean."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from typer.core import TyperCommand


class OfRecipes(TyperCommand):
    """A command that takes KEY=VALUE: to an option it has not, it names the option of the recipe."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """As the base class; the error about an unknown option gets a hint."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # The class of this error is no public part of typer, which has brought two of them so far.
            if type(error).__name__ == "NoSuchOption":
                option = str(vars(error)["option_name"])
                if (hint := _hint(option, given)) is not None:
                    message = f"No such option: {option}. It is an option of the recipe: {hint}"
                    vars(error).update(message=message, possibilities=None)
            raise


def _hint(option: str, given: Sequence[str]) -> str | None:
    """The override that `option` and its value are, where the recipe has an option that is called so."""
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
