"""What a step costs as depth, width, batch and number of outputs grow: rules over plain PyTorch.

    python benchmarks/cost.py

Perceptrons with batch norm from 784 inputs; one size at a time moves from 3 hidden layers of 512 units,
batches of 64 and 10 outputs. Measured as in `steps`; a cell is the median step time over that of plain
PyTorch with the fused optimizer on the same network.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import plain
from rich.console import Console
from rich.table import Table
from steps import Task, store, times
from torch import nn

from fdfa_cli.training.allocator import keep_freed_memory

RULES = ("torch", "bp", "dfa", "drtp", "fdfa", "fdfa-s", "fg-a", "fg-w")
INPUTS = (1, 28, 28)


@dataclass(frozen=True)
class Size:
    """A perceptron and its batches."""

    depth: int = 3
    width: int = 512
    batch: int = 64
    outputs: int = 10

    def task(self) -> Task:
        """How to measure it."""
        overrides = (f"network.hidden={[self.width] * self.depth}", f"training.batch_size={self.batch}")
        return Task("mnist/mlp", overrides, partial(module, self), INPUTS, turns=10, classes=self.outputs)


def module(size: Size) -> nn.Module:
    """The network in plain PyTorch."""
    hidden = [layer for _ in range(size.depth - 1) for layer in plain.dense(size.width, size.width)]
    first, last = plain.dense(784, size.width), nn.Linear(size.width, size.outputs)
    return nn.Sequential(nn.Flatten(), *first, *hidden, last)


AXES = {
    "depth": (1, 2, 4, 8, 16),
    "width": (128, 512, 2048),
    "batch": (16, 64, 256),
    "outputs": (10, 100, 1000),
}


def main() -> int:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    arguments = parser.parse_args()
    keep_freed_memory()
    table = Table(box=None, header_style="bold")
    for title in ("size", "torch ms", *RULES[1:]):
        table.add_column(title, justify="left" if title == "size" else "right")
    results: dict[str, dict[str, float]] = {}
    for axis, values in AXES.items():
        for value in values:
            found = times(replace(Size(), **{axis: value}).task(), RULES)
            medians = {rule: statistics.median(seconds) for rule, seconds in found.items()}
            results[f"{axis} {value}"] = medians
            ratios = (f"{medians[rule] / medians['torch']:.2f}" for rule in RULES[1:])
            table.add_row(f"{axis} {value}", f"{1e3 * medians['torch']:.2f}", *ratios)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    store(arguments.out, "cost", seconds=results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
