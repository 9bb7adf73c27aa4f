"""The command line as a whole: quick to answer, honest exit codes, no traceback for a user's mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from fdfa_cli.cli import run as fdfa
from fdfa_cli.rules.base import RULES


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["rules"],
        ["rules", "fdfa"],
        ["recipe", "check", "mnist/mlp"],
        ["recipe", "show", "digits/fdfa"],
        ["data", "list"],
    ],
    ids=" ".join,
)
def test_answers_without_importing_torch(arguments):
    program = (
        "import sys\nfrom fdfa_cli.cli import run\n"
        f"code = run({arguments!r})\n"
        "assert not {'torch', 'torchvision', 'numpy'} & set(sys.modules), 'heavy import'\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "give a RECIPE"),
        (["train", "digts/mlp"], "did you mean 'digits/mlp'"),
        (["train", "digits/mlp", "rule=fdaf"], "did you mean 'fdfa'"),
        (["train", "digits/mlp", "training.epoch=3"], "did you mean 'epochs'"),
        (["train", "digits/mlp", "--device", "gpu"], "device"),
        (["train", "--resume", "nowhere"], "nowhere"),
        (["train", "digits/mlp", "--plugin", "nowhere.py"], "nowhere.py"),
        (["report", "nowhere"], "nowhere"),
        (["tarin"], "tarin"),
        (["train", "digits/mlp", "--sed", "1"], "--sed"),
        (["data", "fetch", "mnits"], "did you mean 'mnist'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_exit_2_with_the_nearest_name(arguments, said, capsys):
    assert fdfa(arguments) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "Traceback" not in errors


def test_missing_data_names_folder_and_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FDFA_DATA", str(tmp_path))
    assert fdfa(["train", "mnist/mlp", "--results", str(tmp_path / "results")]) == 2
    errors = capsys.readouterr().err
    assert str(tmp_path) in errors
    assert "fdfa data fetch mnist" in errors


def test_debug_shows_the_traceback():
    command = [sys.executable, "-m", "fdfa_cli", "--debug", "train", "digts/mlp"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("name", list(RULES))
def test_one_rule_is_explained_with_its_equations_and_options(name, capsys):
    assert fdfa(["rules", name]) == 0
    page, rule = capsys.readouterr().out, RULES.get(name)
    assert rule.summary() in page
    assert (sys.modules[rule.__module__].__doc__ or "").splitlines()[-2] in page
    options = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert options == [option for option in rule.model_fields if option != "name"]
    assert page.count("\n### ") == 1  # none of its kin
    assert fdfa(["rules", name, "--format", "json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [name]


def test_an_unknown_rule_is_not_explained(capsys):
    assert fdfa(["rules", "dfaa"]) == 2
    assert "did you mean 'dfa'" in capsys.readouterr().err


def test_rules_lists_the_registry_as_json(capsys):
    assert fdfa(["rules", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"bp", "dfa", "fdfa"} <= {row["name"] for row in rows}
    assert all(
        row.keys() == {"name", "summary", "exact", "passes", "source"} and all(row.values()) for row in rows
    )
