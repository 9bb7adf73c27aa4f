"""Files of the store: atomic replacement, strict JSON, and locks that end with their process."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fdfa_cli.door import open_regular, read_regular
from fdfa_cli.errors import DiskFull

#: A folder with a file of this name may hold other things than runs.
FOREIGN = ".foreign"
#: What `flock` says on file systems that have no locks (Lustre and NFS, as some clusters mount them), or none
#: for folders.
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF}
#: What is said where a disk or a quota has no room left, and where a file may not grow (`ulimit -f`).
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Raise `DiskFull` where the disk turns out to have no room for what is written to `path` inside."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"{path}: {error.strerror}") from error
        raise


def atomic_write(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Replace the file at `path` by `content`: bytes, or a function that writes to the file it is given.

    Readers see the old file or the new one, whole, and so does whoever comes after a crash or a power
    cut: written to a hidden file of the same folder, fsynced, renamed, and the folder fsynced. When
    writing fails, the old file stays and the hidden one goes; raises `DiskFull` where there is no room.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with room(path):
        try:
            with draft.open("xb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def append_whole(path: Path, file: BinaryIO, content: bytes) -> None:
    """Add `content` to `file`, open at `path`: all of it, or nothing where that fails.

    Raises `DiskFull` where there is no room.
    """
    size = os.fstat(file.fileno()).st_size
    left = memoryview(content)
    try:
        with room(path):
            while left:
                left = left[os.write(file.fileno(), left) :]
    except BaseException:
        os.ftruncate(file.fileno(), size)
        raise


def foreign_folder(folder: Path) -> None:
    """Make `folder` and all above it, for files that are not runs and that `scan` shall not report.

    A folder that exists and is not empty stays as it is.
    """
    with room(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            (folder / FOREIGN).touch()


def remove_drafts(folder: Path) -> None:
    """Remove the drafts in `folder` that writers left when they were killed inside `atomic_write`."""
    for draft in folder.glob(".*.tmp"):
        if draft.is_symlink() or not draft.is_dir():
            draft.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(file: BinaryIO) -> bool:
    """Lock `file` until it is closed or the process dies; False where another holds it.

    Waits up to half a second, because `locked` holds the lock for an instant. Where the file system has
    no locks this is True: a run there is unprotected rather than impossible.
    """
    return _wait(file.fileno(), fcntl.LOCK_EX) is not False


def locked(path: Path) -> bool:
    """Whether some process holds the `lock` of `path`; True where the file system cannot tell."""
    with open_regular(path) as file:
        return _try(file.fileno(), fcntl.LOCK_SH) is not True


@contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Keep others from being `alone` in `folder`; waits at most half a second for one that is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        _wait(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Yield whether no other process has `folder` `shared`, and keep others from sharing it meanwhile.

    False also where the file system cannot tell.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _try(handle, fcntl.LOCK_EX) is True
    finally:
        os.close(handle)


def _wait(handle: int, how: int) -> bool | None:
    """Call `_try` until it succeeds, for at most half a second."""
    for _ in range(50):
        if (got := _try(handle, how)) is not False:
            return got
        time.sleep(0.01)
    return False


def _try(handle: int, how: int) -> bool | None:
    """Whether the lock was acquired (it ends with the handle); None where the file system has no locks."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def dump_json(value: Any, indent: int | None = None) -> bytes:
    """Strict JSON in UTF-8 without a newline at the end; numbers that are not finite become null."""
    text = json.dumps(finite(value), allow_nan=False, ensure_ascii=False, indent=indent)
    # A file name that is not UTF-8 holds lone surrogates: `\udcff`, as Python and JSON both spell them.
    return text.encode("utf-8", "backslashreplace")


def read_json(file: Path, limit: int) -> Any:
    """The value of a JSON file of at most `limit` bytes; raises `OSError`, and as `load_json` does."""
    return load_json(read_regular(file, limit))


def load_json(text: bytes) -> Any:
    """The value of strict JSON in UTF-8; raises `ValueError` for anything else, NaN and Infinity included."""
    try:
        return _DECODER.decode(text.decode())
    except RecursionError:
        raise ValueError("lists or objects nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def finite(value: Any, largest: float = math.inf) -> Any:
    """`value`, a tree for JSON, with None for numbers that are NaN or not below `largest` in size."""
    if isinstance(value, float):
        return value if abs(value) < largest else None
    if isinstance(value, Mapping):
        return {key: finite(item, largest) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item, largest) for item in value]
    return value
