"""Trainings as the tests want them: to their end, stopped on the way, and gone on with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fdfa_cli.data import data_root
from fdfa_cli.errors import Interrupted
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.storage import RunFolder
from fdfa_cli.training.loop import fit
from fdfa_cli.training.training_run import TrainingRun


def trained(folder: Path, recipe: Recipe, until: int | None = None) -> RunFolder:
    """The run of a training that nothing disturbs; with `until`, it pauses after that many epochs."""
    training = TrainingRun.new(recipe, folder, ["fdfa"], until)
    fit(training, data_root())
    return training.run


def stopped(folder: Path, recipe: Recipe, stop: Callable[[], bool]) -> RunFolder:
    """The run of a training that `stop` interrupts."""
    training = TrainingRun.new(recipe, folder, ["fdfa"])
    with pytest.raises(Interrupted):
        fit(training, data_root(), stop=stop)
    return training.run


def resumed(run: RunFolder, recipe: Recipe) -> RunFolder:
    """The same run, trained to its end."""
    training = TrainingRun.resume(recipe, run.path, ["fdfa"])
    fit(training, data_root())
    return training.run
