"""Standard output and standard error that a command can always write to.

What is shown on stderr (progress, remarks) may get lost: a closed stream, a full disk or a reader that has
gone ends nothing. What is printed on stdout is a result: the first part of it that cannot be written raises
`OutputLost`. A character that a stream cannot show is written as its escape, as ``\\xe9`` for é.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

from fdfa_cli.errors import OutputLost, ReaderGone

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Stream(io.FileIO):
    """An open descriptor to write to; with `needed`, the first write that fails is an error."""

    def __init__(self, descriptor: int, needed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._needed = needed

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some of `data`; returns how many bytes were written, or all where they are lost."""
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])  # someone has made it non-blocking, and it is full
        except OSError as error:
            if self._needed:
                self._needed = False  # told once; the interpreter flushes again when it ends
                raise _lost(error) from error
            return memoryview(data).nbytes
        return written


def prepare() -> None:
    """Replace the standard streams of this process by such streams, and open those that are missing."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Else the next file that is opened gets this number, and what is printed. Not for writing, so
            # that a result is not lost in silence. What is opened is `descriptor` itself, the lowest free.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the life of the process
    sys.stdout = _text(sys.stdout, 1, needed=True)
    sys.stderr = _text(sys.stderr, 2, needed=False)


def shows_bars() -> bool:
    """Whether a live bar can be shown on standard error: on a terminal, and in a notebook."""
    ipython = sys.modules.get("IPython")  # which a notebook's kernel has loaded
    shell = ipython.get_ipython() if ipython is not None else None
    return sys.stderr.isatty() or type(shell).__name__ == "ZMQInteractiveShell"


def _text(before: TextIO | None, descriptor: int, needed: bool) -> TextIO:
    stream = _Stream(descriptor, needed)
    return io.TextIOWrapper(
        io.BufferedWriter(stream),
        encoding="utf-8" if before is None else before.encoding,
        errors="backslashreplace",
        line_buffering=not needed or stream.isatty(),
    )


def _lost(error: OSError) -> OutputLost:
    if error.errno == errno.EPIPE:
        return ReaderGone("nobody reads standard output")
    reason = "it is closed" if error.errno == errno.EBADF else error.strerror
    return OutputLost(f"cannot write to standard output: {reason}")
