"""The worked example of CONTRIBUTING.md does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from fdfa_cli.cli import run as fdfa
from fdfa_cli.rules.base import RULES

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def block(label: str) -> str:
    match = re.search(rf"<!-- example: {label} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert match, label
    return match.group(1)


def test_example_rule_trains_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RULES, "_models", dict(RULES.models()))
    Path("ternary.py").write_text(block("a rule"))
    command = shlex.split(block("its use").removeprefix("$ fdfa "))
    assert fdfa([*command, "training.epochs=8", "--quiet"]) == 0
    assert fdfa(["report", "--format", "json"]) == 0
    output = capsys.readouterr().out
    assert '"rule": "tdfa"' in output
    accuracy = float(re.search(r'"test_accuracy": ([0-9.]+)', output).group(1))
    assert accuracy > 0.8  # chance is 0.1

    assert fdfa(["rules", "--plugin", "ternary.py"]) == 0
    assert "large errors" in capsys.readouterr().out
