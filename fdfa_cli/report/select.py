"""Which runs to show and in what order: conditions such as ``optimizer.lr>1e-3``, and sort keys."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fdfa_cli.errors import UsageError, did_you_mean
from fdfa_cli.report.catalog import Catalog
from fdfa_cli.storage import RunFolder
from fdfa_cli.tables import Value, number_of

_CONDITION = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*(!=|<=|>=|==?|<|>)(.*)", re.DOTALL)
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)", re.ASCII)
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

    Numbers are compared as numbers, in the unit they are stored in: accuracies are fractions of 1, and may be
    given in percent too (``test_accuracy>95%``). A run without a value meets ``!=`` only.
    """

    name: str
    sign: str
    texts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, option: str = "--where") -> Condition:
        """The condition that `text`, a value of `option`, says; raises `UsageError` where it says none."""
        match = _CONDITION.fullmatch(text)
        if match is None or not match[3].strip():
            raise UsageError(
                f"{option} {text!r} is no condition: write, for example, data=mnist, rule=dfa,fdfa or "
                "'optimizer.lr>=1e-3' (one of = != < <= > >=; quoted, or the shell takes < and >)"
            )
        sign = "=" if match[2] == "==" else match[2]
        texts = tuple(part.strip() for part in _COMMA.split(match[3]))
        if sign in _ORDERS and len(texts) > 1:
            raise UsageError(f"{option} {text!r}: {sign} compares with one value; a list goes with = and !=")
        return cls(match[1], sign, texts)

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{','.join(self.texts)}"

    def holds(self, value: Value) -> bool:
        """Whether a run with this `value` is meant."""
        if self.sign in ("=", "!="):
            return any(self._same(value, text) for text in self.texts) == (self.sign == "=")
        if value is None:
            return False
        if isinstance(value, str):
            return _ORDERS[self.sign](value, self.texts[0])
        number = self._number(self.texts[0])
        if number is None:
            share = ": write a fraction of 1 such as 0.95, or 95%" if self._is_share else ""
            raise UsageError(f"{self}: {self.name} is a number, and {self.texts[0]!r} is not{share}")
        return _ORDERS[self.sign](value, number)

    @property
    def hint(self) -> str:
        """What to write instead where an accuracy is compared with more than 1, else nothing."""
        for text in self.texts if self._is_share else ():
            if (number := self._number(text)) is not None and number > 1 and not text.endswith("%"):
                share = f"{number / 100:g}"
                return (
                    f"{self.name} is a fraction of 1, and {text} means {100 * number:g} %: "
                    f"write {self.name}{self.sign}{share} or {self.name}{self.sign}{text}%"
                )
        return ""

    @property
    def _is_share(self) -> bool:
        return self.name.endswith("_accuracy")

    def _number(self, text: str) -> float | None:
        try:
            if self._is_share and text.endswith("%"):
                return float(Decimal(text[:-1].strip()) / 100)  # 97.2% is the number that 0.972 is
            return float(text)
        except (ValueError, ArithmeticError):
            return None

    def _same(self, value: Value, text: str) -> bool:
        if value is None:
            return False
        if isinstance(value, str):
            return value == text or (value[:1] == "[" and value.replace(" ", "") == text.replace(" ", ""))
        return value == self._number(text)


@dataclass(frozen=True)
class SortKey:
    """A name to sort by; `descending` where it had a minus before it."""

    name: str
    descending: bool = False

    @classmethod
    def parse(cls, text: str) -> SortKey:
        """The key that `text` says."""
        return cls(text.removeprefix("-"), text.startswith("-"))


def select(catalog: Catalog, conditions: Sequence[Condition]) -> list[RunFolder]:
    """The runs that meet all `conditions`, in the order they had."""
    catalog.check(condition.name for condition in conditions)
    return [run for run in catalog.runs if all(c.holds(catalog.get(run, c.name)) for c in conditions)]


def why_none(catalog: Catalog, conditions: Sequence[Condition]) -> str:
    """A sentence for people on `conditions` that no run meets."""
    asked = " and ".join(map(str, conditions))
    for condition in conditions:
        if not select(catalog, [condition]) and condition.sign == "=":
            there = {str(v) for run in catalog.runs if (v := catalog.get(run, condition.name)) is not None}
            near = did_you_mean(condition.texts[0], there)
            few = f" ({condition.name}: {', '.join(sorted(there))})" if 0 < len(there) <= 10 else ""
            return f"none of {len(catalog.runs)} runs has {asked}{near}{few}"
    return f"none of {len(catalog.runs)} runs has {asked}"


def ordered(items: Iterable[Any], keys: Sequence[SortKey], get: Callable[[Any, str], Value]) -> list[Any]:
    """`items` sorted by `keys`, the first one first; what has no value comes last, either way."""
    found = list(items)
    for key in reversed(keys):
        valued = [(get(item, key.name), item) for item in found]
        there = [pair for pair in valued if pair[0] is not None]
        there.sort(key=lambda pair: _rank(pair[0]), reverse=key.descending)  # stable, also in reverse
        found = [item for _, item in there] + [item for value, item in valued if value is None]
    return found


def _rank(value: Value) -> tuple[bool, float, tuple[tuple[bool, float, str], ...]]:
    """Numbers before text, each in its own order; numbers inside text count as numbers: [8] before [16]."""
    if not isinstance(value, str):
        return (False, number_of(value) or 0.0, ())
    # What stands between numbers is at even places, so that only like is compared with like.
    pieces = _NUMBER.split(value)
    return (True, 0.0, tuple((i % 2 == 0, 0.0 if i % 2 == 0 else float(p), p) for i, p in enumerate(pieces)))
