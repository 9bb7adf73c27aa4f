"""What `make setup` installs can be installed together, as far as it is written in this project's files."""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).parents[1]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]


def pins() -> list[Requirement]:
    lines = (TOP / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def test_no_package_is_pinned_twice():
    names = [canonicalize_name(pin.name) for pin in pins()]
    assert len(names) == len(set(names))


def test_every_requirement_is_pinned_to_a_version_that_it_allows():
    pinned = {canonicalize_name(pin.name): pin.specifier for pin in pins()}
    for text in chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        wanted = Requirement(text)
        if wanted.name == PROJECT["name"]:  # its own extras
            continue
        (exact,) = pinned[canonicalize_name(wanted.name)]
        assert exact.operator == "=="
        assert wanted.specifier.contains(exact.version), (text, exact)
