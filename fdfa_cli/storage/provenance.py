"""Where a run came from: versions, commit, machine and command line, without anyone's name in it."""

from __future__ import annotations

import getpass
import importlib.metadata
import itertools
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from fdfa_cli.version import __version__

#: What stands for someone's home and name in a stored command, for a shell to expand.
_EXPANDED = re.compile(r"\$(?=(?:HOME|USER)\b)")


def provenance(command: Sequence[str], environment: Mapping[str, Any]) -> dict[str, Any]:
    """What a process that writes a run records about itself.

    `command` is its command line; `environment` what only the caller can know (device, threads).
    Asks package metadata for torch's version instead of torch, which takes seconds to import.
    """
    program, *arguments = command or ["fdfa"]
    return {
        "fdfa": __version__,
        **checkout(Path(__file__).resolve().parents[1]),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        **environment,
        "command": [Path(program).name, *map(anonymous, arguments)],
    }


@cache
def checkout(package: Path) -> dict[str, Any]:
    """The git commit of `package`'s checkout, and whether anything in the package differs from it.

    Both are None where the package's parent folder is not itself the top of a checkout: an installed
    package must not be taken for part of the repository that its virtual environment happens to lie in.
    """
    unknown = {"commit": None, "dirty": None}
    if not (package.parent / ".git").exists():
        return unknown
    try:
        commit = _git(package.parent, "rev-parse", "--verify", "HEAD")
        # Untracked files count: every module in the package's registries is imported.
        changes = _git(package.parent, "status", "--porcelain", "--", package.name)
    except (OSError, subprocess.SubprocessError):  # no git, no commit yet, or someone else's checkout
        return unknown
    return {"commit": commit, "dirty": bool(changes)}


def anonymous(text: str) -> str:
    """`text` with the home folder as ``$HOME`` and the user's name in other paths as ``$USER``.

    A shell expands both again, so a stored command still runs.
    """
    # A container's user may have no name and no home; then there is nothing to hide.
    with suppress(RuntimeError):
        if (home := str(Path.home())) != "/":
            text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "$HOME", text)
    with suppress(KeyError, OSError, ImportError):
        text = re.sub(rf"(?<=/){re.escape(getpass.getuser())}(?![\w.-])", "$USER", text)
    return text


def plugins_of(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The files that the command which created a run got as ``--plugin``, read from its provenance."""
    words = list(map(str, (entries[0].get("command") or []) if entries else []))
    following = [after for word, after in itertools.pairwise(words) if word == "--plugin"]
    return following + [word.partition("=")[2] for word in words if word.startswith("--plugin=")]


def quote(word: str) -> str:
    """A stored `word`, quoted for a shell so that only ``$HOME`` and ``$USER`` are expanded in it."""
    if not _EXPANDED.search(word):
        return shlex.quote(word)
    parts = _EXPANDED.split(word)
    return '"' + "$".join(re.sub(r'([\\"`$])', r"\\\1", part) for part in parts) + '"'


def _git(folder: Path, *arguments: str) -> str:
    # Inside a git hook, GIT_DIR and its like would point every command at the hook's repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout.strip()


@cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
