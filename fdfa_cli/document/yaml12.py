"""Scalars of the YAML 1.2 core schema, on PyYAML.

PyYAML reads YAML 1.1, in which ``1e-3`` is text, ``on`` is true, ``010`` is 8 and ``1:30`` is 90. Here a
plain scalar is what the 1.2 core schema says (https://yaml.org/spec/1.2.2/#103-core-schema): ``1e-3`` a
float, ``on`` text, ``010`` ten. Only these plain tags exist; ``!!python/...`` and the like are refused.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

#: Deeper nesting than any recipe has; keeps the recursion of the composer bounded.
MAX_DEPTH = 40
#: More keys and values than any recipe has; keeps the time of the composer bounded.
MAX_NODES = 20_000

_TAG = "tag:yaml.org,2002:"
MERGE = _TAG + "merge"
_DIGITS = "0123456789"
#: A pattern for every kind of plain scalar.
_CORE = {
    "null": re.compile(r"(?:null|Null|NULL|~|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}


class Refused(yaml.MarkedYAMLError):
    """The error for YAML that PyYAML accepts, or whose fault it does not notice."""


class CoreResolver(BaseResolver):
    """Says which plain scalars are null, booleans, integers and floats; the rest is text."""


for _kind, _first in (
    ("null", ["", *"~nN"]), ("bool", list("tTfF")), ("int", list("-+" + _DIGITS)),
    ("float", list("-+." + _DIGITS)),
):  # fmt: skip
    CoreResolver.add_implicit_resolver(_TAG + _kind, _CORE[_kind], _first)
CoreResolver.add_implicit_resolver(MERGE, re.compile(r"<<\Z"), ["<"])


class _Composer(Reader, Scanner, Parser, Composer, CoreResolver):
    """PyYAML's pure-Python composer with the core schema and limits on nesting and on how much there is."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        CoreResolver.__init__(self)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._nodes += 1
        if self._depth > MAX_DEPTH or self._nodes > MAX_NODES:
            deep = f"nested more than {MAX_DEPTH} levels deep"
            many = f"more than {MAX_NODES} keys and values"
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise Refused(None, None, deep if self._depth > MAX_DEPTH else many, mark)
        node: yaml.Node | None = Composer.compose_node(self, parent, index)
        self._depth -= 1
        return node


def compose(text: str) -> yaml.Node | None:
    """The one document of `text` as nodes with marks; None when it holds nothing.

    Raises `yaml.YAMLError`, also where PyYAML itself would let a ValueError out (``"\\UFFFFFFFF"``).
    """
    composer = _Composer(text)
    try:
        node: yaml.Node | None = composer.get_single_node()
    except (ValueError, OverflowError) as error:
        raise Refused(None, None, "no such character", composer.get_mark()) from error
    return node


_PARSER: Any = _Composer
if yaml.__with_libyaml__:
    from yaml.cyaml import CParser  # type: ignore[attr-defined]

    _PARSER = CParser

#: What no stored recipe holds without quotes, and `quick` leaves to `compose`: anchors, aliases, tags,
#: directives, merge keys.
_ODD = re.compile(r"[&*!%]|<<")
#: What can open a list or mapping inside others on the same line; libyaml would go down with any number.
_OPENING = re.compile(r"[\[{]|[-?]\s")
_MOST_OPENINGS = 200


class _Quick(_PARSER, SafeConstructor, CoreResolver):  # type: ignore[misc]
    """libyaml's parser, where PyYAML was built with it, under the core schema."""

    def __init__(self, text: str) -> None:
        _PARSER.__init__(self, text)
        SafeConstructor.__init__(self)
        CoreResolver.__init__(self)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raises `ValueError` where a key is given twice."""
        mapping: dict[Any, Any] = SafeConstructor.construct_mapping(self, node, deep)
        if len(mapping) < len(node.value):
            raise ValueError("a key is given twice")
        return mapping


def _scalar(node: yaml.Node) -> Any:
    assert isinstance(node, yaml.ScalarNode), "a tag, which is odd"
    return scalar(node)


for _kind in ("null", "bool", "int", "float", "str"):
    _Quick.add_constructor(_TAG + _kind, lambda loader, node: _scalar(node))


def quick(text: str) -> Any:
    """The values of `text` without their places, in a fifth of the time that `compose` takes.

    None where the text is wrong, or so unusual that only `compose` says what it holds.
    """
    if _ODD.search(text) or len(_OPENING.findall(text)) > _MOST_OPENINGS:
        return None
    if text.count(",") + text.count("\n") > MAX_NODES // 2:
        return None
    try:
        tree = _Quick(text).get_single_data()
    except (yaml.YAMLError, ValueError, OverflowError):
        return None
    return tree if _named(tree) else None


def _named(tree: Any, depth: int = 0) -> bool:
    """Whether all keys are text, as they are written in a recipe, and nothing is nested too deep."""
    if isinstance(tree, dict):
        named = all(type(key) is str for key in tree)
        return named and depth < MAX_DEPTH and all(_named(value, depth + 1) for value in tree.values())
    if isinstance(tree, list):
        return depth < MAX_DEPTH and all(_named(value, depth + 1) for value in tree)
    return True


def short_tag(node: yaml.Node) -> str:
    """The node's tag as it is written: ``!!python/tuple``."""
    tag: str = node.tag
    return "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag


def is_plain(node: yaml.Node) -> bool:
    """Whether the node is a mapping, a list or text without a tag of its own."""
    kind = {yaml.MappingNode: "map", yaml.SequenceNode: "seq", yaml.ScalarNode: "str"}[type(node)]
    return bool(node.tag == _TAG + kind)


def is_number(text: str) -> bool:
    """Whether `text`, written without quotes, is a number."""
    return bool(_CORE["int"].match(text) or _CORE["float"].match(text))


def scalar(node: yaml.ScalarNode) -> bool | int | float | str | None:
    """The value of a scalar; raises ValueError with the reason where it has none."""
    kind: str = node.tag.removeprefix(_TAG)
    text: str = node.value
    if kind == "str":
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError("half a surrogate pair is not a character")
        return text
    if kind == "merge":
        return "<<"  # as a value it is only text
    if kind not in _CORE:
        raise ValueError(f"the tag {short_tag(node)} is not allowed: a recipe holds plain values only")
    if not _CORE[kind].match(text):
        raise ValueError(f"{text!r} is not of the type {short_tag(node)}")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        if len(text) > 24 or abs(number := _integer(text)) >= 2**63:
            raise ValueError("the number does not fit in 64 bits")
        return number
    value = float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    if not abs(value) < float("inf"):
        raise ValueError(f"{text} is not a finite number")
    return value


def _integer(text: str) -> int:
    prefix = text[:2]
    return int(text[2:], {"0x": 16, "0o": 8}[prefix]) if prefix in ("0x", "0o") else int(text)
