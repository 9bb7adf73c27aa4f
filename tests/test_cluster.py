"""The Ray engine: the digits of serial, whatever machine trains them and however many of these are lost."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_sweep import BASE, GRID, recipe, stopped, store, swept
from test_tpe import PRUNED

from fdfa_cli.cli import run as fdfa
from fdfa_cli.document.load import parse
from fdfa_cli.errors import UsageError
from fdfa_cli.storage import RunFolder, scan
from fdfa_cli.sweeps.plan import plan_sweep
from fdfa_cli.trials.engine_name import EngineName
from fdfa_cli.trials.engines.base import Job
from fdfa_cli.trials.engines.options import EngineOptions
from fdfa_cli.trials.engines.ray import Ray
from fdfa_cli.trials.engines.ray_task import RayTask, pack, train
from fdfa_cli.trials.engines.sync import RunDelta, RunEnd, RunMirror, RunWatcher
from fdfa_cli.trials.engines.worker import train_job

#: Seconds after which something is taken to hang; never waited for when all is well.
HANGS = 240.0


def until(happened: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Wait until `happened`, as long as `process` runs."""
    deadline = time.monotonic() + HANGS
    while not happened():
        assert process.poll() is None, "the process ended before"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def alone(monkeypatch) -> None:
    """Whatever Ray starts keeps to the loopback interface, to itself, and out of the home folder."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def two_nodes(tmp_path, alone) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A cluster of two nodes that share no data folder, and its address; gone when the test is."""
    program = Path(__file__).parent / "two_nodes.py"
    with (tmp_path / "cluster.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(program), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, (tmp_path / "cluster.log").read_text()
        yield process, address
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()
            process.wait()


def pictures(folder: Path) -> None:
    """A small data set of files: the first of the bundled digits as images, a folder a class."""
    import torch
    from PIL import Image

    from fdfa_cli.data.digits import Digits

    train, _ = Digits().read(folder)
    for number, (image, label) in enumerate(zip(train.images[:300], train.labels[:300], strict=True)):
        file = folder / "small" / str(int(label)) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0] * 15).to(torch.uint8).numpy()).save(file)


@pytest.mark.slow
def test_a_node_that_is_killed_loses_no_trial_and_trains_none_twice(
    tmp_path, two_nodes, plugin, slow, monkeypatch
):
    cluster, address = two_nodes
    monkeypatch.setenv("FDFA_DATA", str(tmp_path / "data"))
    pictures(tmp_path / "data")  # which the nodes have not: they are sent them
    base = (
        "data: {name: image_folder, folder: small, size: 8, channels: 1, validation: 0.2}\n"
        "network: {name: mlp, hidden: [32]}\nrule: halved\noptimizer: {name: sgd, lr: 0.1}\n"
        "training: {epochs: 150, batch_size: 20, device: cpu}\nsweep:\n"
    )
    file = recipe(tmp_path, "  seeds: 3\n  parameters: {optimizer.lr: {values: [0.05, 0.2]}}\n", base)
    results = tmp_path / "ray"
    arguments = ["sweep", str(file), "--plugin", str(plugin), "--results"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "fdfa_cli", *arguments, str(results), "--engine", "ray", "--address", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert cluster.stdin is not None
    # Both nodes are in the middle of a trial: a node has one core, and two runs have rows and no end.
    until(lambda: len(training(results)) == 2, driver)
    cluster.stdin.write("kill\n")
    cluster.stdin.flush()
    assert cluster.stdout is not None
    assert cluster.stdout.readline() == "killed\n"
    slow.unlink()
    out, error = driver.communicate(timeout=HANGS)
    assert (driver.returncode, "6 completed" in out) == (0, True), out + error
    content = store(results)  # which asserts that none was trained twice
    attempts = [len(run.record.provenance) for run in scan([results]).runs]
    assert max(attempts) == 2  # what was lost went on in its folder
    assert len(list(tmp_path.glob("node*/shipped/*/small"))) == 2
    assert fdfa([*arguments, str(tmp_path / "serial"), "--engine", "serial", "--quiet"]) == 0
    assert content == store(tmp_path / "serial")
    for run in scan([results]).runs:
        assert run.checkpoint.exists()


def training(results: Path) -> list[Path]:
    """The runs that have rows and are not at their end."""
    runs = [file.parent for file in results.glob("*/2*/run.json")]
    return [
        path for path in runs if RunFolder.open(path).status == "running" and RunFolder.open(path).metrics()
    ]


@pytest.mark.slow
def test_ctrl_c_stores_what_is_there_and_the_same_command_goes_on(tmp_path, alone, plugin, slow):
    # The first rung is long, the rest short: interrupted in the first, it goes on from rung to rung.
    section = PRUNED.replace("rule: median", "rule: median, first: 80").replace("trials: 7", "trials: 4")
    file = recipe(tmp_path, section, BASE.replace("epochs: 2", "epochs: 83").replace("bp", "halved"))
    results = tmp_path / "results"
    code, error = stopped(signal.SIGINT, file, results, "ray", 0, "--plugin", str(plugin))
    slow.unlink()
    assert code == 130, error
    assert error.endswith(
        "fdfa: interrupted; what is done is stored: start the same command again to go on\n"
    )
    runs = scan([results]).runs
    assert {run.status for run in runs} == {"interrupted"}
    assert any(run.record.summary["epochs"] < 80 for run in runs)
    assert all(run.checkpoint.exists() for run in runs)
    command = [sys.executable, "-m", "fdfa_cli", "sweep", str(file), "--plugin", str(plugin)]
    again = [*command, "--results", str(results), "--engine", "ray"]
    done = subprocess.run(again, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    whole = swept(file, tmp_path / "whole", "--engine", "serial", "--plugin", str(plugin))[1]
    assert store(results) == whole


@pytest.mark.slow
def test_what_kills_every_worker_fails_and_the_others_train(tmp_path, alone):
    plugin = tmp_path / "deadly.py"
    plugin.write_text(
        "import os, signal\n"
        "from fdfa_cli.trials.engines import worker\n"
        "fit = worker.fit_together\n"
        "def deadly(trainings, *rest, **options):\n"
        "    if trainings[0].recipe.training.seed == 1:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return fit(trainings, *rest, **options)\n"
        "worker.fit_together = deadly\n"
    )
    file = recipe(tmp_path, "  seeds: 3\n  parameters: {optimizer.lr: {values: [0.1]}}\n")
    command = [sys.executable, "-m", "fdfa_cli", "sweep", str(file), "--results", str(tmp_path / "r")]
    done = subprocess.run(
        [*command, "--engine", "ray", "--jobs", "1", "--plugin", str(plugin)],
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 1, done.stderr
    assert "2 completed, 1 failed" in done.stdout
    assert "training 3 trials\n" in done.stderr
    assert "seed=1  failed: lost 3 times: " in done.stderr
    content = store(tmp_path / "r")
    assert sorted(status for status, *_ in content.values()) == ["completed", "completed", "failed"]


@pytest.mark.slow
def test_a_full_disk_on_a_node_stops_the_sweep_and_it_goes_on_later(tmp_path, alone):
    """The plugin lets no file of a node's process grow beyond a few rows; the driver's may."""
    plugin = tmp_path / "full.py"
    plugin.write_text(
        "import resource, sys\n"
        "if 'default_worker' in sys.argv[0]:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))\n"
    )
    file = recipe(tmp_path, "  seeds: 2\n  parameters: {optimizer.lr: {values: [0.1, 0.02]}}\n")
    command = [sys.executable, "-m", "fdfa_cli", "sweep", str(file), "--results", str(tmp_path / "r")]
    full = subprocess.run(
        [*command, "--engine", "ray", "--plugin", str(plugin)], capture_output=True, text=True, timeout=HANGS
    )
    assert full.returncode == 1, full.stderr
    assert full.stderr.splitlines()[-1].startswith("fdfa: on a machine of the cluster: ")
    assert os.strerror(errno.EFBIG) in full.stderr
    assert full.stderr.endswith("once there is room, start the same command again to go on\n")
    assert not [run for run in scan([tmp_path / "r"]).runs if run.status not in ("interrupted", "completed")]
    assert swept(file, tmp_path / "r", "--engine", "serial") == swept(
        file, tmp_path / "s", "--engine", "serial"
    )


# ----------------------------------------------------------------- without a cluster: what is told


def jobs(folder: Path, epochs: int = 2) -> list[Job]:
    sweep = plan_sweep(parse((BASE.replace("epochs: 2", f"epochs: {epochs}") + GRID).encode(), "r.yaml"))
    return [Job(trial, folder, ("fdfa", "sweep")) for trial in sweep.trials]


def test_a_run_written_from_deltas_is_the_run_itself(tmp_path):
    (tmp_path / "there").mkdir()
    job = jobs(tmp_path / "here")[0]
    there = replace(job, folder=tmp_path / "there")
    watcher, mirror = RunWatcher(0, there.folder, None), RunMirror(job)
    assert watcher.delta() is None  # nothing has begun
    outcome = train_job(there, lambda: False, 1)
    delta = watcher.delta(outcome)
    assert delta is not None
    ended = mirror.apply(delta)
    assert ended is not None
    assert ended.run is not None
    assert outcome.run is not None
    mine, original = RunFolder.open(ended.run), RunFolder.open(outcome.run)
    for name in ("recipe.yaml", "metrics.jsonl", "checkpoint.pt"):
        assert (mine.path / name).read_bytes() == (original.path / name).read_bytes()
    assert mine.record.summary == original.record.summary
    assert mine.record.facts == original.record.facts
    assert mine.record.provenance == original.record.provenance
    assert watcher.delta() is None


def test_a_task_of_several_jobs_is_a_stack(tmp_path, monkeypatch):
    monkeypatch.setenv("FDFA_DATA", str(tmp_path))
    several, mirrors = jobs(tmp_path / "here"), {}
    task = RayTask(pack(several), (), "", 4)
    for delta in train(task, stop=lambda: False, fetch=dict):
        mirror = mirrors.setdefault(delta.position, RunMirror(several[delta.position]))
        outcome = mirror.apply(delta)
        assert outcome is None or outcome.status == "completed"
    runs = {run.record.facts["identity"]: run for run in scan([tmp_path / "here"]).runs}
    assert set(runs) == {job.identity for job in several}
    for job in several:
        alone = train_job(Job(job.trial, tmp_path / "alone"), lambda: False, 1)
        assert alone.run is not None
        mine, other = runs[job.identity].record, RunFolder.open(alone.run).record
        assert mine.provenance[0]["stacked"] == len(several)
        assert mine.provenance[0]["command"] == ["fdfa", "sweep"]
        assert mine.summary["val_loss"] == pytest.approx(other.summary["val_loss"], rel=1e-4)


def test_a_task_that_is_stopped_tells_what_it_has(tmp_path, monkeypatch):
    monkeypatch.setenv("FDFA_DATA", str(tmp_path))
    job = jobs(tmp_path / "here", epochs=5000)[0]
    mirror, last, asked = RunMirror(job), None, iter([False, False])
    for delta in train(RayTask(pack([job]), (), "", 1), lambda: next(asked, True), dict):
        last = mirror.apply(delta)
    assert last is not None
    assert last.run is not None
    run = RunFolder.open(last.run)
    assert (run.status, run.checkpoint.exists()) == ("interrupted", True)
    assert run.record.summary["epochs"] < 5000


def test_a_machine_with_another_version_says_so(tmp_path):
    task = RayTask(pack(jobs(tmp_path)), (), "", 1, version="0.0.0")
    with pytest.raises(UsageError, match=r"is 0\.0\.0 on the driver"):
        next(train(task, lambda: False, dict))


def test_rows_of_a_lost_attempt_beyond_its_checkpoint_are_cut(tmp_path):
    def rows(*epochs: int, mark: int) -> tuple[dict[str, Any], ...]:
        return tuple({"epoch": epoch, "val_accuracy": mark / 10} for epoch in epochs)

    def delta(kept: int, rows: Any, checkpoint: bytes | None = None, end: RunEnd | None = None) -> RunDelta:
        return RunDelta(0, {"device": "there"}, kept, rows, checkpoint, end)

    mirror = RunMirror(jobs(tmp_path)[0])
    assert mirror.apply(delta(0, rows(1, 2, mark=1), b"of epoch 2")) is None
    assert mirror.apply(delta(2, rows(3, 4, mark=1))) is None
    job = mirror.lost("gone")
    assert job.run is not None
    assert RunFolder.open(job.run).status == "interrupted"
    again = RunMirror(job)
    assert again.apply(delta(2, rows(3, mark=2))) is None
    end = RunEnd("completed", None, {"test_accuracy": 0.5})
    ended = again.apply(delta(3, rows(4, mark=2), b"of epoch 4", end))
    assert ended is not None
    run = RunFolder.open(job.run)
    assert [row["val_accuracy"] for row in run.metrics()] == [0.1, 0.1, 0.2, 0.2]
    assert run.checkpoint.read_bytes() == b"of epoch 4"
    assert (run.status, run.record.error, run.record.summary["test_accuracy"]) == ("completed", None, 0.5)
    assert [entry["device"] for entry in run.record.provenance] == ["there", "there"]


def test_without_ray_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert fdfa(["sweep", str(recipe(tmp_path)), "--engine", "ray", "--results", str(tmp_path / "r")]) == 2
    assert "pip install 'fdfa-cli[ray]'" in capsys.readouterr().err
    assert not list(tmp_path.glob("r/*/2*"))


def test_an_address_is_for_a_cluster(tmp_path, capsys):
    arguments = ["--address", "127.0.0.1:6379", "--results", str(tmp_path / "r")]
    assert fdfa(["sweep", str(recipe(tmp_path)), *arguments]) == 2
    assert "--address is for --engine ray, and this is --engine auto" in capsys.readouterr().err
    assert fdfa(["compare", "digits/mlp", "--rules", "bp", *arguments]) == 2
    assert "--address is for --engine ray" in capsys.readouterr().err
    assert fdfa(["sweep", str(recipe(tmp_path)), "--engine", "ray", "--address", "ray://there:1"]) == 2
    assert "start fdfa on a machine of the cluster" in capsys.readouterr().err


class Machines:
    """A cluster of machines with these resources."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self._nodes = [{"Alive": True, "Resources": one} for one in resources]

    def nodes(self) -> list[dict[str, Any]]:
        return self._nodes


@pytest.mark.parametrize(
    ("device", "machines", "gpus", "workers"),
    [
        ("auto", [{"CPU": 4}, {"CPU": 2}], 0, 6),
        ("auto", [{"CPU": 4, "GPU": 2}, {"CPU": 4}], 1, 2),
        ("cuda", [{"CPU": 1, "GPU": 2}], 1, 1),
        ("cpu", [{"CPU": 4, "GPU": 2}], 0, 4),
    ],
)
def test_what_a_task_asks_the_cluster_for(device, machines, gpus, workers, monkeypatch):
    monkeypatch.setattr("fdfa_cli.trials.engines.ray.connect", lambda address: Machines(*machines))
    small = plan_sweep(parse((BASE.replace("cpu", device) + GRID).encode(), "r.yaml"))
    work = [Job(t, Path("x")) for t in small.trials]
    cluster = Ray(work, None)
    assert (cluster._gpus, cluster.workers) == (gpus, workers)
    assert [len(task) for task in cluster._tasks(work)] == ([4] if gpus else [1] * 4)


@pytest.mark.parametrize(
    ("training", "message"),
    [("device: cuda", "no machine of the cluster has a GPU"), ("threads: 9, device: cpu", "has 9 cores"),
     ("device: 'cuda:1'", "write cuda")],
)  # fmt: skip
def test_what_no_machine_has_is_said_at_once(training, message, monkeypatch):
    monkeypatch.setattr("fdfa_cli.trials.engines.ray.connect", lambda address: Machines({"CPU": 4}))
    small = plan_sweep(parse((BASE.replace("device: cpu", training) + GRID).encode(), "r.yaml"))
    work = [Job(t, Path("x")) for t in small.trials]
    with pytest.raises(UsageError, match=message):
        EngineOptions(EngineName.ray).engine_for(work)
