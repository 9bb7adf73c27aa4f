"""Search for runs below folders. Runs that cannot be read are named and do not hide the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from fdfa_cli.errors import RunDamaged
from fdfa_cli.storage.files import FOREIGN
from fdfa_cli.storage.record import STATUSES
from fdfa_cli.storage.run import FILES, RunFolder, is_folder, no_such_folder

#: Folders inside one another that are looked into, below each that was named.
MAX_DEPTH = 100

#: What an entry turned out to be: a folder with something of ours in it, with only other things, with
#: nothing; or a file.
Kind = Literal["ours", "foreign", "empty", "file"]


class Scan(NamedTuple):
    """The `runs` that could be read, in the order of their names, and an error for each that could not."""

    runs: list[RunFolder]
    damaged: list[RunDamaged]


#: Reads the run in a folder in which there are certain names; raises `RunDamaged`.
Reader = Callable[[Path, set[str]], RunFolder]


def scan(paths: Iterable[Path], read: Reader = RunFolder.read) -> Scan:
    """Every run in or under `paths`, each once, however many links lead to it.

    `read` opens one small file a run (and the metrics of those that are not finished). Hidden folders, files
    beside runs and what is no run in a `foreign_folder` are passed over; an empty folder is one being
    created. What lies more than `MAX_DEPTH` folders deep is named, not read. Raises `UsageError` where one of
    `paths` is no folder.
    """
    walk = _Walk(read)
    for path in paths:
        if not is_folder(path):
            raise no_such_folder(path)
        walk.visit(path, os.path.realpath(path), top=True)
    walk.runs.sort(key=lambda run: (run.name, str(run.path)))
    return Scan(walk.runs, sorted(walk.damaged, key=str))


def by_identity(runs: Iterable[RunFolder]) -> dict[str, RunFolder]:
    """For each identity the run that came furthest, in the order of `STATUSES`, and of several the newest."""
    best: dict[str, RunFolder] = {}
    for run in sorted(runs, key=lambda run: (-STATUSES.index(run.status), run.record.created, run.name)):
        best[run.record.facts["identity"]] = run
    return best


class _Walk:
    """A walk through folders, depth first; `kinds` knows by their real paths those it has entered."""

    def __init__(self, read: Reader) -> None:
        self.open = read
        self.runs: list[RunFolder] = []
        self.damaged: list[RunDamaged] = []
        self.kinds: dict[str, Kind | None] = {}
        self.depth = 0

    def visit(self, folder: Path, real: str, top: bool = False) -> Kind:
        """Collect what is in `folder`, whose path without links is `real`; `top` where the user named it."""
        if real in self.kinds:
            return self.kinds[real] or self._report(f"{folder}: a symbolic link that loops")
        if self.depth > MAX_DEPTH:
            return self._report(f"{folder}: more than {MAX_DEPTH} folders deep, so not looked into")
        self.kinds[real] = None  # entered, not left
        self.depth += 1
        self.kinds[real] = kind = self._look(folder, real, top)
        self.depth -= 1
        return kind

    def _look(self, folder: Path, real: str, top: bool) -> Kind:
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
                visible = [entry for entry in found if not entry.name.startswith(".")]
                # Links last, so that a run is shown by its own name.
                visible.sort(key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            return self._report(f"{folder}: {error.strerror}")
        names = {entry.name for entry in visible}
        if not names.isdisjoint((*FILES, "checkpoint.pt")):
            return self._read(folder, names)
        kinds = {entry.name: self._enter(folder / entry.name, real, entry) for entry in visible}
        if any(entry.name == FOREIGN for entry in found):
            return "ours" if "ours" in kinds.values() else "empty"
        if top or "ours" in kinds.values():
            for name, kind in kinds.items():
                if kind == "foreign":
                    self._report(f"{folder / name}: neither a run nor a folder of runs")
            return "ours"
        return "foreign" if "foreign" in kinds.values() or "file" in kinds.values() else "empty"

    def _enter(self, path: Path, real: str, entry: os.DirEntry[str]) -> Kind:
        if entry.is_symlink():
            if not os.path.exists(path):  # noqa: PTH110 - False also where it may not be looked up
                return self._report(f"{path}: a symbolic link that leads nowhere")
            return self.visit(path, os.path.realpath(path)) if is_folder(path) else "file"
        return self.visit(path, f"{real}/{entry.name}") if entry.is_dir() else "file"

    def _read(self, folder: Path, names: set[str]) -> Kind:
        try:
            self.runs.append(self.open(folder, names))
        except RunDamaged as error:
            self.damaged.append(RunDamaged(str(error), folder))
        return "ours"

    def _report(self, message: str) -> Kind:
        self.damaged.append(RunDamaged(message))
        return "ours"
