"""Stacked trials and whole commands: a step in a stack, start-up, a first epoch, trials a minute.

    python benchmarks/commands.py                the whole sweep: 32 trials of 30 epochs
    python benchmarks/commands.py --epochs 5     a short one

A stack's step and a step alone take turns in one process, on one thread each, by whose CPU clock they are
timed. Commands are processes of their own, byte-compiled as installed ones are; of each the wall time and the
CPU seconds are given, which say more where the machine is busy with other things. A sweep's figures contain
its start-up. (`scaling.py` reads 10 000 stored runs.)
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from steps import store

from fdfa_cli.data import data_root
from fdfa_cli.data.base import DATA
from fdfa_cli.recipe.resolve import read
from fdfa_cli.storage import scan
from fdfa_cli.training.stack import StackedTrainState
from fdfa_cli.training.state import TrainState

TRIALS = 32
#: A trial's step in the stack over its step alone must not exceed this (2 CPU cores).
TARGET = 0.25
#: Serial's seconds over batched's must not fall below this (2 CPU cores, 30 epochs).
SPEED_UP = 4.0
RATES = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2]
SWEEP = f"""\
data: digits
network: {{name: mlp, hidden: [128, 128]}}
rule: fdfa
optimizer: {{name: adam, lr: 1e-3}}
training: {{epochs: %d, batch_size: 32, device: cpu}}
sweep:
  seeds: {TRIALS // len(RATES)}
  parameters: {{optimizer.lr: {{values: {RATES}}}}}
"""


def stacked_steps(rounds: int) -> dict[str, float]:
    """Median CPU seconds of a trial's step alone and in a stack of `TRIALS`, data and optimizer included."""
    torch.set_num_threads(1)
    trials = [(rate, seed) for rate in RATES for seed in range(TRIALS // len(RATES))]
    recipes = [
        read("digits/fdfa", [f"optimizer.lr={rate}", f"training.seed={seed}"]).recipe for rate, seed in trials
    ]
    cpu = torch.device("cpu")
    train = recipes[0].data.load(data_root(), cpu).train
    network = recipes[0].network.build(recipes[0].data.shape(), recipes[0].data.classes())
    alone: list[float] = []
    together: list[float] = []
    with torch.no_grad():
        single, *states = (TrainState(one, network, len(train), cpu) for one in (recipes[0], *recipes))
        stack = StackedTrainState(states)
        for number in range(rounds):
            if stack.position + 1 >= stack.steps:  # the last batch is smaller
                for state in (single, *states):
                    state.epoch += 1
                    state.begin_epoch()
            begun = time.thread_time()
            single.advance(train)
            between = time.thread_time()
            stack.advance(train)
            if number >= 5:
                alone.append(between - begun)
                together.append((time.thread_time() - between) / TRIALS)
    one, each = statistics.median(alone), statistics.median(together)
    return {"alone": one, "stacked": each, "ratio": each / one, "n": len(alone)}


def timed(*arguments: str) -> tuple[dict[str, float], str]:
    """Wall and CPU seconds of one `fdfa` command, and what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "fdfa_cli", *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": time.perf_counter() - begun, "cpu": cpu}, done.stdout


def sweeps(epochs: int, turns: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Median seconds of the same sweep by each engine, its trials a minute, and the winner it prints.

    The engines take turns, since the machine's speed drifts.
    """
    recipe = folder / "sweep.yaml"
    recipe.write_text(SWEEP % epochs)
    engines = ("serial", "processes", "batched")
    seconds: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    winners = {}
    for turn in range(turns):
        for engine in engines:
            results = str(folder / f"{engine}-{turn}")
            spent, printed = timed("sweep", str(recipe), "--engine", engine, "--quiet", "--results", results)
            seconds[engine].append(spent)
            winner = re.search(r"^winner: .*$", printed, re.MULTILINE)
            winners[engine] = winner and winner[0]
    found: dict[str, dict[str, Any]] = {}
    for engine in engines:
        wall, cpu = (statistics.median(one[clock] for one in seconds[engine]) for clock in ("wall", "cpu"))
        found[engine] = {
            "wall": wall,
            "cpu": cpu,
            "turns": seconds[engine],
            "trials_per_minute": 60 * TRIALS / wall,
            "winner": winners[engine],
        }
    return found


def differences(folder: Path) -> dict[str, float]:
    """How many trials of the sweep by `batched` have other metrics than by `serial`, and by how much at most.

    Over all epochs: losses and accuracies, whose largest differences are given.
    """
    serial, batched = (
        {run.record.facts["identity"]: run.metrics() for run in scan([folder / f"{engine}-0"]).runs}
        for engine in ("serial", "batched")
    )
    assert serial.keys() == batched.keys()
    found = {"trials": 0.0, "loss": 0.0, "accuracy": 0.0}
    for trial, rows in serial.items():
        apart = {
            kind: max(
                abs(row[key] - other[key])
                for row, other in zip(rows, batched[trial], strict=True)
                for key in (f"train_{kind}", f"val_{kind}")
            )
            for kind in ("loss", "accuracy")
        }
        found["trials"] += any(apart.values())
        found |= {kind: max(found[kind], value) for kind, value in apart.items()}
    return found


def main() -> int:
    """Measure, print, store; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30, help="of the sweep's trials")
    parser.add_argument("--turns", type=int, default=3, help="of the engines, whose medians count")
    parser.add_argument("--rounds", type=int, default=100, help="steps that are timed")
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    arguments = parser.parse_args()
    missed = []

    steps = stacked_steps(arguments.rounds)
    print(
        f"step of a trial: alone {1e3 * steps['alone']:.3f} ms, in a stack of {TRIALS} "
        f"{1e3 * steps['stacked']:.3f} ms, ratio {steps['ratio']:.2f} (n={steps['n']})",
        flush=True,
    )
    if steps["ratio"] > TARGET:
        missed.append(f"stacked step {steps['ratio']:.2f} > {TARGET}")
    stored: dict[str, Any] = {"stacked": steps}

    stored["start_up"] = {
        "help": [timed("--help")[0] for _ in range(5)],
        "check": [timed("recipe", "check", "digits/mlp")[0] for _ in range(5)],
    }
    for name, several in stored["start_up"].items():
        walls = [one["wall"] for one in several]
        print(f"start-up, {name}: {statistics.median(walls):.2f} s (n={len(walls)})", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if DATA.get("mnist").status(data_root()).state == "present":
            command = (
                "train",
                "mnist/mlp",
                "training.epochs=1",
                "--quiet",
                "--results",
                str(folder / "mnist"),
            )
            stored["first_epoch"] = timed(*command)[0]
            print(f"first epoch of mnist/mlp, data and test included: {stored['first_epoch']['wall']:.1f} s")
        stored["sweeps"] = sweeps(arguments.epochs, arguments.turns, folder)
        stored["differences"] = apart = differences(folder)
    for engine, one in stored["sweeps"].items():
        print(
            f"{TRIALS} trials of {arguments.epochs} epochs, {engine}: {one['wall']:.1f} s "
            f"(CPU {one['cpu']:.1f} s, medians of {arguments.turns}), "
            f"{one['trials_per_minute']:.0f} a minute; {one['winner']}"
        )
    print(
        f"trials whose metrics are not serial's to the last digit when batched: {apart['trials']:.0f}; "
        f"at most {apart['loss']:.1e} in loss, {apart['accuracy']:.4f} in accuracy"
    )
    if stored["sweeps"]["serial"]["winner"] != stored["sweeps"]["batched"]["winner"]:
        missed.append("batched has another winner than serial")
    ratio = {
        clock: stored["sweeps"]["serial"][clock] / stored["sweeps"]["batched"][clock]
        for clock in ("wall", "cpu")
    }
    print(f"serial / batched: wall {ratio['wall']:.2f}, CPU {ratio['cpu']:.2f}")
    if ratio["wall"] < SPEED_UP and arguments.epochs >= 30:
        missed.append(f"batched sweep {ratio['wall']:.2f} times as fast < {SPEED_UP}")
    store(arguments.out, "commands", **stored)
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
