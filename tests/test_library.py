"""What a library leaves to the program that imports it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = """
import gc, importlib, logging, os, pkgutil, signal, sys

def process():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return dict(os.environ), gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), handlers, [*sys.argv]

before = process()
streams = sys.stdin, sys.stdout, sys.stderr
import fdfa_cli

for module in pkgutil.walk_packages(sys.modules["fdfa_cli"].__path__, "fdfa_cli."):
    importlib.import_module(module.name)
from pathlib import Path
from fdfa_cli.data import data_root
from fdfa_cli.recipe.resolve import read
from fdfa_cli.training.loop import fit
from fdfa_cli.training.training_run import TrainingRun

recipe = read("digits/mlp", ["data.limit=100", "training.epochs=1"]).recipe.single()
fit(TrainingRun.new(recipe, Path("results"), ["train"]), data_root())
after = process()
assert before == after, [(a, b) for a, b in zip(before, after) if a != b]
assert streams == (sys.stdin, sys.stdout, sys.stderr)
assert not logging.root.handlers and not logging.getLogger("fdfa_cli").handlers
"""


def test_importing_and_training_change_nothing_of_the_process_and_print_nothing(tmp_path: Path) -> None:
    # Without what the program sets for its own process: where it is set already, nobody sees it set again.
    here = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], cwd=tmp_path, env=here, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


#: What takes long to import, and what `fdfa --help` has no use for.
HEAVY = ("torch", "numpy", "pydantic", "yaml", "psutil", "scipy", "asyncio")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_that_takes_long(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom fdfa_cli.cli import run\n"
        f"run({arguments!r})\n"
        f"print(sorted({set(HEAVY)!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
