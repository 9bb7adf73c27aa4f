"""The one way to open files that someone else may have made: run folders, recipes, images.

Only regular files are opened, so that no pipe, device or link to one is ever waited for or read without end;
no more is read than a file of its kind may hold. What is wrong is an `OSError` whose `strerror` is a sentence
for people and whose `filename` is the path.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

#: Reading or writing never waits for whoever is at the other end of a pipe; no terminal becomes ours.
_AT_ONCE = os.O_NONBLOCK | os.O_NOCTTY


def open_regular(path: str | Path, limit: int | None = None) -> BufferedReader:
    """The regular file at `path`, open for reading bytes; of at most `limit` bytes where that is given.

    Links to regular files are followed. Raises `OSError`.
    """
    handle, _ = _open(path, limit)
    return os.fdopen(handle, "rb")


def read_regular(path: str | Path, limit: int) -> bytes:
    """What the regular file at `path` holds, at most `limit` bytes; raises `OSError`.

    What a writer appends meanwhile is left out.
    """
    handle, size = _open(path, limit)
    try:
        content = os.read(handle, size)
        while len(content) < size and (more := os.read(handle, size - len(content))):
            content += more
    except OSError as error:
        raise _named(error, path) from error
    finally:
        os.close(handle)
    return content


def open_to_append(path: str | Path) -> BinaryIO:
    """The regular file at `path`, made where there is none, open for appending bytes; raises `OSError`.

    A link is not followed: it could lead to a file outside the folder, which must not change.
    """
    with suppress(FileNotFoundError):  # it is made here
        _check(os.lstat(path), path)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | _AT_ONCE, 0o666)
    try:
        _check(os.fstat(handle), path)
        return os.fdopen(handle, "ab")
    except BaseException:
        os.close(handle)
        raise


def _open(path: str | Path, limit: int | None) -> tuple[int, int]:
    """Handle and size of the regular file at `path`."""
    try:
        _check(os.stat(path), path)  # noqa: PTH116 - before it is opened, which alone sets some devices off
        handle = os.open(path, os.O_RDONLY | _AT_ONCE)
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    try:
        status = os.fstat(handle)
        _check(status, path)
        if limit is not None and status.st_size > limit:
            raise OSError(errno.EFBIG, f"larger than {_amount(limit)}, so not what it is called", str(path))
    except BaseException:
        os.close(handle)
        raise
    return handle, status.st_size


def _check(status: os.stat_result, path: str | Path) -> None:
    """Raise `OSError` where `status` is not that of a regular file."""
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = "a symbolic link" if stat.S_ISLNK(mode) else "a pipe, socket or device"
    raise OSError(errno.EINVAL, f"{kind}, not a regular file", str(path))


def _named(error: OSError, path: Any) -> OSError:
    """`error` with the path, which reading from a handle does not know."""
    return OSError(error.errno, error.strerror, str(path))


def _amount(limit: int) -> str:
    return f"{limit // 2**20} MiB" if limit >= 2**20 else f"{limit // 2**10} KiB"
