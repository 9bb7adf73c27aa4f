"""Peak memory of a training step as the network gets deeper: rules that free a block before the next runs.

    python benchmarks/memory.py     exits 1 where a rule that should not grow does

A perceptron of 4 to 32 hidden blocks of 64 units with batch norm learns from batches of 8192 samples by SGD.
A block's output is 2 MiB then and its weights 16 KiB, so that what grows with depth are activations; nothing
is subtracted: gradients, which all rules hold until the optimizer has run, running statistics and
perturbations count. A figure is what three steps in a fresh process add to its resident memory at the most,
over what it held before them: data, parameters and the rule's state.

The C library is told to give freed blocks back at once (MALLOC_MMAP_THRESHOLD_). Left alone it keeps some, of
which a figure of one process then consists in part. Linux only: the kernel's high-water mark is reset.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from steps import status, store

from fdfa_cli.recipe.resolve import read
from fdfa_cli.train.session import Session

DEPTHS = (4, 8, 16, 32)
WIDTH, BATCH, INPUTS, CLASSES = 64, 8192, 64, 10
#: Peak at the greatest depth over that at the least, for the rules whose blocks learn one after another.
TARGETS = {"drtp": 1.10, "lg-bp": 1.10, "lg-fg-a": 1.10, "lg-fg-w": 1.10, "ff": 1.10}
RULES = (*TARGETS, "shallow", "dfa", "fdfa", "bp")


def peak(rule: str, depth: int) -> int:
    """Bytes that three steps in a fresh process add."""
    command = [sys.executable, __file__, "--one", rule, str(depth)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return int(output)


def report(rule: str, depth: int) -> None:
    """The other side of `peak`."""
    stepper(rule, 1, samples=64)()  # what is loaded at first use is not counted
    step = stepper(rule, depth, samples=BATCH)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        step()
    print((status("VmHWM") - before) * 1024)


def stepper(rule: str, depth: int, samples: int) -> Callable[[], None]:
    """A function that takes one step of `rule` on a batch of `samples`."""
    recipe = read(
        "digits/mlp",
        [
            f"rule={rule}",
            f"network={{name: mlp, hidden: {[WIDTH] * depth}, norm: batch}}",
            "optimizer={name: sgd, lr: 1e-4}",
            f"training={{batch_size: {samples}}}",
        ],
    ).recipe
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(samples, INPUTS, generator=generator)
    y = torch.randint(CLASSES, (samples,), generator=generator)
    network = recipe.network.build((INPUTS,), CLASSES)
    session = Session(recipe, network, samples=100 * samples, device=torch.device("cpu"))

    def step() -> None:
        with torch.no_grad():
            session.step(x, y)

    return step


def main() -> int:
    """Measure, print, store; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("RULE", "DEPTH"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    arguments = parser.parse_args()
    if arguments.one:
        rule, depth = arguments.one
        report(rule, int(depth))
        return 0

    table = Table(box=None, header_style="bold", title="MiB that a step adds, by hidden blocks")
    for title in ("rule", *map(str, DEPTHS), f"{DEPTHS[-1]} / {DEPTHS[0]}", "target"):
        table.add_column(title, justify="left" if title == "rule" else "right")
    peaks: dict[str, dict[int, int]] = {}
    missed = []
    for rule in RULES:
        peaks[rule] = {depth: peak(rule, depth) for depth in DEPTHS}
        growth = peaks[rule][DEPTHS[-1]] / peaks[rule][DEPTHS[0]]
        target = TARGETS.get(rule)
        if target is not None and growth > target:
            missed.append(f"{rule} {growth:.2f} > {target:.2f}")
        sizes = [f"{value / 2**20:.1f}" for value in peaks[rule].values()]
        table.add_row(rule, *sizes, f"{growth:.2f}", "" if target is None else f"≤ {target:.2f}")

    Console(width=None if sys.stdout.isatty() else 120).print(table)
    store(arguments.out, "memory", peak_bytes=peaks)
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
