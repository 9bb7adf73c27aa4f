"""Where data sets are kept on disk."""

from __future__ import annotations

import os
from pathlib import Path

from fdfa_cli.errors import DataNotFound


def data_root() -> Path:
    """The folder of all data sets: the environment variable FDFA_DATA, or ``~/.cache/fdfa``."""
    return Path(os.environ.get("FDFA_DATA") or "~/.cache/fdfa").expanduser()


def not_found(name: str, root: Path, missing: Path) -> DataNotFound:
    """The error for a set of which `missing` is not there, with the command that downloads it."""
    return DataNotFound(
        f"data set {name!r} is not on disk: there is no {missing}\n"
        f"download it with `fdfa data fetch {name}`, or set FDFA_DATA (now {root}) to where it is"
    )
