"""Other systems: what only Linux has is done without, and Apple's GPUs are used as far as they go."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from fdfa_cli import machine
from fdfa_cli.diagnostics import metrics
from fdfa_cli.errors import Unsupported, UsageError
from fdfa_cli.recipe.schema import Training
from fdfa_cli.training import allocator, device, total
from fdfa_cli.trials.engines import options

# --- cores and memory --------------------------------------------------------------------------------------


@pytest.fixture
def groups(tmp_path, monkeypatch) -> Path:
    """A place for control groups; this process is in the group /outer/inner of both versions."""
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("7:memory:/outer/inner\n3:cpu,cpuacct:/outer/inner\n0::/outer/inner\n")
    (tmp_path / "groups").mkdir()
    return tmp_path / "groups"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_without_an_affinity_all_cores_count(groups, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5, 6}, raising=False)
    assert machine.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.cores() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cores() == 1


@pytest.mark.parametrize(
    ("where", "files", "expected"),
    [
        ("", {"cpu__max": "250000 100000"}, 3),  # two and a half
        ("outer", {"cpu__max": "max 100000"}, 8),
        ("outer/inner", {"cpu__max": "20000 100000"}, 1),
        ("cpu/outer", {"cpu__cfs_quota_us": "400000", "cpu__cfs_period_us": "100000"}, 4),
        ("cpu/outer", {"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"}, 8),
        ("elsewhere", {"cpu__max": "100000 100000"}, 8),
    ],
)
def test_a_container_s_share_of_the_cores_counts(groups, monkeypatch, where, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    write(groups / where, **files)
    assert machine.cores() == expected


@pytest.mark.parametrize(
    ("where", "files", "expected"),
    [
        ("", {"memory__max": "1000", "memory__current": "400"}, 600),
        ("outer", {"memory__max": "1000", "memory__current": "400", "memory__stat": "inactive_file 50"}, 650),
        ("outer/inner", {"memory__max": "1000", "memory__current": "1400"}, 0),
        ("outer/inner", {"memory__max": "max", "memory__current": "1400"}, 5000),
        ("memory/outer", {"memory__limit_in_bytes": "900", "memory__usage_in_bytes": "100"}, 800),
        ("memory", {"memory__limit_in_bytes": str(2**63 - 4096), "memory__usage_in_bytes": "100"}, 5000),
        ("elsewhere", {"memory__max": "1000", "memory__current": "400"}, 5000),
    ],
)
def test_free_memory_heeds_a_container_s_limit(groups, monkeypatch, where, files, expected):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5000))
    write(groups / where, **files)
    assert machine.free_memory() == expected


def test_free_memory_is_that_of_the_machine():
    assert 0 < machine.free_memory() <= psutil.virtual_memory().total


def test_free_memory_is_known_without_proc(groups, tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "nothing")
    assert 0 < machine.free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("system", "unit"), [("darwin", 1), ("linux", 1024), ("freebsd14", 1024)])
def test_the_peak_is_in_bytes_on_every_system(monkeypatch, system, unit):
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=300))
    monkeypatch.setattr(sys, "platform", system)
    assert machine.peak_memory() == 300 * unit


def test_a_c_library_without_mallopt_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    allocator.keep_freed_memory()


#: A process in which nothing is to be had that macOS lacks.
BARE = """
import os, sys, sysconfig, ctypes
import psutil, torch  # their own parts are made for this system
sysconfig.get_config_vars()
del os.sched_getaffinity
sys.platform = "darwin"
whole = ctypes.CDLL
ctypes.CDLL = lambda name: object() if name is None else whole(name)

def refuse(event, given):
    if event == "open" and str(given[0]).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(2, "there is no such folder on this system", given[0])
    if event in ("os.listdir", "os.scandir") and str(given[0]).startswith("/dev"):
        raise AssertionError("/dev says nothing on this system")

sys.addaudithook(refuse)
from fdfa_cli.cli import run
for command in sys.stdin.read().splitlines():
    assert run(command.split()) == 0, command
"""
COMMANDS = """
train digits/fdfa training.epochs=1 data.limit=64 --results {0}
sweep digits/sweep training.epochs=1 data.limit=64 sweep.seeds=1 --engine serial --results {0}
sweep digits/sweep training.epochs=1 data.limit=64 sweep.seeds=2 --engine batched --jobs 64 --results {0}
report {0}
"""


def test_trainings_sweeps_and_reports_take_nothing_that_macos_lacks(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        input=COMMANDS.strip().format(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# --- Apple's GPUs ------------------------------------------------------------------------------------------


@pytest.fixture
def apple(monkeypatch) -> None:
    """A Mac whose GPU torch can use; no tensor can be made there."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_auto_takes_cuda_then_mps_then_the_cpu(apple, monkeypatch):
    assert device.chosen(Training(device="auto")) == "mps"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.chosen(Training(device="auto")) == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.chosen(Training(device="auto")) == "cpu"


def test_mps_is_asked_of_torch_on_macos_only(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert not device.metal()
    with pytest.raises(UsageError, match="device 'mps' is not there: torch finds no Apple GPU"):
        device.chosen(Training(device="mps"))


def test_what_mps_cannot_compute_is_refused(apple):
    assert device.chosen(Training(device="mps")) == "mps"
    with pytest.raises(Unsupported, match=r"training\.precision=tf32: device 'mps' has no such products"):
        device.chosen(Training(device="mps", precision="tf32"))
    with pytest.raises(Unsupported, match=r"training\.precision=bf16: device 'mps' has it from macOS 14 on"):
        device.chosen(Training(device="auto", precision="bf16"))  # torch refuses: it was built without


def test_trainings_on_one_gpu_go_one_after_the_other(apple):
    job = SimpleNamespace(recipe=SimpleNamespace(training=Training(device="auto")))
    assert options._cores([job] * 3) == 1  # type: ignore[list-item]
    job = SimpleNamespace(recipe=SimpleNamespace(training=Training(device="cpu")))
    assert options._cores([job]) == machine.cores()  # type: ignore[list-item]


def test_memory_and_time_on_mps_are_what_its_allocator_says(monkeypatch):
    mps, emptied = torch.device("mps"), []
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 300)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 1000)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: emptied.append(True))
    assert device.peak_memory(mps) == 300
    assert device.free_memory("mps") == 700
    assert machine.now(mps) <= machine.now(mps)
    assert emptied == [True, True]
    assert device.name(mps) == "mps"


# --- sums without float64 ----------------------------------------------------------------------------------

CPU, EPS = torch.device("cpu"), torch.finfo(torch.float32).eps


@pytest.mark.parametrize("shape", [(), (3,)])
def test_pairs_add_up_as_float64_does(monkeypatch, shape):
    """The high part loses ε/2 of the sum S at each of n additions, which the low part takes up.

    That is so at most n ε/2 S, and loses ε/2 of itself at each: (n ε/2)² S in all, at most.
    """
    monkeypatch.setattr(total, "NARROW", {"cpu"})
    pair, generator = total.zero(CPU, shape), torch.Generator().manual_seed(0)
    assert (pair.dtype, pair.shape) == (torch.float32, (*shape, 2))
    exact, plain, count = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape), 1000
    for _ in range(count):
        value = torch.rand(shape, generator=generator)
        total.add(pair, value, 64)
        exact += value.double() * 64  # a power of two: no rounding
        plain += value * 64
    bound = (count * EPS / 2) ** 2 * exact
    assert ((total.wide(pair) - exact).abs() <= bound).all()
    assert ((plain - exact).abs() > bound).any()
    again = total.zero(CPU, shape)
    total.put(again, total.wide(pair))
    assert torch.equal(total.wide(again), total.wide(pair))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -float("inf")])
def test_pairs_do_not_hide_what_is_not_finite(monkeypatch, value):
    monkeypatch.setattr(total, "NARROW", {"cpu"})
    pair = total.zero(CPU)
    for one in (1.0, value, 1.0):
        total.add(pair, torch.tensor(one))
    assert not total.wide(pair).isfinite().all()
    assert not pair.isfinite().all()


def test_metrics_of_apple_s_tensors_are_computed_on_the_cpu():
    """Where float64 is; the tensors here are elsewhere too, on a device without numbers."""
    moved = []
    tensor = SimpleNamespace(device=torch.device("mps"), cpu=lambda: moved.append(True) or torch.ones(3))
    assert metrics.norm(tensor) == pytest.approx(3**0.5)  # type: ignore[arg-type]
    assert moved == [True]
