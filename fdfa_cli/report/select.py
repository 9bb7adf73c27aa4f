"""Which runs to show and in what order: conditions such as ``optimizer.lr>1e-3``, and sort keys."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fdfa_cli.errors import UsageError, did_you_mean
from fdfa_cli.report.facts import Facts
from fdfa_cli.report.tables import Value, number_of
from fdfa_cli.runs import Run

_CONDITION = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*(!=|<=|>=|==?|<|>)(.*)", re.DOTALL)
_COMMA = re.compile(r",(?![^\[]*\])")  # not inside [128, 128]
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """`name` compared with `texts` by `sign`: one of them for ``=``, none of them for ``!=``.

    Numbers are compared as numbers, in the unit they are stored in (accuracies are fractions of 1). A run
    without a value meets ``!=`` only.
    """

    name: str
    sign: str
    texts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Condition:
        """The condition that `text` says; raises `UsageError` where it says none."""
        match = _CONDITION.fullmatch(text)
        if match is None or not match[3].strip():
            raise UsageError(
                f"--where {text!r} is no condition: write, for example, data=mnist, rule=dfa,fdfa or "
                "'optimizer.lr>=1e-3' (one of = != < <= > >=; quoted, or the shell takes < and >)"
            )
        sign = "=" if match[2] == "==" else match[2]
        texts = tuple(part.strip() for part in _COMMA.split(match[3]))
        if sign in _ORDERS and len(texts) > 1:
            raise UsageError(f"--where {text!r}: {sign} compares with one value; a list goes with = and !=")
        return cls(match[1], sign, texts)

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{','.join(self.texts)}"

    def holds(self, value: Value) -> bool:
        """Whether a run with this `value` is meant."""
        if self.sign in ("=", "!="):
            return any(_same(value, text) for text in self.texts) == (self.sign == "=")
        if value is None:
            return False
        if isinstance(value, str):
            return _ORDERS[self.sign](value, self.texts[0])
        number = _number(self.texts[0])
        if number is None:
            raise UsageError(f"--where {self}: {self.name} is a number, and {self.texts[0]!r} is none")
        return _ORDERS[self.sign](value, number)


@dataclass(frozen=True)
class SortKey:
    """A name to sort by; `descending` where it had a minus before it."""

    name: str
    descending: bool = False

    @classmethod
    def parse(cls, text: str) -> SortKey:
        """The key that `text` says."""
        return cls(text.removeprefix("-"), text.startswith("-"))


def select(facts: Facts, conditions: Sequence[Condition]) -> list[Run]:
    """The runs that meet all `conditions`, in the order they had."""
    facts.check(condition.name for condition in conditions)
    return [run for run in facts.runs if all(c.holds(facts.get(run, c.name)) for c in conditions)]


def why_none(facts: Facts, conditions: Sequence[Condition]) -> str:
    """A sentence for people on `conditions` that no run meets."""
    asked = " and ".join(map(str, conditions))
    for condition in conditions:
        if not select(facts, [condition]) and condition.sign == "=":
            there = {str(v) for run in facts.runs if (v := facts.get(run, condition.name)) is not None}
            near = did_you_mean(condition.texts[0], there)
            few = f" ({condition.name}: {', '.join(sorted(there))})" if 0 < len(there) <= 10 else ""
            return f"none of {len(facts.runs)} runs has {asked}{near}{few}"
    return f"none of {len(facts.runs)} runs has {asked}"


def ordered(items: Iterable[Any], keys: Sequence[SortKey], get: Callable[[Any, str], Value]) -> list[Any]:
    """`items` sorted by `keys`, the first one first; what has no value comes last, either way."""
    found = list(items)
    for key in reversed(keys):
        valued = [(get(item, key.name), item) for item in found]
        there = [pair for pair in valued if pair[0] is not None]
        there.sort(key=lambda pair: _rank(pair[0]), reverse=key.descending)  # stable, also in reverse
        found = [item for _, item in there] + [item for value, item in valued if value is None]
    return found


def _rank(value: Value) -> tuple[bool, float, str]:
    """Numbers before text, each in its own order."""
    return (True, 0.0, value) if isinstance(value, str) else (False, number_of(value) or 0.0, "")


def _same(value: Value, text: str) -> bool:
    if value is None:
        return False
    if isinstance(value, str):
        return value == text or (value[:1] == "[" and value.replace(" ", "") == text.replace(" ", ""))
    return value == _number(text)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
