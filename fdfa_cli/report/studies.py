"""Which sweep or comparison a run was trained for, as the folder around it says.

A run that was trained for a comparison or a sweep may lie beside others that were not: the study says which
identities it trains, which keys it varies, and against which rule it compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdfa_cli.storage import RunFolder
from fdfa_cli.storage.fields import MAX_SUMMARY
from fdfa_cli.storage.files import read_json
from fdfa_cli.trials.announcement import Announcement, Kind

#: The folder, inside that of a comparison, of the search before it.
TUNING = "tuning"


@dataclass(frozen=True)
class Study:
    """A sweep, a comparison or its tuning, whose runs lie in `folder`.

    `identities` are those of the runs it trains (None: all in the folder), `varied` the keys that a sweep
    or tuning varies, `baseline` the rule that a comparison compares with.
    """

    folder: Path
    kind: Kind
    identities: frozenset[str] | None = None
    varied: tuple[str, ...] = ()
    baseline: str | None = None

    @property
    def name(self) -> str:
        """The name of the folder; that of tuning with its comparison's."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}" if self.kind == "tuning" else folder.name

    def trains(self, run: RunFolder) -> bool:
        """Whether `run` is one that the study, as it was last started, trains."""
        known = self.identities
        return run.path.parent == self.folder and (known is None or run.record.facts["identity"] in known)

    def varies(self, key: str) -> bool:
        """Whether `key` of a recipe is one that is varied, or an option of a section that is."""
        return any(key == name or key.startswith(f"{name}.") for name in self.varied)


def studies(runs: Iterable[RunFolder]) -> dict[Path, Study]:
    """The studies in the folders that hold `runs`, by folder."""
    found = {folder: study_in(folder) for folder in dict.fromkeys(run.path.parent for run in runs)}
    return {folder: study for folder, study in found.items() if study is not None}


def study_in(folder: Path) -> Study | None:
    """The study whose runs lie in `folder`; None where there is none, or none that can be read."""
    announced = Announcement.read(folder)
    identities = announced.identities if announced else None
    if announced is not None and announced.purpose is not None:
        purpose = announced.purpose
        return Study(folder, purpose.kind, identities, purpose.varied, purpose.baseline)
    # An older version announced no more than identities; what a study came to says what it was.
    if (content := _json(folder / "compare.json")) and isinstance(content.get("baseline"), str):
        return Study(folder, "compare", identities, baseline=content["baseline"])
    if (content := _json(folder / "sweep.json")) and (keys := _swept(content)):
        return Study(folder, "sweep", identities, keys)
    if announced is not None and folder.resolve().name == TUNING:
        return Study(folder, "tuning", identities)
    return None


def _swept(content: dict[str, Any]) -> tuple[str, ...]:
    """The keys that sweep.json has values of."""
    found = content.get("configurations")
    entries = found if isinstance(found, list) else []
    several = [entry.get("overrides") for entry in entries if isinstance(entry, dict)]
    return tuple(dict.fromkeys(key for one in several if isinstance(one, dict) for key in one))


def _json(file: Path) -> dict[str, Any] | None:
    """The object in `file`; None where there is no such file, or nothing of the kind in it."""
    try:
        content = read_json(file, MAX_SUMMARY)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
