"""Prints a line ``package==version`` for the oldest version of each package that pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
for requirement in chain(project["dependencies"], *project["optional-dependencies"].values()):
    bound = re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement)
    if bound is not None:
        print("==".join(bound.groups()))
