"""Where data sets are kept on disk."""

from __future__ import annotations

import os
from pathlib import Path

from fdfa_cli.errors import DataNotFound, UsageError


def data_root() -> Path:
    """The folder of all data sets, absolute: the environment variable FDFA_DATA, or ``~/.cache/fdfa``.

    Raises `UsageError` where it names the home of a user that does not exist.
    """
    named = os.environ.get("FDFA_DATA") or "~/.cache/fdfa"
    try:
        return Path(named).expanduser().absolute()
    except (RuntimeError, OSError) as error:
        raise UsageError(f"FDFA_DATA: {named!r} names no folder: {error}") from error


def not_found(name: str, root: Path, missing: Path) -> DataNotFound:
    """The error for a set of which `missing` is not there, with the command that downloads it."""
    packed = missing.with_name(f"{missing.name}.gz")
    hint = f", only {packed}, which is not unpacked (`gunzip -k`)" if packed.is_file() else ""
    return DataNotFound(
        f"data set {name!r} is not on disk: there is no {missing}{hint}\n"
        f"download it with `fdfa data fetch {name}`, or set FDFA_DATA (now {root}) to where it is"
    )
