"""Data sets for machines that share no files: known by content, and sent only where they are missing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from fdfa_cli.data.base import Data
from fdfa_cli.data.files import reading, staging, writing
from fdfa_cli.door import open_regular
from fdfa_cli.errors import DataCorrupt, FdfaError
from fdfa_cli.storage.files import lock


def digest(files: Mapping[str, Path]) -> str:
    """The SHA-256 of the names and contents of `files`, as `Data.files` gives them; empty for none.

    Raises `DataCorrupt` and `UsageError` where one cannot be read.
    """
    if not files:
        return ""
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        with reading(path), open_regular(path) as file:
            total.update(os.fsencode(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n"))
    return total.hexdigest()


def provide(
    data: Data, expected: str, root: Path, fetch: Callable[[], Mapping[str, bytes]]
) -> tuple[Data, Path]:
    """The options and the root by which this machine reads `data`, whose files have the digest `expected`.

    Where `root` holds other files, or none, they are taken from `fetch` once for all processes of this
    machine, verified, and kept under ``root/shipped``. Raises `DataCorrupt` where what arrives is not what
    was expected, and `UsageError` where it cannot be written there.
    """
    if not expected or _found(data, root) == expected:
        return data, root
    data, place = data.movable(), root / "shipped" / expected
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.with_suffix(".lock").open("ab")
    with file:
        while not lock(file):  # which waits for half a second
            pass
        if _found(data, place) != expected:
            with staging(place.parent, ".arriving-") as folder:
                whole = folder / "whole"
                _write(fetch(), whole)
                if _found(data, whole) != expected:
                    raise DataCorrupt(f"the files of {data.name!r} did not arrive as they were sent")
                with writing(place):
                    if place.exists():  # from an earlier time, and damaged since
                        place.rename(folder / "damaged")
                    whole.rename(place)
    return data, place


def _found(data: Data, root: Path) -> str | None:
    """The digest of the files of `data` under `root`; None where they cannot be read."""
    try:
        return digest(data.files(root))
    except FdfaError:  # the files are missing, damaged or unreadable, so others are needed
        return None


def _write(content: Mapping[str, bytes], folder: Path) -> None:
    for name, data in content.items():
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
            raise DataCorrupt(f"{name!r} is not a path inside a data folder")
        file = folder / name
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
