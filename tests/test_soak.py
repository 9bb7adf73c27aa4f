"""The soak's parts, each once for a moment; and that each would see what it is there to see."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import soak
import torch

TINY = {
    "killed_training": {"kills": 1},
    "killed_sweep": {"kills": 1},
    "full_disk": {"sizes": 1},
    "hostile_folders": {"count": 8},
    "recipes": {"count": 20},
    "long_training": {"epochs": 24},
}


@pytest.mark.slow
@pytest.mark.parametrize("part", soak.PARTS)
def test_every_part_runs_and_counts(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if part == "long_training":  # too short for what the system says of memory
        monkeypatch.setattr(soak, "resources", lambda: (10**8, 7, 3))
    views = soak.views
    monkeypatch.setattr(soak, "views", lambda runs: itertools.islice(views(runs), 3))  # for speed
    counts = soak.once(part, 1, **TINY[part])
    assert sum(counts.values()) > 0
    assert all(value >= 0 for value in counts.values())
    if "count" in TINY[part]:
        assert TINY[part]["count"] in counts.values()


@pytest.mark.parametrize(
    ("leak", "words"),
    [
        ((2000, 0, 0), "memory grew by"),
        ((0, 1, 0), "open files"),
        ((0, 0, 1), "threads"),
    ],
)
def test_a_leak_of_every_epoch_is_seen(leak: tuple[int, int, int], words: str) -> None:
    flat = [[10**8 + (i % 7) * 4096, 7 + (i % 2) * (i % 3 == 0), 3] for i in range(3000)]
    soak.require_flat([list(column) for column in zip(*flat, strict=True)], row=250)
    leaking = [[a + b * i for a, b in zip(sample, leak, strict=True)] for i, sample in enumerate(flat)]
    with pytest.raises(soak.Violation, match=words):
        soak.require_flat([list(column) for column in zip(*leaking, strict=True)], row=250)


def test_the_samples_are_those_of_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(1)
    monkeypatch.setattr(soak, "resources", lambda: (2**20 * next(numbers), 7, 3))
    with pytest.raises(soak.Violation, match="memory grew by"):
        soak.long_training(tmp_path, 1, epochs=12)
    assert next(numbers) == 13


PROGRAMS = {
    "raise ValueError('x')": "another exit code",
    "import sys; sys.exit(3)": "another exit code",
    "import traceback\ntry: 1/0\nexcept ZeroDivisionError: traceback.print_exc()": "a traceback",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "another exit code",
    "import time; time.sleep(1000)": "hangs",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_traceback_a_signal_and_a_hang_are_seen(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "sleep" in program:
        monkeypatch.setattr(soak, "HANGS", 0.1)
    process = soak.spawn([sys.executable, "-c", program])
    with pytest.raises(soak.Violation, match=PROGRAMS[program]):
        soak.ended(process, [0])
    assert process.returncode is not None  # nothing is left behind


def test_runs_that_differ_are_seen(tmp_path: Path) -> None:
    options = ("digits/mlp", "network.hidden=[4]", "data.limit=200", "training.threads=1")
    whole = soak.undisturbed(tmp_path / "whole", *options, "training.epochs=2")
    again = soak.undisturbed(tmp_path / "again", *options, "training.epochs=2")
    soak.require_same(tmp_path / "again", whole, "the same")

    content = torch.load(again.checkpoint, weights_only=True)
    next(iter(content["params"].values())).view(torch.int32)[0] ^= 1  # the last bit of one number
    torch.save(content, again.checkpoint)
    with pytest.raises(soak.Violation, match="has another checkpoint"):
        soak.require_same(tmp_path / "again", whole, "the same")

    soak.undisturbed(tmp_path / "other", *options, "training.epochs=2", "training.seed=1")
    with pytest.raises(soak.Violation, match="has other metrics"):
        soak.require_same(tmp_path / "other", whole, "the other")

    (whole.path / ".run.json.0.tmp").touch()
    with pytest.raises(soak.Violation, match="left"):
        soak.require_same(tmp_path / "whole", whole, "the first")


def test_a_hidden_run_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a view shows less than all whole runs."""
    monkeypatch.setattr(soak, "views", lambda runs: iter([["report", str(runs), "--format", "json"]]))
    monkeypatch.setattr(soak, "ended", lambda process, codes: (process.communicate(), "[]")[1])
    with pytest.raises(soak.Violation, match="whole runs that are not shown"):
        soak.hostile_folders(tmp_path, 1, count=4)


def test_a_recipe_that_is_not_survived_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generated, _ = soak.KINDS["values"]
    monkeypatch.setattr(soak, "KINDS", {"values": (generated, lambda tree: 1 / 0)})
    with pytest.raises(soak.Violation, match=r"of the kind values: ZeroDivisionError"):
        soak.recipes(tmp_path, 1, count=5)


def test_it_stops_at_a_violation_says_how_to_repeat_it_and_stores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(folder: Path, seed: int) -> soak.Counts:
        (folder / "evidence").touch()
        raise ValueError("never seen before")

    monkeypatch.setattr(soak, "PARTS", {"good": lambda folder, seed: Counter(done=2), "bad": fails})
    monkeypatch.setattr(soak, "WANTED", {})
    monkeypatch.setattr(tempfile, "tempdir", None)
    file = tmp_path / "soak.json"
    monkeypatch.setattr(sys, "argv", ["soak.py", "--seconds", "1000", "--seed", "7", "--out", str(file)])
    assert soak.main() == 1
    stored = json.loads(file.read_text())
    assert stored["ended"] == "violation"
    assert stored["counts"] == {"done": 2, "rounds of good": 1}
    (violation,) = stored["violations"]
    assert violation["part"] == "bad"
    assert "ValueError: never seen before" in violation["what"]
    assert f"python tests/soak.py --part bad --seed {violation['seed']}" in capsys.readouterr().out
    folder = Path(re.findall(r"what there was: (.*)\)", violation["what"])[0])
    assert (folder / "evidence").exists()
    shutil.rmtree(folder.parent)
    assert {"started", "processor", "torch", "commit", "seed", "seconds", "peak_rss_bytes"} <= stored.keys()


ENDLESS = """
import itertools, sys, time
from collections import Counter
import soak

rounds = itertools.count()

def part(folder, seed):
    if next(rounds):
        print("second round", flush=True)
        time.sleep(1000)
    return Counter(done=2)

soak.PARTS = {"part": part}
soak.WANTED = {}
sys.exit(soak.main())
"""


@pytest.mark.parametrize(
    ("number", "ended"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "interrupted"), (signal.SIGKILL, "running")],
)
def test_whatever_ends_it_what_was_reached_is_stored(number: int, ended: str, tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, "--seed", "7", "--out", str(file)],
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{Path(soak.__file__).parents[1]}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert any(line == "second round\n" for line in process.stdout)
        process.send_signal(number)
        process.stdout.read()
    assert process.wait() == (130 if ended == "interrupted" else -number)
    stored = json.loads(file.read_text())
    assert stored["ended"] == ended
    assert stored["counts"] == {"done": 2, "rounds of part": 1}
    assert stored["seconds"] >= 0


def test_one_part_runs_until_its_count_is_reached() -> None:
    assert list(soak.parts_once("hostile_folders", 7, None)) == [("hostile_folders", 7)]
    work = list(soak.parts_once("hostile_folders", 7, 2 * soak.BATCH + 1))
    assert work[0] == ("hostile_folders", 7)
    assert len({seed for _, seed in work}) == 3


def test_a_soak_reaches_its_share_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 100)  # seconds, at every look
    monkeypatch.setattr(soak.time, "monotonic", lambda: next(clock))
    reached = Counter(part for part, _ in soak.rounds(soak.SECONDS, seed=1))
    assert reached["long_training"] == 1
    assert reached["recipes"] * soak.BATCH == soak.RECIPES
    assert reached["hostile_folders"] * soak.BATCH == soak.FOLDERS
    clock = itertools.count(0, 100)
    seeds = [seed for _, seed in soak.rounds(soak.SECONDS, seed=1)]
    assert len(set(seeds)) == len(seeds)
    clock = itertools.count(0, 100)
    assert seeds == [seed for _, seed in soak.rounds(soak.SECONDS, seed=1)]
