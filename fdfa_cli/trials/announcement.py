"""The file in which a sweep or a comparison tells readers of its folder what it trains; imports little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fdfa_cli.errors import UsageError
from fdfa_cli.storage.fields import MAX_SUMMARY, MOST
from fdfa_cli.storage.files import atomic_write, dump_json, read_json

#: The name of that file, which is hidden because it is no result.
ANNOUNCEMENT = ".plan.json"
#: What a folder of runs is for: a sweep, a comparison, or the search before one (`compare --tune`).
Kind = Literal["sweep", "compare", "tuning"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Purpose:
    """What the runs of a folder are for; a sweep has `varied` keys, a comparison the rule `baseline`."""

    kind: Kind
    varied: tuple[str, ...] = ()
    baseline: str | None = None


@dataclass(frozen=True)
class Announcement:
    """The number of runs that a sweep or comparison trains in all, and the identities of those known so far.

    `purpose` is None in a folder that an older version wrote.
    """

    total: int
    identities: frozenset[str]
    purpose: Purpose | None = None

    @classmethod
    def read(cls, folder: Path) -> Announcement | None:
        """The announcement in `folder`; None where there is none that can be read."""
        try:
            content = read_json(folder / ANNOUNCEMENT, MAX_SUMMARY)
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict):
            return None
        total, identities = content.get("total"), content.get("identities")
        if type(total) is not int or not 0 <= total < MOST or not isinstance(identities, list):
            return None
        return cls(total, frozenset(key for key in identities if isinstance(key, str)), _purpose(content))

    def write(self, folder: Path) -> None:
        """Write it to `folder`, in the place of the one before.

        Raises `UsageError` where the folder cannot be written to.
        """
        purpose = asdict(self.purpose) if self.purpose else {}
        content = dump_json({"total": self.total, **purpose, "identities": sorted(self.identities)})
        try:
            atomic_write(folder / ANNOUNCEMENT, content + b"\n")
        except OSError as error:
            raise UsageError(f"cannot write to {folder / ANNOUNCEMENT}: {error.strerror}") from error


def _purpose(content: Mapping[str, Any]) -> Purpose | None:
    """What the runs of an announcement are for; None where it does not say."""
    kind = next((known for known in KINDS if known == content.get("kind")), None)
    varied, baseline = content.get("varied"), content.get("baseline")
    if kind is None or not isinstance(varied, list) or not isinstance(baseline, str | None):
        return None
    return Purpose(kind, tuple(key for key in varied if isinstance(key, str)), baseline)
