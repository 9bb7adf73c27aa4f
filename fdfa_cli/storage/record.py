"""The contents of run.json, and the summary of the metrics in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, get_args

from fdfa_cli.storage.fields import (
    LONGEST_ERROR,
    MOST_NAMES,
    RESERVED,
    check_created,
    check_name,
    check_plain,
    check_provenance,
    check_summary,
    check_text,
    is_finite,
    shown,
)
from fdfa_cli.storage.files import dump_json, load_json

Status = Literal["completed", "running", "interrupted", "pruned", "diverged", "failed"]
#: From the best a run can become to the worst.
STATUSES: tuple[Status, ...] = get_args(Status)
#: The number of run.json's layout; another number is another format, which this version does not read.
SCHEMA = 1
#: What a run must be able to say of itself without its recipe being opened.
FACTS = {"data": str, "network": str, "rule": str, "seed": int, "identity": str}


@dataclass(frozen=True, slots=True)
class Record:
    """The contents of run.json.

    `facts` are the recipe's choices that a table shows (`FACTS` and any others, JSON values); `summary`
    the numbers at the end (None: not finite); `provenance` has one entry for each process that wrote the
    run, the creator first; `created` is UTC in ISO 8601. Raises `ValueError` saying what is wrong.
    """

    status: Status
    error: str | None
    created: str
    facts: dict[str, Any]
    summary: dict[str, float | None] = field(default_factory=dict)
    provenance: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status {shown(self.status)} is none of {', '.join(STATUSES)}")
        if not isinstance(self.error, str | None) or not isinstance(self.created, str):
            raise ValueError("error and created must be text")
        if self.error is not None and len(self.error) > LONGEST_ERROR:
            raise ValueError(f"error is longer than {LONGEST_ERROR} characters")
        check_created(self.created)
        if not isinstance(self.facts, dict) or not isinstance(self.summary, dict):
            raise ValueError("facts and summary must be objects")
        check_summary(self.summary)
        _check_facts(self.facts, self.summary)
        check_provenance(self.provenance)

    def dump(self) -> bytes:
        """The text of run.json."""
        return dump_json({"schema": SCHEMA, **asdict(self)}, indent=2) + b"\n"

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """The record that `dump` wrote as `text`; raises `ValueError` saying what is wrong with it."""
        try:
            content = load_json(text)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
        if not isinstance(content, dict) or "schema" not in content:
            raise ValueError("not the record of a run: it has no schema number")
        schema = content.pop("schema")
        if type(schema) is not int or schema != SCHEMA:
            raise ValueError(f"schema {shown(schema)}; this version reads {SCHEMA}")
        if content.keys() != _KEYS:
            missing, more = sorted(_KEYS - content.keys()), sorted(content.keys() - _KEYS)
            found = f"{missing[0]} is missing" if missing else f"unexpected keyword argument {shown(more[0])}"
            raise ValueError(f"not the record of a run: {found}")
        return cls(**content)


_KEYS = frozenset(field.name for field in fields(Record))


def _check_facts(facts: dict[str, Any], summary: dict[str, float | None]) -> None:
    if len(facts) > MOST_NAMES:
        raise ValueError(f"facts has more than {MOST_NAMES} entries")
    for name, kind in FACTS.items():
        value = facts.get(name)
        if kind is str:
            check_text(value, f"facts.{name}")
        elif type(value) is not int or not 0 <= value < 2**63:
            raise ValueError(f"facts.{name} is not a whole number")
    if len(facts) > len(FACTS):
        for name, value in facts.items():
            check_name(name, "facts.")
            if name in summary or (name in RESERVED and name not in FACTS):
                raise ValueError(f"facts.{name} is the name of something else")
            check_plain(value, f"facts.{name}")


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The numbers of the last epoch; `epochs` is how many there were, and seconds are sums over all."""
    if not rows:
        return {"epochs": 0}
    numbers = numeric(rows[-1])
    epochs = numbers.pop("epoch")
    totals = {
        key: math.fsum(row.get(key) or 0.0 for row in rows) for key in numbers if key.endswith("_seconds")
    }
    return {"epochs": epochs} | numbers | totals


def numeric(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The entries of `row` that are numbers or None; those that are not finite become None."""
    return {
        key: value if is_finite(value) else None
        for key, value in row.items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }
