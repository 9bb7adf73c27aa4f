"""Access to files of data sets.

What the operating system refuses becomes an error with a sentence, and folders that a killed process left
behind are removed.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fdfa_cli.errors import DataCorrupt, FdfaError, UsageError
from fdfa_cli.storage.files import lock, locked

#: The file in a staging folder that its process holds locked.
LOCK = ".lock"


def shown(path: str | os.PathLike[str]) -> str:
    """`path` as a message names it: quoted where it holds characters that a terminal would act on."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a regular file at `path`; raises what `unreadable` says where that cannot be told."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder at `path`; raises what `unreadable` says where that cannot be told."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: str | os.PathLike[str]) -> int:
    """What is at `path`, links followed; 0 for nothing, as for a name that no file can have."""
    try:
        return Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return 0
        raise unreadable(path, error) from error


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an OSError inside into the `FdfaError` that `unreadable` makes of it."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: str | os.PathLike[str], error: OSError) -> FdfaError:
    """The error for `path` (or the file that `error` names): permissions are the user's to change."""
    named = shown(error.filename if isinstance(error.filename, str) else path)
    if isinstance(error, PermissionError):
        return UsageError(f"{named} may not be read by this user: {error.strerror or error}")
    return DataCorrupt(f"{named} cannot be read: {error.strerror or error}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError inside into a `UsageError` that names `path`, which is below the data root."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{shown(path)} cannot be written: {error.strerror or error}; "
            "FDFA_DATA may name another folder for data"
        ) from error


@contextmanager
def staging(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end; what killed processes left under `prefix` goes first.

    A process holds the `LOCK` in its folder as long as it lives, so a folder that is in use is never taken
    for a leftover. Raises `UsageError` where `parent` cannot be written.
    """
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(parent, prefix)
        folder, held = _locked_folder(parent, prefix)
    try:
        yield folder
    finally:
        held.close()
        shutil.rmtree(folder, ignore_errors=True)  # what stays is a leftover, which the next one removes


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, BinaryIO]:
    """A new folder and its open, locked `LOCK`."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            file = (folder / LOCK).open("xb")
        except FileNotFoundError:  # another process took the folder for a leftover before it was locked
            continue
        if lock(file) and (folder / LOCK).exists():
            return folder, file
        file.close()


def _remove_leftovers(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}*"):
        try:
            used = locked(folder / LOCK)
        except FileNotFoundError:  # its process was killed before it could lock
            used = False
        except OSError:  # another user's
            used = True
        if not used:
            shutil.rmtree(folder, ignore_errors=True)
