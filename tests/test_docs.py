"""Generated pages are current, and the README's commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fdfa_cli.cli import run as fdfa
from fdfa_cli.report.rules_page import rules_page

ROOT = Path(__file__).parents[1]


def test_rules_page_is_current():
    assert (ROOT / "docs" / "rules.md").read_text() == rules_page(), "run `make docs`"


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
