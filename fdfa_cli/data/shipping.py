"""Data sets on machines that share no files: known by their content, sent only where they are missing."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from fdfa_cli.data.base import Data
from fdfa_cli.errors import DataCorrupt, DataNotFound
from fdfa_cli.runs.files import lock


def digest(files: Mapping[str, Path]) -> str:
    """The SHA-256 of the names and contents of `files`, as `Data.files` gives them; empty for none."""
    if not files:
        return ""
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def provide(
    data: Data, expected: str, root: Path, fetch: Callable[[], Mapping[str, bytes]]
) -> tuple[Data, Path]:
    """`data` as options and root by which it can be read here, its files having the digest `expected`.

    Where the files under `root` are others, or not there, they are taken from `fetch` once for all
    processes of this machine, verified, and kept under ``root/shipped``. Raises `DataCorrupt` where what
    arrives is not what was expected.
    """
    if not expected or _found(data, root) == expected:
        return data, root
    data, place = data.movable(), root / "shipped" / expected
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("ab") as file:
        while not lock(file):  # which waits for half a second
            pass
        if _found(data, place) != expected:
            with tempfile.TemporaryDirectory(prefix=".arriving-", dir=place.parent) as staging:
                whole = Path(staging) / "whole"
                _write(fetch(), whole)
                if _found(data, whole) != expected:
                    raise DataCorrupt(f"the files of {data.name!r} did not arrive as they were sent")
                if place.exists():  # of an earlier time, and damaged since
                    place.rename(Path(staging) / "damaged")
                whole.rename(place)
    return data, place


def _found(data: Data, root: Path) -> str | None:
    try:
        return digest(data.files(root))
    except (DataNotFound, OSError):
        return None


def _write(content: Mapping[str, bytes], folder: Path) -> None:
    for name, data in content.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataCorrupt(f"{name!r} is no path inside a data folder")
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
