"""A sweep that is killed, again and again, and started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_sweep import BASE, recipe, swept

#: Kills; the moments and who is killed are drawn by the seed.
KILLS, SEED = 10, 0
#: Seconds after which something is taken to hang; never waited for when all is well.
HANGS = 240.0


def written(results: Path) -> int:
    """Bytes of metrics in all runs."""
    return sum(file.stat().st_size for file in results.glob("*/2*/metrics.jsonl"))


def killed(file: Path, plugin: Path, results: Path, engine: str, chance: random.Random) -> bool:
    """Start the sweep and kill it: while it starts, or some time after it has trained an epoch.

    The driver alone, whose workers must notice, or all at once. False where it was done before that.
    """
    before, delay, alone = written(results), chance.uniform(-0.2, 0.8), chance.random() < 0.5
    command = [sys.executable, "-m", "fdfa_cli", "sweep", str(file), "--results", str(results)]
    process = subprocess.Popen(
        [*command, "--plugin", str(plugin), "--engine", engine, "--jobs", "2"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    assert process.stderr is not None
    with process.stderr:
        line = process.stderr.readline()
        assert "training " in line, line + process.stderr.read()
        deadline = time.monotonic() + HANGS
        while delay > 0 and written(results) == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(max(delay, 0))
        if alone:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_as_if_never_stopped(tmp_path, plugin, slow):
    section = "  seeds: 3\n  parameters: {optimizer.lr: {values: [0.01, 0.1]}}\n"
    base = BASE.replace("epochs: 2", "epochs: 400").replace("bp", "halved")
    file, chance, results = recipe(tmp_path, section, base), random.Random(SEED), tmp_path / "killed"
    kills = [killed(file, plugin, results, ("serial", "processes")[i % 2], chance) for i in range(KILLS)]
    assert all(kills), "it was done before the last kill: nothing is tested"
    slow.unlink()
    arguments = "--engine", "serial", "--plugin", str(plugin)
    code, content = swept(file, results, *arguments)
    assert code == 0
    assert content == swept(file, tmp_path / "whole", *arguments)[1]
