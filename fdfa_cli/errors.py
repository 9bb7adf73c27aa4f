"""Every exception a user can see.

    FdfaError               exit 1   something went wrong in a run
    ├── UsageError          exit 2   the command, the recipe or the environment must be changed
    │   ├── UnknownName     exit 2   a name that no registry knows, with the nearest that one does
    │   ├── RecipeError     exit 2   one or more located problems of a recipe
    │   ├── DataNotFound    exit 2   a data set that is not on disk, with the command that fetches it
    │   └── Unsupported     exit 2   a rule that cannot run on a network, loss or device, with what would work
    ├── DataCorrupt         exit 1   a file of a data set is damaged
    ├── RunDamaged          exit 1   a run folder cannot be read
    ├── Diverged            exit 1   the loss is not finite
    ├── DiskFull            exit 1   a disk or a quota has no room left
    └── OutputLost          exit 1   standard output cannot be written to
        └── ReaderGone      exit 1   nobody reads it any more, as after `| head`: ends without a word
    Interrupted             exit 130 Ctrl-C, SIGTERM or SIGHUP

The exit code belongs to the class; `cli` catches both kinds, prints the message without a traceback
(one appears with ``--debug``) and exits with it. So it does with an `OSError`, exit 1, whose message names
the file. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


class FdfaError(Exception):
    """Root of the exceptions that carry a message for the user."""

    exit_code: ClassVar[int] = 1


class UsageError(FdfaError):
    """The command line, the recipe or the environment must be changed before this can run."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is not registered.

    `kind` is what was looked up ("rule"), `name` what was asked for, `known` what there is.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(
            f"unknown {kind} {name!r}{did_you_mean(name, self.known)} (known: {', '.join(self.known)})"
        )


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    `where` is ``file:line:col`` or ``override 'rule=dfaa'``; `message` says what is wrong, what is
    allowed and the nearest valid name; `excerpt` is the offending line, with a caret under the column.
    """

    where: str
    message: str
    excerpt: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f"\n{self.excerpt}" if self.excerpt else "")


class RecipeError(UsageError):
    """All the problems found in a recipe, in the order of their positions."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))


class DataNotFound(UsageError):
    """A data set is not on disk."""


class Unsupported(UsageError):
    """A rule cannot run on this network, loss or device; the message states the rule and what would work."""


class DataCorrupt(FdfaError):
    """A file of a data set does not hold what it should; the message names the file."""


class RunDamaged(FdfaError):
    """A run folder is incomplete, unreadable, or was written by another version of the format.

    `folder` is that of the run, where there is one.
    """

    def __init__(self, message: str, folder: Path | None = None) -> None:
        super().__init__(message)
        self.folder = folder


class Diverged(FdfaError):
    """The training loss is not finite."""


class DiskFull(FdfaError):
    """A disk or a quota has no room left; what was stored before is whole."""


class OutputLost(FdfaError):
    """The result of a command cannot be printed."""


class ReaderGone(OutputLost):
    """The reader of standard output has closed it."""


class Interrupted(BaseException):
    """Stopped by Ctrl-C, SIGTERM or SIGHUP; what was done is stored.

    It may be raised anywhere, and like `KeyboardInterrupt` it is no `Exception`: code that contains the
    failure of a trial or a plugin must let it through.
    """

    exit_code: ClassVar[int] = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`", did you mean 'fdfa'?"` for the nearest of `known`, or the empty string where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean {near[0]!r}?" if near else ""
