"""What is stored, read back: a run, and the runs in a folder."""

from __future__ import annotations

from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from fdfa_cli.document.load import load
from fdfa_cli.recipe.resolve import resolve
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.storage import Run as Folder
from fdfa_cli.storage import Status


class Run:
    """A stored training: what its run folder `path` held when this was made.

    Raises `UsageError` where there is no such folder, and `RunDamaged`, with file and reason, where it does
    not hold what it should.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._folder = Folder.open(Path(path))

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._folder.path

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self._folder.name

    @property
    def status(self) -> Status:
        """What has become of it: completed, running, interrupted, pruned, diverged or failed."""
        return self._folder.status

    @property
    def error(self) -> str | None:
        """Why it did not come to its end."""
        return self._folder.record.error

    @property
    def summary(self) -> dict[str, float | None]:
        """The numbers at the end, such as ``test_accuracy``; None stands for one that is not finite."""
        return dict(self._folder.record.summary)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """A row for each epoch, with its ``epoch``, ``train_loss``, ``val_accuracy`` and more."""
        return self._folder.metrics()

    @cached_property
    def recipe(self) -> Recipe:
        """The complete recipe; raises `RecipeError` where a plugin that it needs is not loaded."""
        return resolve(load(self.path / "recipe.yaml")).recipe

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status})"
