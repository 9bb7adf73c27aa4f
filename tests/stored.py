"""Runs on disk for the report's tests: real recipes, metrics that follow from what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from fdfa_cli.recipe.resolve import read
from fdfa_cli.recipe.write import dump, facts, identity
from fdfa_cli.storage import RunFolder


@cache
def resolved(*overrides: str) -> tuple[str, dict[str, Any]]:
    """The text and the facts of digits/mlp under `overrides`."""
    recipe = read("digits/mlp", overrides).recipe.single()
    return dump(recipe), facts(recipe) | {"identity": identity(recipe)}


def stored_run(
    results: Path,
    *overrides: str,
    curve: Sequence[float | None] = (0.5, 0.75),
    status: str | None = "completed",
    error: str | None = None,
    second: int = 0,
    rows: Sequence[Mapping[str, Any]] | None = None,
    **summary: float,
) -> Path:
    """A run of digits/mlp under `overrides` with a `curve` of validation accuracies (or whole `rows`)."""
    text, known = resolved(*overrides)
    at = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=second)
    with RunFolder.create(results, text, known, ["fdfa"], {"device": "cpu"}, clock=lambda: at) as run:
        for epoch, value in enumerate(curve, start=1):
            run.append(
                {"epoch": epoch, "train_loss": 1.0 / epoch, "val_accuracy": value, "train_seconds": 2.0}
            )
        for row in rows or ():
            run.append(row)
        if status is not None:
            run.update(status, error, **summary)
    return run.path
