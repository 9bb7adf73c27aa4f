"""Run folders that no writer made: every field of every file wrong in turn, and files that are no files.

`make` puts copies of real runs, each damaged in one way, into a folder, and some that it leaves as they are.
The same seed gives the same folders.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from fdfa_cli.data import data_root
from fdfa_cli.recipe.resolve import read
from fdfa_cli.recipe.write import identities
from fdfa_cli.storage import RunFolder
from fdfa_cli.training.loop import fit
from fdfa_cli.training.training_run import TrainingRun

#: One in so many is left whole.
WHOLE = 4
RECIPE = ("network.hidden=[4, 4]", "training.epochs=2", "training.threads=1", "data.limit=200")
PROBED = (*RECIPE, "diagnostics={draws: 2, batches: 2}")
#: How the copied runs ended, and the epochs that they were trained.
ENDS = (("completed", None), ("interrupted", 1), ("running", 1), ("diverged", 1))


@dataclass(frozen=True)
class Made:
    """A run folder: left `whole`, or damaged as `how` says."""

    path: Path
    whole: bool
    how: str


def make(folder: Path, count: int, seed: int, runs: Sequence[Path] = ()) -> Iterator[Made]:
    """Make `count` run folders in `folder`: copies of `runs`, or else of some that are trained first."""
    chance = random.Random(f"hostile runs {seed}")
    originals = runs or _trained()
    for number in range(count):
        original = chance.choice(originals)
        path = (
            folder
            / f"20260102T{number // 3600:02d}{number // 60 % 60:02d}{number % 60:02d}Z-hostile-{seed:08x}"
        )
        shutil.copytree(original, path)
        if not runs:
            _renumber(path, number)
        if number % WHOLE == 0:
            yield Made(path, True, "whole")
            continue
        file = chance.choice(("run.json", "metrics.jsonl", "recipe.yaml", "checkpoint.pt", "folder"))
        attack = chance.choice(ATTACKS[file])
        detail = attack(path / file if file != "folder" else path, chance)
        yield Made(path, False, f"{file}: {attack.__name__.lstrip('_')} {detail or ''}".strip())


@cache
def _trained() -> list[Path]:
    """One real run for each of `ENDS`, with diagnostics and without."""
    folder = Path(mkdtemp(prefix="fdfa-hostile-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    found = []
    for overrides in (RECIPE, PROBED):
        for status, epochs in ENDS:
            recipe = read("digits/mlp", overrides).recipe.single()
            training = TrainingRun.new(recipe, folder / status, ["fdfa", "train"], epochs)
            fit(training, data_root())
            if training.run.status != status:
                with RunFolder.resume(training.run.path, ["fdfa", "train"]) as run:
                    run.update(status, None if status != "diverged" else "not finite")
            found.append(training.run.path)
    return found


def _renumber(path: Path, seed: int) -> None:
    """Give a copy another seed, and so another identity, so that no two are the same run."""
    recipe = path / "recipe.yaml"
    recipe.write_text(re.sub(r"(?m)^  seed: .*$", f"  seed: {seed}", recipe.read_text()))
    record = json.loads((path / "run.json").read_text())
    record["facts"] |= {"seed": seed, "identity": _identity("diagnostics" in recipe.read_text(), seed)}
    (path / "run.json").write_text(json.dumps(record))


def _identity(probed: bool, seed: int) -> str:
    return identities(_recipe(probed), [seed])[0]


@cache
def _recipe(probed: bool) -> Any:
    return read("digits/mlp", PROBED if probed else RECIPE).recipe.single()


# --- JSON ------------------------------------------------------------------------------------------------


def _deep(levels: int) -> Any:
    tree: Any = []
    for _ in range(levels):
        tree = [tree]
    return tree


#: What stands in the text as it is, since Python writes no such JSON.
RAW = (
    "NaN",
    "-Infinity",
    "1e999",
    "-1e999",
    "9" * 401,
    "9" * 5000,
    "0" * 9,
    "1e-999",
    "[" * 100_000,
    "{" * 9,
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**53, 2**63, -(2**63), 10**300, 0.5, -0.5, 1.5, 1e-320, 1e149,
    1e151,
    1e308, -1e308, "", "x", "é", "\x1b[2J\n", "\u202e", "\ud800", "=1+1", "a" * 300, "a" * 200_000, "nan",
    "1",
    "2026-01-02T03:04:05Z", "2026-13-45T99:99:99Z", "9999-12-31T23:59:59+14:00", "completed", "running", [],
    {},
    [1], [None], [[]], {"": 1}, {"a": {"b": [1]}}, {"block": 1}, [{"step": 1}], _deep(30), _deep(900),
)  # fmt: skip
NAMES = (
    "",
    "x",
    "run",
    "optimizer.lr",
    "\x1b[2J",
    "epoch",
    "val_accuracy",
    "a" * 300,
    "blocks",
    "_",
    "é",
    "1",
)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every object or list in the tree with each of its keys or positions."""
    found = []
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        found.append((tree, key))
        if isinstance(value, dict | list):
            found += _places(value)
    return found


def _spoil(tree: Any, chance: random.Random) -> tuple[str, str]:
    """The tree as JSON with one entry replaced, removed, renamed or added; and what it was."""
    place, key = chance.choice(_places(tree))
    action = chance.choice(("replaced", "replaced", "replaced", "removed", "renamed", "added"))
    value = chance.choice(VALUES)
    raw = chance.choice(RAW) if chance.random() < 0.3 else None
    if raw is not None:
        value = "@raw@"
    if action == "removed":
        del place[key]
    elif action == "replaced" or isinstance(place, list):
        place[key] = value
    elif action == "renamed":
        place[chance.choice(NAMES)] = place.pop(key)
    else:
        place[chance.choice(NAMES)] = value
    text = json.dumps(tree).replace('"@raw@"', raw or "")
    return text, f"{key!r} {action} {(raw or repr(value))[:40]}"


def _field(file: Path, chance: random.Random) -> str:
    text, how = _spoil(json.loads(file.read_text()), chance)
    file.write_text(text)
    return how


def _row(file: Path, chance: random.Random) -> str:
    lines = file.read_text().splitlines()
    number = chance.randrange(len(lines))
    lines[number], how = _spoil(json.loads(lines[number]), chance)
    file.write_text("\n".join(lines) + "\n")
    return how


def _rows_out_of_order(file: Path, chance: random.Random) -> str:
    lines = file.read_text().splitlines()
    lines = chance.choice((lines * 2, lines[::-1], lines[1:], ["", *lines], [lines[0] + lines[-1]]))
    file.write_text("\n".join(lines) + "\n")
    return f"{len(lines)} lines"


# --- YAML ------------------------------------------------------------------------------------------------

SNIPPETS = (
    "2001-99-99", "2001-01-01", "2001-01-01 10:00:00", "!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]",
    "&a [*a]", "&a {b: *a}", "*nowhere", "9" * 5000, "1" * 30, "1e999", ".nan", ".inf", "1e149", "1e308",
    "0o17",
    "1:30", "on", "1_000", "1e-3", "[[1], [2]]", "[{a: 1}, {}]", "[1, x]", "[]", "{}", "{a: {b: c}}",
    "null", "''",
    "'\x1b[2J'", '"\\e[2J"', "!!python/object/apply:os.system [x]", "!x y", "|", "- - 1", "? a", "[1",
    "0.5", "7",
    "'9'", "true", "another", "x" * 9000,
)  # fmt: skip
TEXTS = (
    "a: &a0 [x, x]\n" + "".join(f"b{i}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40)),
    "a: &a {b: *a}\n",
    "[" * 200_000,
    "{" * 200_000,
    "a: " + "[" * 500 + "]" * 500,
    "- " * 100_000,
    "? " * 100_000,
    "a:\n" + "".join(" " * i + "a:\n" for i in range(1, 700)),
    "data: digits\ndata: mnist\n",
    "- 1\n", "3\n", "", "null\n", "%YAML 9.9\n---\na: 1\n", "a: 1\n---\nb: 2\n", "<<: {a: 1}\n", "3: 4\n",
    "[a]: 1\n",
    "\x00", "é: 1\n", "\t", "a" * 300_000, "a: '" + "b" * 250_000 + "'\n", "a: [" + "1, " * 80_000 + "]\n",
)  # fmt: skip


def _value(file: Path, chance: random.Random) -> str:
    lines = file.read_text().splitlines()
    number = chance.choice([i for i, line in enumerate(lines) if re.match(r" *\w+: \S", line)])
    snippet = chance.choice(SNIPPETS)
    lines[number] = lines[number].partition(":")[0] + ": " + snippet
    file.write_text("\n".join(lines) + "\n")
    return lines[number].strip()[:50]


def _line(file: Path, chance: random.Random) -> str:
    lines = file.read_text().splitlines()
    number = chance.randrange(len(lines))
    action = chance.choice(("removed", "twice", "indented"))
    replaced = {"removed": [], "twice": [lines[number]] * 2, "indented": ["   " + lines[number]]}[action]
    lines[number : number + 1] = replaced
    file.write_text("\n".join(lines) + "\n")
    return f"{number} {action}"


def _yaml(file: Path, chance: random.Random) -> str:
    text = chance.choice(TEXTS)
    file.write_text(text)
    return repr(text[:30])


# --- bytes -----------------------------------------------------------------------------------------------


def _flipped(file: Path, chance: random.Random) -> str:
    content = bytearray(file.read_bytes())
    places = [chance.randrange(len(content)) for _ in range(chance.choice((1, 1, 2, 8)))]
    for place in places:
        content[place] ^= 1 << chance.randrange(8)
    file.write_bytes(content)
    return f"at {places}"


def _cut(file: Path, chance: random.Random) -> str:
    content = file.read_bytes()
    kept = chance.randrange(len(content))
    file.write_bytes(content[:kept])
    return f"to {kept} bytes"


def _replaced(file: Path, chance: random.Random) -> str:
    contents = {
        "nothing": b"", "zeros": bytes(5000), "noise": chance.randbytes(5000), "brackets": b"[" * 200_000,
        "objects": b'{"a":' * 100_000, "UTF-16": "{}\n".encode("utf-16"), "text": b"hello\n",
        "null": b"null\n",
        "an archive": b"PK\x03\x04" + bytes(100), "a pickle": b"\x80\x02]q\x00.", "a long line": b"1" * 10**6,
    }  # fmt: skip
    name = chance.choice(list(contents))
    file.write_bytes(contents[name])
    return f"by {name}"


# --- checkpoints -----------------------------------------------------------------------------------------


def _entry(file: Path, chance: random.Random) -> str:
    """Another content in a sound archive."""
    import torch

    content = torch.load(file, weights_only=True)
    place, key = chance.choice(_places(content))
    others: dict[str, Callable[[Any], Any]] = {
        "nothing": lambda _: None, "text": lambda _: "x", "a list": lambda old: [old],
        "a number": lambda _: -1,
        "another shape": lambda _: torch.zeros(3, 5), "huge": lambda _: torch.zeros(1).expand(10**9),
        "another type": lambda _: torch.zeros(2, dtype=torch.complex64), "a mapping": lambda _: {1: 2},
        "sparse": lambda _: torch.eye(3).to_sparse(), "large": lambda _: 10**12,
        "not a number": lambda _: float("nan"),
    }  # fmt: skip
    name = chance.choice(["removed", *others])
    if name == "removed":
        del place[key]
    else:
        place[key] = others[name](place[key])
    torch.save(content, file)
    return f"{key!r} {name}"


def _object(file: Path, chance: random.Random) -> str:
    import torch

    name, value = chance.choice(
        [("a list", [1]), ("a tensor", torch.zeros(3)), ("empty", {}), ("a number", 3), ("text", "x"),
         ("another format", {"format": 2})]
    )  # fmt: skip
    torch.save(value, file)
    return name


# --- no files --------------------------------------------------------------------------------------------


def _pipe(file: Path, chance: random.Random) -> None:
    _remove(file)
    os.mkfifo(file)


def _directory(file: Path, chance: random.Random) -> None:
    _remove(file)
    file.mkdir()
    if chance.random() < 0.5:
        (file / "more").write_text("x")


def _link(file: Path, chance: random.Random) -> str:
    targets = (
        "/dev/zero",
        "/dev/null",
        "/dev/full",
        file.name,
        "nowhere",
        "..",
        "/",
        "/dev",
        "run.json",
        "x" * 250,
    )
    target = chance.choice([t for t in targets if Path(t).exists() or "/" not in t])
    _remove(file)
    file.symlink_to(target)
    return f"to {target[:20]}"


def _missing(file: Path, chance: random.Random) -> None:
    _remove(file)


def _unreadable(file: Path, chance: random.Random) -> None:
    file.chmod(0)


def _huge(file: Path, chance: random.Random) -> None:
    """A terabyte, of which the file system stores nothing."""
    with file.open("r+b") as stream:
        stream.truncate(chance.choice((2**28 + 1, 2**40)))


def _remove(file: Path) -> None:
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)


# --- the folder ------------------------------------------------------------------------------------------


def _strangers(folder: Path, chance: random.Random) -> str:
    """What is no part of a run, beside its files."""
    name = chance.choice(
        ("x", ".x.tmp", ".recipe.yaml.0badcafe.tmp", "\x1b[2J", os.fsdecode(b"\xff"), ".foreign")
    )
    kind = chance.choice((_pipe, _directory, _link))
    kind(folder / name, chance)
    return f"{kind.__name__.lstrip('_')} {name!r}"


def _nested(folder: Path, chance: random.Random) -> str:
    """Folders in one another, at the end of which is nothing, or a loop."""
    shutil.rmtree(folder)
    levels = chance.choice((3, 99, 150, 900))
    here = os.open(folder.parent, os.O_RDONLY)
    try:
        os.mkdir(folder.name, dir_fd=here)
        below = os.open(folder.name, os.O_RDONLY, dir_fd=here)
        for _ in range(levels):
            os.mkdir("d", dir_fd=below)
            deeper = os.open("d", os.O_RDONLY, dir_fd=below)
            os.close(below)
            below = deeper
        if chance.random() < 0.5:
            os.symlink(folder, "loop", dir_fd=below)
        os.close(below)
    finally:
        os.close(here)
    return f"{levels} deep"


def _linked(folder: Path, chance: random.Random) -> str:
    """A link in place of the folder."""
    shutil.rmtree(folder)
    target = chance.choice((folder.name, "..", "nowhere", "/dev/null", "."))
    folder.symlink_to(target)
    return f"to {target}"


def _only(folder: Path, chance: random.Random) -> str:
    """Only one of the files is left."""
    kept = chance.choice(("run.json", "metrics.jsonl", "recipe.yaml", "checkpoint.pt"))
    for file in folder.iterdir():
        if file.name != kept:
            _remove(file)
    return kept


def _closed(folder: Path, chance: random.Random) -> None:
    """A folder that may not be looked into, except by root."""
    folder.chmod(0)


Attack = Callable[[Path, random.Random], str | None]
_ANY: tuple[Attack, ...] = (
    _flipped, _flipped, _cut, _replaced, _pipe, _directory, _link, _missing, _unreadable, _huge
)  # fmt: skip
ATTACKS: dict[str, tuple[Attack, ...]] = {
    "run.json": (*_ANY, *[_field] * 15),
    "metrics.jsonl": (*_ANY, *[_row] * 15, _rows_out_of_order),
    "recipe.yaml": (*_ANY, *[_value] * 8, _line, *[_yaml] * 6),
    "checkpoint.pt": (*_ANY, *[_entry] * 8, _object, _object),
    "folder": (_strangers, _nested, _linked, _only, _closed),
}
