"""How commands grow with what they handle: stored runs to read, and trials to drive.

    python benchmarks/scaling.py                 10 000 stored runs, 5000 trials
    python benchmarks/scaling.py --trials 1000

Reading: seconds of `fdfa report` and of `fdfa compare` with nothing to train, processes of their own, over
a quarter, a half and all of the runs. Driving: a sweep of tiny trials in worker processes; CPU seconds and
resident memory of the driver alone, for each thousand of trials. Flat figures are what is hoped for.
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

import psutil
from steps import store
from stores import comparison

REPEATS = 5
SWEEP = """\
data: {{name: synthetic, samples: 64, inputs: 8, validation: 16, test: 16}}
network: {{name: mlp, hidden: [4]}}
rule: bp
optimizer: {{name: sgd, lr: 0.1}}
training: {{epochs: 1, batch_size: 64, device: cpu}}
sweep:
  search: random
  trials: {trials}
  parameters:
    optimizer.lr: {{low: 1e-3, high: 1.0, log: true}}
    optimizer.momentum: {{low: 0.0, high: 0.9}}
"""


def reading(runs: int, folder: Path) -> dict[str, Any]:
    """Seconds of reading `runs` stored runs: wall and CPU of each command, medians of `REPEATS`."""
    compare = comparison(folder, runs)
    found: dict[str, Any] = {"runs": runs}
    for name, command in (("report", ["report", str(folder)]), ("compare", compare)):
        walls, cpus = [], []
        for _ in range(REPEATS):
            before, start = os.times(), time.perf_counter()
            subprocess.run([sys.executable, "-m", "fdfa_cli", *command], capture_output=True, check=True)
            after = os.times()
            walls.append(time.perf_counter() - start)
            cpus.append(after[2] + after[3] - before[2] - before[3])
        found[name] = {"wall": statistics.median(walls), "cpu": statistics.median(cpus), "n": REPEATS}
    return found


def driving(trials: int, folder: Path, step: int = 1000) -> list[dict[str, float]]:
    """CPU seconds of the driver and its resident bytes, for each `step` of `trials`."""
    recipe = folder / "tiny.yaml"
    recipe.write_text(SWEEP.format(trials=trials))
    command = ["sweep", str(recipe), "--engine", "processes", "--results", str(folder)]
    driver = subprocess.Popen(
        [sys.executable, "-m", "fdfa_cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert driver.stderr is not None
    found, last, start = [], 0.0, time.perf_counter()
    for line in driver.stderr:
        done = re.match(r"\[(\d+)/", line)
        if done is None or int(done[1]) % step:
            if done is None or int(done[1]) == 1:
                last, start = _cpu(driver.pid), time.perf_counter()
            continue
        cpu, wall = _cpu(driver.pid), time.perf_counter()
        resident = psutil.Process(driver.pid).memory_info().rss
        found.append(
            {"trials": int(done[1]), "cpu": cpu - last, "wall": wall - start, "resident": float(resident)}
        )
        last, start = cpu, wall
    assert driver.wait() == 0
    return found


def _cpu(process: int) -> float:
    """CPU seconds of a process so far, without its children."""
    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Measure, print, and store the figures as JSON."""
    parser = argparse.ArgumentParser(description="How commands grow with what they handle.")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    arguments = parser.parse_args()
    stored: dict[str, Any] = {"reading": [], "driving": []}
    with tempfile.TemporaryDirectory() as folder:
        for runs in (arguments.runs // 4, arguments.runs // 2, arguments.runs):
            found = reading(runs, Path(folder) / str(runs))
            stored["reading"].append(found)
            figures = "  ".join(
                f"{name} {found[name]['wall']:.2f} s (CPU {found[name]['cpu']:.2f} s)"
                for name in ("report", "compare")
            )
            print(f"{runs} stored runs: {figures}  n={REPEATS}", flush=True)
        stored["driving"] = driving(arguments.trials, Path(folder))
        for found in stored["driving"]:
            print(
                f"trials up to {found['trials']:.0f}: {found['cpu']:.2f} s of the driver's CPU "
                f"in {found['wall']:.1f} s; {found['resident'] / 2**20:.0f} MiB resident"
            )
    store(arguments.out, "scaling", **stored)


if __name__ == "__main__":
    main()
