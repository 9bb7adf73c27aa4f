"""Peak memory of a training step as the network gets deeper: rules that free a block before the next runs.

    python benchmarks/memory.py                            exits 1 where a rule that should not grow does
    python benchmarks/memory.py --trainings [NETWORK...]   exits 1 where an estimate is far from the peak

A perceptron of 4 to 32 hidden blocks of 64 units with batch norm learns from batches of 8192 samples by SGD.
A block's output is 2 MiB then and its weights 16 KiB, so that what grows with depth are activations; nothing
is subtracted: gradients, which all rules hold until the optimizer has run, running statistics and
perturbations count. A figure is what three steps in a fresh process add to its resident memory at the most,
over what it held before them: data, parameters and the rule's state.

The C library is told to give freed blocks back at once (MALLOC_MMAP_THRESHOLD_). Left alone it keeps some, of
which a figure of one process then consists in part. Linux only: the kernel's high-water mark is reset.

With --trainings, whole trainings of every rule: a step or two of a recipe's batch size on the recipe's data,
and a batch of evaluation, with the C library as `fdfa train` sets it. A figure is what the process adds to
what it held when torch was loaded, beside what `fdfa_cli.training.footprint` says beforehand.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from steps import status, store

from fdfa_cli.data import data_root
from fdfa_cli.data.base import Subset
from fdfa_cli.recipe.resolve import read
from fdfa_cli.rules.base import RULES as REGISTRY
from fdfa_cli.training import loop
from fdfa_cli.training.footprint import EVALUATION_BATCH, footprint
from fdfa_cli.training.state import TrainState
from fdfa_cli.training.trainee import Trainee
from fdfa_cli.training.training_run import TrainingRun

DEPTHS = (4, 8, 16, 32)
WIDTH, BATCH, INPUTS, CLASSES = 64, 8192, 64, 10
#: Peak at the greatest depth over that at the least, for the rules whose blocks learn one after another.
TARGETS = {"drtp": 1.10, "lg-bp": 1.10, "lg-fg-a": 1.10, "lg-fg-w": 1.10, "ff": 1.10}
#: The trainings of --trainings: of CIFAR-10 but for the first, as the recipes for those networks have it.
CIFAR = "data={name: cifar10, normalize: symmetric, augment: [flip, resized_crop], resize: 224}"
NETWORKS = {
    "mlp": ("mnist/mlp", []),
    "cnn": ("cifar10/cnn", []),
    "alexnet": ("cifar100/alexnet", [CIFAR]),
    "resnet": ("cifar10/cnn", ["network=resnet"]),
}
#: Estimate over measured peak, at the least and at the most.
CLOSE = (0.67, 1.5)
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
    state = TrainState(recipe, network, samples=100 * samples, device=torch.device("cpu"))

    def step() -> None:
        with torch.no_grad():
            state.step(x, y)

    return step


def measured(network: str, rule: str, precision: str) -> tuple[int, int]:
    """The peak of a training in a fresh process, and the estimate of it."""
    command = [sys.executable, __file__, "--train", network, rule, precision]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    peak, estimate = output.split()
    return int(peak), int(estimate)


def train(network: str, rule: str, precision: str) -> None:
    """The other side of `measured`."""
    name, overrides = NETWORKS[network]
    some = [f"rule={rule}", f"training.precision={precision}", "training.epochs=1", "training.threads=1"]
    recipe = read(name, [*overrides, *some]).recipe
    size = recipe.training.batch_size
    recipe = read(name, [*overrides, *some, f"data.limit={size + 2}"]).recipe
    evaluate = loop.evaluate

    def evaluate_a_batch(team: Trainee, subset: Subset, prefix: str) -> list[dict[str, float]]:
        return evaluate(team, subset.take(torch.arange(min(len(subset), EVALUATION_BATCH))), prefix)

    loop.evaluate = evaluate_a_batch
    before = status("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(TrainingRun.new(recipe, Path(folder), sys.argv), data_root())  # which resets the mark
    print((status("VmHWM") - before) * 1024, footprint(recipe).peak)


def compare_trainings(networks: Sequence[str], out: Path) -> int:
    """Every rule on `networks`: measure, print, store; 1 where an estimate is too far off."""
    ratios: dict[str, dict[str, float]] = {}
    table = Table(box=None, header_style="bold", title="MiB that a training adds: estimated / measured")
    for title in ("rule", *networks):
        table.add_column(title, justify="left" if title == "rule" else "right")
    for rule in REGISTRY:
        found = {network: measured(network, rule, "fp32") for network in networks}
        ratios[rule] = {network: estimate / peak for network, (peak, estimate) in found.items()}
        cells = [f"{e / 2**20:.0f} / {p / 2**20:.0f} = {e / p:.2f}" for p, e in found.values()]
        table.add_row(rule, *cells)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    every = [ratio for row in ratios.values() for ratio in row.values()]
    print(f"from {min(every):.2f} to {max(every):.2f}, target {CLOSE[0]} to {CLOSE[1]}")
    store(out, "memory-estimate", ratios=ratios)
    return 0 if CLOSE[0] <= min(every) <= max(every) <= CLOSE[1] else 1


def main() -> int:
    """Measure, print, store; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("RULE", "DEPTH"), help=argparse.SUPPRESS)
    parser.add_argument("--train", nargs=3, metavar=("NETWORK", "RULE", "PRECISION"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--trainings", nargs="*", choices=NETWORKS, metavar="NETWORK", help="any of %(choices)s"
    )
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    arguments = parser.parse_args()
    if arguments.one:
        rule, depth = arguments.one
        report(rule, int(depth))
        return 0
    if arguments.train:
        train(*arguments.train)
        return 0
    if arguments.trainings is not None:
        return compare_trainings(arguments.trainings or list(NETWORKS), arguments.out)

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
