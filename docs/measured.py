"""docs/measured.yaml from stored comparisons: the accuracies that docs/rules.md shows.

    fdfa compare digits/compare mnist/compare
    python docs/measured.py digits=results/compare-digits-…/ mnist=results/compare-mnist-…/
    make docs

Each argument names a task, and the folder of a comparison whose compare.json is read. A task that is not
given keeps what the file says of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("measured.yaml")
OPENING = """\
# Test accuracy by task and rule: mean over n seeds, and half the width of its 95 % Student-t interval.
# Written by docs/measured.py from `fdfa compare TASK/compare`; docs/rules.md shows it.
"""


def accuracies(folder: Path) -> dict[str, dict[str, float | int]]:
    """Of every rule of the comparison in `folder` that has an interval; to a hundredth of a percent."""
    rules = json.loads((folder / "compare.json").read_text())["rules"]
    return {
        name: {
            "mean": round(row["mean_test_accuracy"], 4),
            "half_width": round(row["half_width"], 4),
            "n": row["n"],
        }
        for name, row in rules.items()
        if row["half_width"] is not None
    }


def main(arguments: list[str]) -> None:
    """Bring the file up to date."""
    measured = yaml.safe_load(FILE.read_text()) if FILE.exists() else {}
    for argument in arguments:
        task, _, folder = argument.partition("=")
        measured[task] = accuracies(Path(folder))
    lines = [OPENING]
    for task, rules in measured.items():
        lines.append(f"{task}:\n")
        lines += [f"  {name}: {{{_inline(row)}}}\n" for name, row in rules.items()]
    FILE.write_text("".join(lines))


def _inline(row: dict[str, float | int]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in row.items())


if __name__ == "__main__":
    main(sys.argv[1:])
