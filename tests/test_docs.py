"""Generated pages are current, and the README's commands exist."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from test_rules import RULES_TABLE

from fdfa_cli.cli import run as fdfa
from fdfa_cli.report import rules_page as rules_page_module
from fdfa_cli.report.rules_page import MEASURED, rules_page
from fdfa_cli.rules.base import RULES

ROOT = Path(__file__).parents[1]


def test_rules_page_is_current():
    assert (ROOT / "docs" / "rules.md").read_text() == rules_page(), "run `make docs`"


@pytest.fixture
def measured():
    """docs/measured.py as a module."""
    spec = importlib.util.spec_from_file_location("measured", ROOT / "docs" / "measured.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_measured_accuracies_come_from_comparisons(measured, tmp_path, monkeypatch):
    """Of rules with an interval; what is said of other tasks stays."""
    rules = {
        "bp": {"mean_test_accuracy": 0.98346, "half_width": 0.00123, "n": 3},
        "fa": {"mean_test_accuracy": 0.98, "half_width": None, "n": 2},
    }
    (tmp_path / "compare.json").write_text(json.dumps({"rules": rules}))
    file = tmp_path / "measured.yaml"
    file.write_text("mnist:\n  ff: {mean: 0.9, half_width: 0.1, n: 3}\n")
    monkeypatch.setattr(measured, "FILE", file)
    measured.main([f"digits={tmp_path}"])
    assert yaml.safe_load(file.read_text()) == {
        "mnist": {"ff": {"mean": 0.9, "half_width": 0.1, "n": 3}},
        "digits": {"bp": {"mean": 0.9835, "half_width": 0.0012, "n": 3}},
    }


FLOORS = {row.name: row.floor for row in RULES_TABLE}


def test_accuracies_on_digits_are_of_rules_and_above_what_each_must_exceed():
    """Means over three seeds or more."""
    digits = yaml.safe_load(MEASURED.read_text())["digits"]
    assert digits.keys() <= set(RULES)
    for name, row in digits.items():
        assert row["n"] >= 3
        assert row["mean"] > FLOORS[name]


def test_a_rule_that_nobody_has_measured_yet_has_a_dash(tmp_path, monkeypatch):
    measured = yaml.safe_load(MEASURED.read_text())
    del measured["digits"]["dfa"]
    file = tmp_path / "measured.yaml"
    file.write_text(yaml.safe_dump(measured))
    monkeypatch.setattr(rules_page_module, "MEASURED", file)
    rows = [line.split("|") for line in rules_page().splitlines() if line.startswith("| `")]
    column = {row[1].strip(): row[5].strip() for row in rows if len(row) > 6}  # the others are of options
    assert column["`dfa`"] == "–"
    assert column["`bp`"].startswith("98.2 ± 0.7")


COMMANDS = sorted(
    set(
        re.findall(
            r"^\$ fdfa ((?:train|report|recipe|data|rules|sweep|compare)\b.*?)(?:  +#.*)?$",
            (ROOT / "README.md").read_text(),
            re.MULTILINE,
        )
    )
)


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_commands_parse(command, capsys):
    """Every command of the README names options that exist, and recipes that check."""
    words = command.split()
    if words[0] in ("train", "sweep", "compare"):
        recipe = next(word for word in words[1:] if not word.startswith("-"))
        overrides = [word for word in words[1:] if "=" in word and not word.startswith("-")]
        assert fdfa(["recipe", "check", recipe, *overrides]) == 0
    assert fdfa([words[0], "--help"]) == 0
    text = capsys.readouterr().out
    for option in re.findall(r"--[a-z-]+", command):
        assert option in text or words[0] == "recipe"
