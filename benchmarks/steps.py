"""Time and memory of one training step: every rule against plain PyTorch backprop, in one process.

    python benchmarks/steps.py            every network
    python benchmarks/steps.py --quick    mlp and cnn; exits 1 where a target is missed

The yardsticks are what a user would write: `nn.Module`, autograd, and the recipe's optimizer, fused
(``torch``) or as it is by default (``torch default``). All contenders of a network take turns of a few steps
each, so that the machine's drift falls on all of them alike. The first step of a turn is not counted: it
finds the caches full of another contender's tensors, which no training does; the others are averaged, since
steps of a rule may differ (one block perturbed in turn). The process keeps freed memory, as `fdfa train`
does, for all contenders alike. A ratio is the median over turns, divided by the fused yardstick's. How long
the machine's cores take to exchange a number, on which some products depend, is told too (`exchange.py`).

Peak memory is that of a fresh process which takes a few steps, above what it held before the first one
(parameters, optimizer and activations included).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import plain
import torch
from exchange import exchange
from rich.console import Console
from rich.table import Table
from torch import nn

from fdfa_cli.data.base import Subset
from fdfa_cli.recipe.resolve import read
from fdfa_cli.rules.base import RULES
from fdfa_cli.storage import foreign_folder
from fdfa_cli.training.allocator import keep_freed_memory
from fdfa_cli.training.state import TrainState

WARM_UP = 5
#: Timed steps of a contender's turn: whole rounds of networks of two and of three blocks.
TURN = 6
#: Steps between two orders of the batches: enough data that no step meets the caches of the last one.
BATCHES = 8
CLASSES = 10


@dataclass(frozen=True)
class Task:
    """A network on data of one shape: recipe and overrides, the yardstick, and turns of each contender."""

    recipe: str
    overrides: tuple[str, ...]
    plain: Callable[[], nn.Module]
    shape: tuple[int, ...]
    turns: int
    classes: int = CLASSES


TASKS = {
    "mlp": Task("mnist/mlp", (), plain.mlp, (1, 28, 28), 40),
    "cnn28": Task("mnist/cnn", (), lambda: plain.cnn(1, 28), (1, 28, 28), 10),
    "cnn": Task("cifar10/cnn", (), lambda: plain.cnn(3, 32), (3, 32, 32), 10),
    "alexnet": Task("cifar10/cnn", ("network=alexnet",), plain.alexnet, (3, 32, 32), 3),
    "resnet20": Task("cifar10/cnn", ("network={name: resnet, depth: 20}",), plain.resnet20, (3, 32, 32), 3),
}
QUICK = ("mlp", "cnn")

#: Plain PyTorch: with the optimizer fused, which ratios are to, and with its default.
YARDSTICKS = ("torch", "torch default")

#: Step time over the yardstick's that a rule must not exceed (2 CPU cores, fp32).
TARGETS = {
    "bp": {"mlp": 1.00, "cnn": 1.00},
    "dfa": {"mlp": 0.80, "cnn": 0.60},
    "drtp": {"mlp": 0.80, "cnn": 0.60},
    "dkp": {"mlp": 0.80, "cnn": 0.60},
    "fdfa": {"mlp": 1.05, "cnn": 1.10},
    "fdfa-s": {"mlp": 0.95, "cnn": 0.90},
    "fg-a": {"mlp": 1.05, "cnn": 1.10},
}


def contender(task: Task, rule: str) -> Callable[[], None]:
    """A function that takes one step on the next batch: of `rule`, or of one of `YARDSTICKS`."""
    recipe = read(task.recipe, [*task.overrides, f"rule={'bp' if rule in YARDSTICKS else rule}"]).recipe
    generator = torch.Generator().manual_seed(0)
    size = recipe.training.batch_size
    x = torch.rand(BATCHES, size, *task.shape, generator=generator)
    y = torch.randint(task.classes, (BATCHES, size), generator=generator)
    turn = iter(range(10**9))

    if rule in YARDSTICKS:
        module = task.plain()
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[recipe.optimizer.name]
        options = {**recipe.optimizer.model_dump(exclude={"name"}), "fused": rule == "torch" or None}
        optimizer = kind(module.parameters(), **options)

        def step() -> None:
            i = next(turn) % BATCHES
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[i]), y[i]).backward()
            optimizer.step()

        return step

    network = recipe.network.build(task.shape, task.classes)
    state = TrainState(recipe, network, samples=60_000, device=torch.device("cpu"))

    def step() -> None:
        i = next(turn) % BATCHES
        with torch.no_grad():
            state.step(x[i], y[i])

    return step


def times(task: Task, rules: Sequence[str]) -> dict[str, list[float]]:
    """Mean seconds of a step in each turn, the contenders taking turns."""
    steps = {rule: contender(task, rule) for rule in rules}
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    seconds: dict[str, list[float]] = {rule: [] for rule in rules}
    for _ in range(task.turns):
        for rule, step in steps.items():
            step()
            begun = time.perf_counter()
            for _ in range(TURN):
                step()
            seconds[rule].append((time.perf_counter() - begun) / TURN)
    return seconds


def peak_memory(name: str, rule: str) -> int:
    """Bytes that three steps in a fresh process add to what it held before them.

    On one thread, and with a C library that gives freed blocks back at once, so it is always the same.
    """
    command = [sys.executable, __file__, "--memory", name, rule]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return int(output)


def memory_ratios(name: str, rules: Sequence[str]) -> dict[str, float]:
    """Peak memory of each of `rules` over the fused yardstick's."""
    most = peak_memory(name, "torch")
    return {rule: peak_memory(name, rule) / most for rule in rules}


def report_memory(name: str, rule: str) -> None:
    """The other side of `peak_memory`. Linux only: it resets the kernel's high-water mark."""
    contender(TASKS[name], rule)()  # what both sides load at first use is not counted
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step = contender(TASKS[name], rule)
    for _ in range(3):
        step()
    print((status("VmHWM") - before) * 1024)


def status(key: str) -> int:
    """An entry of the process's status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def data_share(step_seconds: float) -> float:
    """Seconds to assemble a batch of 64 MNIST-sized images, over the yardstick's step."""
    recipe = read("mnist/mlp").recipe
    images = torch.randint(256, (10_000, 1, 28, 28), dtype=torch.uint8)
    whole = Subset.whole(images, torch.randint(10, (10_000,)))
    subset = Subset(whole.images, whole.labels, whole.index, recipe.data.transform(whole))
    order, seconds = torch.randperm(10_000), []
    for rows in torch.split(order, 64):
        begun = time.perf_counter()
        subset.batch(rows), subset.labels[rows]
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds) / step_seconds


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
    }


def store(folder: Path, name: str, **figures: object) -> None:
    """Write `figures`, and what they were taken on, to a new file of `folder`."""
    foreign_folder(folder)
    file = folder / f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    file.write_text(json.dumps({"machine": machine(), **figures}, indent=2))


def main() -> int:
    """Measure, print, store; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="mlp and cnn, the rules with targets")
    parser.add_argument("--memory", nargs=2, metavar=("NETWORK", "RULE"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    arguments = parser.parse_args()
    if arguments.memory:
        report_memory(*arguments.memory)
        return 0

    keep_freed_memory()
    rules = [*YARDSTICKS, *(TARGETS if arguments.quick else RULES)]
    networks = QUICK if arguments.quick else tuple(TASKS)
    table = Table(box=None, header_style="bold")
    for title in ("network", "rule", "ms", "quartiles", "/ torch", "target", "memory / torch"):
        table.add_column(title, justify="left" if title in ("network", "rule") else "right")
    results: dict[str, dict[str, dict[str, float]]] = {}
    # Before anything is timed: this process keeps what it has freed.
    measured = ["fdfa"] if arguments.quick else rules[1:]
    memory = {name: memory_ratios(name, measured) for name in networks}
    missed, exchanges = [], [exchange()]
    for name in networks:
        seconds = times(TASKS[name], rules)
        exchanges.append(exchange())
        base = statistics.median(seconds["torch"])
        results[name] = {}
        for rule, values in seconds.items():
            low, middle, high = statistics.quantiles(values, n=4)
            ratio, target = middle / base, TARGETS.get(rule, {}).get(name)
            results[name][rule] = {
                "median": middle,
                "low": low,
                "high": high,
                "ratio": ratio,
                "n": len(values),
            }
            if target is not None and ratio > target:
                missed.append(f"{name} {rule} {ratio:.2f} > {target:.2f}")
            table.add_row(
                name,
                rule,
                f"{1e3 * middle:.2f}",
                f"{1e3 * low:.2f}–{1e3 * high:.2f}",
                f"{ratio:.2f}",
                "" if target is None else f"≤ {target:.2f}",
                f"{memory[name][rule]:.2f}" if rule in memory[name] else "",
            )
    fdfa = {name: ratios["fdfa"] for name, ratios in memory.items() if name in QUICK}
    missed += [f"{name} fdfa memory {ratio:.2f} > 1.10" for name, ratio in fdfa.items() if ratio > 1.1]
    share = data_share(results["mlp"]["torch"]["median"])
    if share > 0.03:
        missed.append(f"data {share:.3f} > 0.03")

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    print("peak memory fdfa / torch: " + "  ".join(f"{k} {v:.2f}" for k, v in fdfa.items()))
    print(f"data pipeline: {share:.1%} of torch's mlp step")
    print(
        "an exchange between cores, before and after each network: "
        + "  ".join("–" if seconds is None else f"{1e9 * seconds:.0f}" for seconds in exchanges)
        + " ns"
    )
    store(arguments.out, "steps", steps=results, memory=memory, data_share=share, exchanges=exchanges)
    for line in missed:
        print(f"missed: {line}")
    print(
        "ratios: "
        + "  ".join(
            f"{name}/{rule} {r['ratio']:.2f}" for name in networks for rule, r in results[name].items()
        )
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
