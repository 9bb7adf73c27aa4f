"""Stored runs with known numbers, for the tests of figures and of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from fdfa_cli.storage import RunFolder, scan
from fdfa_cli.trials.announcement import Announcement, Purpose

MACHINE = {"device": "cpu", "threads": 1, "workers": 1}


def store(
    results: Path,
    number: int,
    accuracies: Sequence[float] = (0.5, 0.75),
    status: str = "completed",
    error: str | None = None,
    environment: Mapping[str, Any] = MACHINE,
    command: Sequence[str] = ("fdfa", "train", "digits/mlp"),
    row: Mapping[str, Any] | None = None,
    **choices: Any,
) -> Path:
    """A run, the `number`th, whose rows have these validation accuracies; an epoch takes 2 s.

    `choices` are a recipe's, by key with ``__`` for the dot: ``rule__name="dfa"``.
    """
    recipe: dict[str, dict[str, Any]] = {
        "data": {"name": "digits"},
        "network": {"name": "mlp", "hidden": [8]},
        "rule": {"name": "bp"},
        "optimizer": {"name": "adam", "lr": 0.001},
        "training": {"epochs": 20, "seed": number},
    }
    for key, value in choices.items():
        section, _, option = key.partition("__")
        recipe[section][option] = value
    facts = {name: recipe[name]["name"] for name in ("data", "network", "rule")}
    facts |= {"seed": recipe["training"]["seed"], "identity": f"{number:016x}"}
    at = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=number)
    text = yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None)
    with RunFolder.create(results, text, facts, command, environment, clock=lambda: at) as run:
        for epoch, accuracy in enumerate(accuracies, start=1):
            run.append({"epoch": epoch, "val_accuracy": accuracy, "train_seconds": 2.0} | dict(row or {}))
        tested = {"test_accuracy": max(0.0, accuracies[-1] - 0.01)} if status == "completed" else {}
        run.update(status, error, **tested)
    return run.path


def swept(results: Path, *keys: str) -> None:
    """Make all runs in `results` those of a sweep over `keys`, as a sweep announces it."""
    identities = frozenset(run.record.facts["identity"] for run in scan([results]).runs)
    Announcement(len(identities), identities, Purpose("sweep", keys)).write(results)
