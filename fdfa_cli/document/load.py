"""From a recipe file to plain values, with the position of each.

Whatever is wrong with the file is a located `RecipeError`. What does not stop the reading (a key given
twice, a number that is not finite, a tag) is kept in the `Document` as a finding, so that it is reported
together with what the schema finds.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from fdfa_cli.document import yaml12
from fdfa_cli.door import read_regular
from fdfa_cli.errors import Problem, RecipeError

#: Larger files than these are not recipes: a checkpoint given by mistake, an alias bomb.
MAX_BYTES = 256 * 1024
MAX_VALUES = 10_000
_TOO_LARGE = f"larger than {MAX_BYTES // 1024} KiB, so not a recipe"

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # as YAML 1.1, and so PyYAML, counts lines

#: Keys and list positions that lead from the top of a recipe to a value.
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Where something was written: ``file:line:col`` with its line, or an override. `order` sorts them."""

    where: str
    excerpt: str = ""
    order: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong in a document, with its place."""

    place: Place
    message: str


@dataclass(frozen=True)
class Given:
    """A value that was asked for on top of a recipe's file, at `path` of its tree, written at `place`."""

    path: tuple[str, ...]
    value: Any
    place: Place


@dataclass(frozen=True)
class Document:
    """A recipe as it was written: plain values and where each stands.

    `values` places every value (a mapping at its key), `keys` every key. `findings` is what was wrong
    with the reading, `unread` the paths whose value is unusable and needs no second complaint. `given` is
    what was asked for on top of the file, in that order. `file` is the file that was read, if it was one.
    """

    tree: Any
    values: Mapping[KeyPath, Place]
    keys: Mapping[KeyPath, Place] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    unread: frozenset[KeyPath] = frozenset()
    given: tuple[Given, ...] = ()
    file: Path | None = None

    def place(self, path: KeyPath) -> Place:
        """Where the value at `path` was written, or the nearest value around it."""
        while path not in self.values:
            path = path[:-1]
        return self.values[path]

    def key_place(self, path: KeyPath) -> Place:
        """Where the key at the end of `path` was written, or else its value."""
        return self.keys.get(path) or self.place(path)


def fail(findings: Iterable[Finding]) -> RecipeError:
    """The error that reports `findings` in the order of their places."""
    ordered = sorted(findings, key=lambda finding: finding.place.order)
    return RecipeError([Problem(f.place.where, f.message, f.place.excerpt) for f in ordered])


def load(file: Path) -> Document:
    """Read a recipe file.

    Raises `RecipeError` when it cannot be read, is not UTF-8, is not YAML, or is not one mapping.
    """
    source = str(file)
    nowhere = Place(source)
    try:
        data = read_regular(file, MAX_BYTES)
    except IsADirectoryError as error:
        raise fail([Finding(nowhere, "is a folder, not a recipe")]) from error
    except OSError as error:
        too_large = error.errno == errno.EFBIG
        raise fail(
            [Finding(nowhere, _TOO_LARGE if too_large else f"cannot be read: {error.strerror}")]
        ) from error
    return replace(parse(data, source), file=file)


def values(text: str, source: str) -> dict[str, Any]:
    """The plain values of a whole recipe's `text`, as `parse` reads them, without their places.

    Quick where `text` is as such recipes are written. Raises `RecipeError` with all that is wrong.
    """
    tree = yaml12.quick(text) if len(text) <= MAX_BYTES else None
    if not isinstance(tree, dict):
        document = parse(text.encode("utf-8", "surrogatepass"), source)
        if document.findings:
            raise fail(document.findings)
        tree = document.tree
    return tree


def parse(data: bytes, source: str) -> Document:
    """`load` for bytes already read; `source` is the name to use in messages."""
    if len(data) > MAX_BYTES:
        raise fail([Finding(Place(source), _TOO_LARGE)])
    text = _decode(data, source)
    lines = _LINE_BREAK.split(text)
    document = read(text, lambda line, column: _place(source, lines, line, column))
    if isinstance(document.tree, dict):
        return document
    if document.tree is None:
        message = "the recipe is empty: it needs the sections data, network and rule"
    else:
        message = f"a recipe is a mapping of sections (`rule: fdfa`), not {describe(document.tree)}"
    raise fail(document.findings or [Finding(document.values[()], message)])


def read(text: str, locate: Callable[[int, int], Place]) -> Document:
    """Any YAML value in `text`; `locate` gives the place of a line and column, both from 0.

    Raises `RecipeError` where the text is not one YAML document.
    """
    try:
        root = yaml12.compose(text)
    except yaml.YAMLError as error:
        line, column, message = _explain(error, text)
        raise fail([Finding(locate(line, column), message)]) from error
    reader = _Reader(locate)
    if root is None:
        return Document(None, {(): locate(0, 0)})
    tree = reader.value(root, ())
    return Document(tree, reader.values, reader.keys, tuple(reader.findings), frozenset(reader.unread))


def describe(value: object) -> str:
    """`value` in a message: "the text 'fast'", "a list", "3"."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value if len(value) <= 60 else value[:57] + '...'!r}"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return f"{value}"


class _Reader:
    """Turns composed nodes into plain values; every list and mapping is visited, aliases included."""

    def __init__(self, locate: Callable[[int, int], Place]) -> None:
        self._locate = locate
        self._count = 0
        self.values: dict[KeyPath, Place] = {}
        self.keys: dict[KeyPath, Place] = {}
        self.findings: list[Finding] = []
        self.unread: set[KeyPath] = set()

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """The value of `node`, which stands at `path`; None where it has none (then a finding says so)."""
        place = self._locate(node.start_mark.line, node.start_mark.column)
        self._count += 1
        if self._count > MAX_VALUES:
            message = f"more than {MAX_VALUES} values once aliases are expanded"
            raise fail([*self.findings, Finding(self.keys.get(path[:1], place), message)])
        if len(path) > yaml12.MAX_DEPTH:
            message = f"nested more than {yaml12.MAX_DEPTH} levels deep: an alias that contains itself?"
            raise fail([*self.findings, Finding(place, message)])
        self.values[path] = place
        try:
            if isinstance(node, yaml.ScalarNode):
                return yaml12.scalar(node)
            if not yaml12.is_plain(node):
                tag = yaml12.short_tag(node)
                raise ValueError(f"the tag {tag} is not allowed: a recipe holds plain values only")
        except ValueError as error:
            self.findings.append(Finding(place, str(error)))
            self.unread.add(path)
            return None
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._mapping(node, path)

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        if path in self.keys:
            self.values[path] = self.keys[path]
        tree: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._locate(key_node.start_mark.line, key_node.start_mark.column)
            if not isinstance(key_node, yaml.ScalarNode) or not yaml12.is_plain(key_node):
                self.findings.append(Finding(place, _bad_key(key_node)))
                continue
            key = key_node.value
            if key in tree:
                first = self.keys[*path, key].where
                self.findings.append(Finding(place, f"the key {key!r} is given twice, first at {first}"))
                continue
            self.keys[*path, key] = place
            tree[key] = self.value(value_node, (*path, key))
        return tree


def _bad_key(node: yaml.Node) -> str:
    if node.tag == yaml12.MERGE:
        return "merge keys (<<) are not part of YAML 1.2: write the keys out"
    if not isinstance(node, yaml.ScalarNode):
        return "a list or mapping cannot be a key: keys are names, such as rule"
    if node.value == "":
        return "a name is missing before the colon"
    said = f"{node.value[:40]!r} is not a name: keys are names, such as rule"
    return f"{said}; a number has a decimal point, not a comma" if node.value.isdigit() else said


def _decode(data: bytes, source: str) -> str:
    start = Place(f"{source}:1:1")
    for bom, encoding in ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32")):
        if data.startswith(bom):
            raise fail([Finding(start, f"the file is {encoding}: save it as UTF-8")])
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise fail([Finding(start, "the file is UTF-16: save it as UTF-8")])
    if b"\0" in data:
        raise fail([Finding(start, "the file holds zero bytes: it is UTF-16, or not text at all")])
    text = data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    if bad := re.search("[\udc80-\udcff]", text):
        before = _LINE_BREAK.split(text[: bad.start()])
        place = Place(f"{source}:{len(before)}:{len(before[-1]) + 1}")
        byte = ord(bad.group()) - 0xDC00
        message = f"byte 0x{byte:02x} is not UTF-8 (Latin-1 or Windows-1252?): save the file as UTF-8"
        raise fail([Finding(place, message)])
    return text


def _place(source: str, lines: list[str], line: int, column: int) -> Place:
    """The place of a line and column from 0, with the line and a caret under the column."""
    line = min(line, len(lines) - 1)
    start = max(0, column - 70) if len(lines[line]) > 100 else 0  # of a long line, show a part
    visible = lines[line][start : start + 100].replace("\t", "→")
    shown = "".join(c if c.isprintable() else "\ufffd" for c in visible)
    number = f"{line + 1:>5} | "
    caret = " " * (len(number) - 2) + "| " + " " * (column - start) + "^"
    order = (0, line + 1, column + 1)
    return Place(f"{source}:{line + 1}:{column + 1}", f"{number}{shown}\n{caret}", order)


#: What PyYAML says, and what to tell a person about it.
_SENTENCES = {
    "mapping values are not allowed here": "a `key: value` cannot stand here: check the indentation and the"
    " line above, or quote text that holds a colon",
    "sequence entries are not allowed here": "a list item cannot stand here: give it a line of its own",
    "expected the node content": "a value is missing here",
    "found unknown escape character": "unknown escape in double quotes: use single quotes",
    "could not find expected ':'": "this line is no `key: value`",
    "expected <block end>": "this line does not fit the indentation of the lines above it",
    "expected ',' or ']'": "a list `[…]` is not closed, or a comma is missing",
    "expected ',' or '}'": "a mapping `{…}` is not closed, or a comma is missing",
    "found unexpected end of stream": "this quote is not closed",
    "found undefined alias": "there is no anchor (&name) of this alias before it",
    "found another document": "a recipe is one document: a second one starts here",
    "special characters are not allowed": "a control character cannot stand in a recipe",
}


def _explain(error: yaml.YAMLError, text: str) -> tuple[int, int, str]:
    """Line and column (from 0) of a syntax error, and a sentence about it."""
    if isinstance(error, ReaderError):
        before = _LINE_BREAK.split(text[: error.position])
        line, column, said = len(before) - 1, len(before[-1]), error.reason
        return line, column, f"{_SENTENCES.get(said, said)} (U+{error.character:04X})"
    assert isinstance(error, yaml.MarkedYAMLError)
    mark, opened = error.problem_mark, error.context_mark
    assert mark is not None
    in_brackets = "flow" in (error.context or "")
    if opened and (mark.index >= len(text.rstrip()) or (in_brackets and opened.line < mark.line)):
        mark = opened  # what was opened there is never closed
    said = error.problem or ""
    start = text.rfind("\n", 0, mark.index) + 1
    written = text[start:].partition("\n")[0]
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return mark.line, written.index("\t"), "a tab cannot indent YAML: use spaces"
    character = re.match(r"found character (.+) that cannot start any token", said)
    if character and character[1] == r"'\t'":
        return mark.line, mark.column, "a tab cannot stand here: use spaces"
    if character:
        return mark.line, mark.column, f"text cannot start with {character[1]}: put it in quotes"
    if isinstance(error, yaml12.Refused):
        return mark.line, mark.column, said
    sentence = next((s for key, s in _SENTENCES.items() if key in said), f"not valid YAML: {said}")
    return mark.line, mark.column, sentence
