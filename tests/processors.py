"""The tests under other processors' kernels, on this machine: one line for each setting.

    python tests/processors.py                       # every setting, all that can depend on a processor
    python tests/processors.py --digits SETTING…     # these only, and only what computes digits

Ends with 1 where a test fails under any of them. Flags of pytest are taken from PYTEST_FLAGS.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

HERE = Path(__file__).parent

#: Environment of each setting, and options of pytest.
SETTINGS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    **{
        f"{name}={value}": ({name: value}, ())
        for name, values in {
            "ATEN_CPU_CAPABILITY": ("default", "avx2"),
            "ONEDNN_MAX_CPU_ISA": ("SSE41", "AVX2", "AVX512_CORE"),
            "MKL_CBWR": ("COMPATIBLE",),
            "FDFA_KERNELS": ("reference",),
            "OMP_NUM_THREADS": ("1", "2"),
        }.items()
        for value in values
    },
    # Sums round otherwise alone than stacked: see the plugin. One test measures how kernels themselves round.
    "rounding": (
        {},
        ("-p", "rounding", "--deselect", "tests/test_nnpack.py::test_they_round_less_than_the_direct_sums"),
    ),
}

#: Tests of the text, the store and the pages; what they check no processor can change.
ELSEWHERE = [
    *(
        "broken_recipes",
        "cli",
        "cluster",
        "contributing",
        "docs",
        "fake_cuda",
        "gpu",
        "html",
        "plots",
        "plots_diagnostics",
    ),
    *("recipe", "recipe_files", "recipe_fuzz", "report", "report_query", "report_watch", "transfer"),
]
#: Tests of what computes digits.
DIGITS = ["data_batches", "kernels", "layers", "matmul", "networks", "nnpack", "rules", "stacked"]
DIGITS += ["streams", "traced"]


class Outcome(NamedTuple):
    """How many tests ended how."""

    passed: int
    skipped: int
    failed: list[str]


def main() -> int:
    """Print a line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"of: {', '.join(SETTINGS)}")
    parser.add_argument("--digits", action="store_true", help="only the tests of what computes digits")
    given = parser.parse_args()
    if unknown := set(given.settings) - set(SETTINGS):
        parser.error(f"unknown setting {', '.join(sorted(unknown))}; known: {', '.join(SETTINGS)}")
    bad = False
    for name in given.settings or SETTINGS:
        begun = time.monotonic()
        outcome = tested(*SETTINGS[name], given.digits)
        bad |= bool(outcome.failed) or not outcome.passed
        counts = f"{outcome.passed} passed, {len(outcome.failed)} failed, {outcome.skipped} skipped"
        print(f"{name:31} {counts:38} {time.monotonic() - begun:6.0f} s", flush=True)
        for test in outcome.failed:
            print(f"    {test}", flush=True)
    return int(bad)


def tested(environment: dict[str, str], options: tuple[str, ...], digits: bool) -> Outcome:
    """Run pytest under `environment`."""
    files = [str(HERE / f"test_{name}.py") for name in DIGITS] if digits else [str(HERE)]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    command += [f"--ignore={HERE / f'test_{name}.py'}" for name in ELSEWHERE]
    command += options
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command += [f"--junitxml={report}", *shlex.split(os.environ.get("PYTEST_FLAGS", ""))]
        done = subprocess.run(
            command,
            env=os.environ | environment | {"PYTHONPATH": path},
            cwd=HERE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if not report.exists():
            return Outcome(0, 0, [done.stdout])
        return read(report)


def read(report: Path) -> Outcome:
    """What a report in JUnit's format says."""
    passed, skipped, failed = 0, 0, []
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in kinds:
            skipped += 1
        else:
            passed += 1
    return Outcome(passed, skipped, failed)


if __name__ == "__main__":
    sys.exit(main())
