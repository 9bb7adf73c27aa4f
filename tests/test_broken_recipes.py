"""Recipes that are wrong, each in its own way: exit 2, a located message, no traceback.

A row is (what is wrong, the file, line and column of each problem with words its message must hold).
Every located line of the output must be expected, so that one mistake gives one message.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fdfa_cli.cli import run

GOOD = "data: digits\nnetwork: mlp\nrule: fdfa\n"  # a row's own text starts at line 4


def row(what: str, file: str | bytes, *problems: tuple[int, int, str]) -> object:
    data = file.encode() if isinstance(file, str) else file
    return pytest.param(data, problems, id=what.replace(" ", "-"))


BROKEN = [
    # not a recipe at all
    row("empty file", "", (1, 1, "empty")),
    row("only a comment", "# to do\n", (1, 1, "empty")),
    row("null", "---\nnull\n", (2, 1, "empty")),
    row("a list", "- data: digits\n", (1, 1, "mapping of sections")),
    row("a number", "3\n", (1, 1, "not 3")),
    row("prose", "train the network\n", (1, 1, "not the text 'train the network'")),
    row("no space after colons", "data:digits\n", (1, 1, "mapping of sections")),
    row("two documents", GOOD + "---\nrule: dfa\n", (4, 1, "second one starts here")),
    # encodings
    row("UTF-16", GOOD.encode("utf-16"), (1, 1, "UTF-16")),
    row("UTF-16 without its mark", GOOD.encode("utf-16-le"), (1, 1, "UTF-16")),
    row("UTF-32", GOOD.encode("utf-32"), (1, 1, "UTF-32")),
    row("Latin-1", GOOD.encode() + b"# caf\xe9\n", (4, 6, "0xe9 is not UTF-8")),
    row("UTF-8 mark, then Latin-1", b"\xef\xbb\xbfdata: \xe9\n", (1, 7, "0xe9 is not UTF-8")),
    row("half a character", "data: é".encode()[:-1], (1, 7, "0xc3 is not UTF-8")),
    row("control character", GOOD + "training: {device: \x1b[31m}\n", (4, 20, "control character")),
    row("a checkpoint", b"PK\x03\x04\0\0", (1, 1, "not text at all")),
    # YAML
    row("tab as indentation", "rule:\n\tname: fdfa\n", (2, 1, "a tab cannot indent")),
    row("tab after spaces", "rule:\n  name: fdfa\n  \tshare: [1]\n", (3, 3, "a tab cannot indent")),
    row("tab after a colon", GOOD + "training: {precision:\tfp32}\n", (4, 22, "a tab cannot stand here")),
    row("list not closed", GOOD + "optimizer:\n  betas: [0.9, 0.99\n", (5, 10, "not closed")),
    row("list not closed before more", "x: [1, 2\ny: 3\n", (1, 4, "not closed")),
    row("mapping not closed", "data: {name: digits\nrule: fdfa\n", (1, 7, "not closed")),
    row("comma missing", "data: {name: digits size: 3}\n", (1, 25, "a comma is missing")),
    row("quote not closed", "data: 'digits\nrule: fdfa\n", (1, 7, "quote is not closed")),
    row("colon in a value", "data: digits: 8x8\n", (1, 13, "cannot stand here")),
    row("indented too far", "data: digits\n  rule: fdfa\n", (2, 7, "cannot stand here")),
    row("indented too little", "training:\n    epochs: 3\n  seed: 1\n", (3, 3, "indentation")),
    row("no colon", GOOD + "schedule\n", (4, 1, "no `key: value`")),
    row("list item on the key's line", "data: - digits\n", (1, 7, "list item")),
    row("reserved character", "data: @digits\n", (1, 7, "in quotes")),
    row("backslash in double quotes", 'data: "C:\\digits"\n', (1, 11, "single quotes")),
    row("code point out of range", 'data: "\\UFFFFFFFF"\n', (1, 10, "no such character")),
    row("half a surrogate pair", GOOD + 'training: {device: "\\ud800"}\n', (4, 20, "surrogate")),
    row("alias without anchor", "data: *d\n", (1, 7, "no anchor")),
    row("alias of itself", "data: &d [*d]\n", (1, 7, "contains itself")),
    row(
        "alias bomb",
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{k}: &{k} [{', '.join([f'*{j}'] * 9)}]\n" for j, k in zip("abcdefg", "bcdefgh", strict=True)
        ),
        (5, 1, "10000 values"),
    ),
    row("nested very deep", "[" * 5000, (1, 41, "levels deep")),
    row("merge key", GOOD + "training:\n  <<: {epochs: 3}\n", (5, 3, "merge keys")),
    row(
        "Python object", GOOD + "optimizer: !!python/object/apply:os.getcwd []\n", (4, 12, "!!python/object")
    ),
    row("Python name", GOOD + "training: {epochs: !!python/name:sys.exit }\n", (4, 20, "!!python/name")),
    row("a tag of one's own", "data: !digits {}\nnetwork: mlp\nrule: bp\n", (1, 7, "tag !digits")),
    row("a tag that lies", GOOD + "training: {epochs: !!int ten}\n", (4, 20, "not of the type !!int")),
    row("key twice", GOOD + "data: mnist\n", (4, 1, "first at")),
    row("option twice", GOOD + "training: {epochs: 1, epochs: 2}\n", (4, 23, "'epochs' is given twice")),
    row("number as key", GOOD + "3: x\n", (4, 1, "'3' is not a name")),
    row("true as key", GOOD + "training: {true: 1}\n", (4, 12, "'true' is not a name")),
    row("list as key", GOOD + "? [a, b]\n: 1\n", (4, 3, "cannot be a key")),
    # sections
    row("missing section", "data: digits\nrule: fdfa\n", (1, 1, "no network: add the name of a network")),
    row("unknown section", GOOD + "rul: dfa\n", (4, 1, "did you mean 'rule'")),
    row("option outside its section", GOOD + "epochs: 3\n", (4, 1, "an option of training")),
    row("empty section", "data: digits\nnetwork: mlp\nrule:\n", (3, 6, "not empty")),
    row("section is a number", "data: digits\nnetwork: 3\nrule: bp\n", (2, 10, "not 3")),
    row("section is a list", "data: [digits]\nnetwork: mlp\nrule: bp\n", (1, 7, "not a list")),
    row("plain section is text", GOOD + "training: long\n", (4, 11, "mapping of options")),
    # names
    row("unknown rule", "data: digits\nnetwork: mlp\nrule: dfaa\n", (3, 7, "did you mean 'dfa'")),
    row("unknown rule, long form", "data: digits\nnetwork: mlp\nrule:\n  name: fdfaa\n", (4, 9, "'fdfa'")),
    row("unknown data set", "data: digit\nnetwork: mlp\nrule: bp\n", (1, 7, "did you mean 'digits'")),
    row("unknown optimizer", GOOD + "optimizer: {lr: 0.1, name: sdg}\n", (4, 28, "did you mean 'sgd'")),
    row("name is a number", GOOD + "optimizer: {name: 3}\n", (4, 19, "not 3")),
    row("name is missing", "data: digits\nnetwork: {hidden: [3]}\nrule: bp\n", (2, 1, "network has no name")),
    row(
        "unknown name inside a rule",
        "data: digits\nnetwork: mlp\nrule: {name: fdfa, feedback_optimizer: adm}\n",
        (3, 40, "unknown optimizer 'adm', did you mean 'adam'"),
    ),
    # options
    row(
        "unknown option",
        "data: digits\nnetwork: mlp\nrule: {name: fdfa, feedback_rte: 0.1}\n",
        (3, 20, "'feedback_rate'"),
    ),
    row(
        "option of another rule",
        "data: digits\nnetwork: mlp\nrule: {name: dfa, feedback_rate: 1}\n",
        (3, 19, "fdfa"),
    ),
    row(
        "option of another optimizer",
        GOOD + "optimizer: {name: adam, momentum: 0.9}\n",
        (4, 25, "sgd would take it"),
    ),
    row(
        "text for a number",
        GOOD + "optimizer: {name: adam, lr: fast}\n",
        (4, 29, "a number, not the text 'fast'"),
    ),
    row("quoted number", GOOD + "optimizer: {name: adam, lr: '1e-3'}\n", (4, 29, "remove the quotes")),
    row("fraction for a count", GOOD + "training: {epochs: 1.5}\n", (4, 20, "a whole number, not 1.5")),
    row("float for a count", GOOD + "training: {epochs: 1e2}\n", (4, 20, "a whole number, not 100.0")),
    row("true for a count", GOOD + "training: {epochs: true}\n", (4, 20, "a whole number, not true")),
    row("on for true", GOOD + "training: {drop_last: on}\n", (4, 23, "true or false, not the text 'on'")),
    row("1 for true", GOOD + "training: {drop_last: 1}\n", (4, 23, "true or false, not 1")),
    row(
        "number for a list", "data: digits\nnetwork: {name: mlp, hidden: 128}\nrule: bp\n", (2, 30, "a list")
    ),
    row(
        "text in a list",
        "data: digits\nnetwork: {name: mlp, hidden: [128, x]}\nrule: bp\n",
        (2, 36, "hidden.1"),
    ),
    row("list for a number", GOOD + "training:\n  epochs: [1]\n", (5, 11, "not a list")),
    row("mapping for a number", GOOD + "training:\n  epochs: {a: 1}\n", (5, 3, "not a mapping")),
    row("list too short", GOOD + "optimizer: {name: adam, betas: [0.9]}\n", (4, 32, "number 2 is missing")),
    row("list too long", GOOD + "optimizer: {name: adam, betas: [0, 0, 0]}\n", (4, 32, "at most 2")),
    row("null for a number", GOOD + "training:\n  epochs:\n", (5, 10, "not empty")),
    row("not one of the words", GOOD + "training: {precision: fp64}\n", (4, 23, "'fp32', 'tf32' or 'bf16'")),
    row(
        "a device that is none",
        GOOD + "training: {device: gpu}\n",
        (4, 20, "must be auto, cpu, mps, cuda or one of several GPUs, as cuda:0, not 'gpu'"),
    ),
    row(
        "negative size",
        "data: digits\nnetwork: {name: mlp, hidden: [64, -3]}\nrule: bp\n",
        (2, 35, "at least 1, not -3"),
    ),
    row("zero epochs", GOOD + "training: {epochs: 0}\n", (4, 20, "at least 1, not 0")),
    row("negative rate", GOOD + "optimizer: {name: adam, lr: -1e-3}\n", (4, 29, "at least 0")),
    row(
        "rate above one",
        "data: digits\nnetwork: mlp\nrule: {name: fdfa, feedback_rate: 2}\n",
        (3, 35, "at most 1"),
    ),
    row("NaN", GOOD + "optimizer: {name: adam, lr: .nan}\n", (4, 29, "not a finite number")),
    row("infinity", GOOD + "optimizer: {name: adam, lr: -.INF}\n", (4, 29, "not a finite number")),
    row("overflow", GOOD + "optimizer: {name: adam, lr: 1e999}\n", (4, 29, "not a finite number")),
    row("seed of 65 bits", GOOD + "training: {seed: 36893488147419103232}\n", (4, 18, "64 bits")),
    row("number of 5000 digits", GOOD + f"training: {{seed: {'9' * 5000}}}\n", (4, 18, "64 bits")),
    row("number of 5000 hex digits", GOOD + f"training: {{seed: 0x{'f' * 5000}}}\n", (4, 18, "64 bits")),
    row("Windows line ends", GOOD.replace("\n", "\r\n") + "rul: dfa\r\n", (4, 1, "'rule'")),
    row("at the end of a long line", GOOD + f"training: {{{' ' * 500}epoch: 1}}\n", (4, 512, "'epochs'")),
    row("markup in a key", GOOD + "'[red]x[/red]': 1\n", (4, 1, "'[red]x[/red]'")),
    # all at once
    row(
        "many at once",
        "data: digit\nnetwork: {name: mlp, hiden: [3]}\nrule: {name: fdfa, inject: x}\n"
        "training: {epochs: .inf, seed: -1}\ntraning: {}\n",
        (1, 7, "'digits'"),
        (2, 22, "'hidden'"),
        (3, 28, "'block' or 'activation'"),
        (4, 20, "finite"),
        (4, 32, "at least 0"),
        (5, 1, "'training'"),
    ),
]


@pytest.mark.parametrize(("data", "problems"), BROKEN)
def test_broken_recipe_is_located(
    data: bytes,
    problems: tuple[tuple[int, int, str], ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.yaml").write_bytes(data)

    assert run(["recipe", "check", "broken.yaml"]) == 2

    out, err = capsys.readouterr()
    assert "ok" not in out
    assert "Traceback" not in err
    located = re.findall(r"^broken\.yaml:(\d+):(\d+): (.*)$", err, re.MULTILINE)
    assert [(int(line), int(column)) for line, column, _ in located] == [place[:2] for place in problems], err
    for (_, _, message), (_, _, words) in zip(located, problems, strict=True):
        assert words in message


@pytest.mark.parametrize("command", [["recipe", "show"], ["train"]])
def test_other_commands_report_the_same(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(GOOD + "training: {epochs: 0}\n")
    assert run([*command, str(file)]) == 2
    assert f"{file}:4:20: training.epochs must be at least 1, not 0" in capsys.readouterr().err


def test_unreadable_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(GOOD)
    (tmp_path / "large.yaml").write_text("# " + "x" * 300_000)
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    wanted = {
        str(tmp_path): "is a folder",
        str(tmp_path / "large.yaml"): "larger than 256 KiB",
        str(tmp_path / "recpe.yaml"): f"did you mean '{tmp_path / 'recipe.yaml'}'",
        str(tmp_path / "loop.yaml"): "loop.yaml",
        "mnist/mpl": "did you mean 'mnist/mlp'",
        "recipes/mnist/mpl.yaml": "did you mean 'recipes/mnist/mlp.yaml'",
        "x" * 5000: "unknown recipe",
        "a\0b": "unknown recipe",
        "/dev/zero": "larger than 256 KiB",
    }
    assert run(["recipe", "check", *wanted]) == 2
    err = capsys.readouterr().err
    for words in wanted.values():
        assert words in err


def test_excerpt_shows_the_line_and_a_caret_under_the_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(GOOD + "training: {device: 'a\tb', epochs: -1}\n")
    run(["recipe", "check", str(file)])
    line, caret = capsys.readouterr().err.splitlines()[4:6]
    assert line == "    4 | training: {device: 'a→b', epochs: -1}"
    assert line[caret.index("^") :] == "-1}"
