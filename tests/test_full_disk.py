"""Disks that are full: a sentence, nothing half-written, what was there is whole, and the rest can follow."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stored import stored_run
from test_train import assert_same_run

from fdfa_cli.cli import run as fdfa
from fdfa_cli.storage import RunFolder, files, scan
from fdfa_cli.training.training_run import CheckpointInterval

TRAIN = ("train", "digits/fdfa", "network.hidden=[8]", "training.epochs=3", "training.device=cpu")
FOUR = """
data: digits
network: {name: mlp, hidden: [8]}
rule: bp
training: {epochs: 2, device: cpu, threads: 1}
sweep: {seeds: 2, parameters: {optimizer.lr: {values: [0.01, 0.1]}}}
"""
#: Bytes at which a file may grow no further: every so often through the small files of a run, and on through
#: its checkpoint.
SIZES = [*range(0, 3000, 100), *range(3000, 43_000, 2000)]


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Lets the system refuse what would make a file larger than `size` bytes, after some of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Disk:
    """Has room for some more calls that change it, and then for none, until it is given more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
        self.left = calls
        for owner, name in ((os, "fsync"), (os, "write"), (os, "mkdir"), (os, "rename"), (os, "replace")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **named)

        return counted


def leftovers(folder: Path) -> list[Path]:
    """Whatever a writer that was interrupted may leave: drafts, folders without a run, torn lines."""
    hidden = [p for p in folder.rglob(".*") if p.name not in (".lock", ".plan.json", ".foreign")]
    empty = [p for p in folder.rglob("*") if p.is_dir() and not any(p.iterdir())]
    torn = [p for p in folder.rglob("metrics.jsonl") if p.read_bytes()[-1:] not in (b"", b"\n")]
    return hidden + empty + torn


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def a_sentence(said: str, *of: str) -> None:
    """Whether one line of stderr is the error, and names the reason and what else is asked for."""
    assert "Traceback" not in said
    assert "Exception" not in said
    lines = [line for line in said.splitlines() if line.startswith("fdfa: ")]
    assert len(lines) == 1, said
    assert any(os.strerror(number) in lines[0] for number in (errno.ENOSPC, errno.EFBIG)), said
    for part in of:
        assert part in lines[0], said


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunFolder:
    """The training of `TRAIN` that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert fdfa([*TRAIN, "--quiet", "--results", str(folder)]) == 0
    (path,) = folder.iterdir()
    return RunFolder.open(path)


@pytest.fixture
def every_epoch(monkeypatch) -> None:
    """A checkpoint after every epoch, however long it takes."""
    monkeypatch.setattr(CheckpointInterval, "RATIO", 0)


@pytest.mark.usefixtures("every_epoch")
def test_a_training_on_a_full_disk_is_gone_on_with_to_the_same_digits(tmp_path, whole, capsys):
    before = stored_run(tmp_path)
    stored = content(before)
    codes = set()
    for size in SIZES:
        results = tmp_path / str(size)
        results.mkdir()
        with no_file_beyond(size):
            code = fdfa([*TRAIN, "--results", str(results)])
        said = capsys.readouterr().err
        codes.add(code)
        runs = list(results.iterdir())
        assert not leftovers(results)
        if not runs:  # not even a folder
            assert code == 1
            a_sentence(said, str(results))
            continue
        run = RunFolder.open(runs[0])
        if code == 1:
            a_sentence(said, f"to go on, once there is room: fdfa train --resume {run.path}")
            assert run.status == "interrupted"
            assert fdfa(["train", "--resume", str(run.path), "--quiet"]) == 0
        assert_same_run(whole, RunFolder.open(run.path))
    assert codes == {0, 1}, "none was too small, or none was large enough"
    assert content(before) == stored


@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("calls", range(0, 50))
def test_a_training_whose_disk_fills_at_any_call_is_gone_on_with(tmp_path, whole, monkeypatch, capsys, calls):
    with monkeypatch.context() as patched:
        Disk(patched, calls)
        code = fdfa([*TRAIN, "--quiet", "--results", str(tmp_path)])
    said = capsys.readouterr().err
    assert not leftovers(tmp_path)
    found = scan([tmp_path])
    assert not found.damaged
    if code == 1:
        a_sentence(said)
    for run in found.runs:
        # Completed in spite of an error only where the last thing failed: to make sure of what is written.
        assert run.status == "completed" or (code, run.status) == (1, "interrupted")
        assert fdfa(["train", "--resume", str(run.path), "--quiet"]) == 0
        assert_same_run(whole, RunFolder.open(run.path))
    assert found.runs or code == 1


def test_a_resumed_training_whose_disk_is_full_stays_as_it_was(tmp_path, whole, monkeypatch, capsys):
    """The row that does not fit is taken back whole, whatever of it was written."""
    path = tmp_path / whole.name
    shutil.copytree(whole.path, path)
    with RunFolder.resume(path, ["fdfa"]) as run:
        run.update("interrupted", "a test")
        size = (path / "metrics.jsonl").stat().st_size
        row = {"epoch": 4, "train_loss": 1.0}
        with (
            no_file_beyond(size + 10),
            pytest.raises(files.DiskFull, match=r"metrics\.jsonl: File too"),
        ):
            run.append(row)
        assert (path / "metrics.jsonl").stat().st_size == size
        run.append(row)
    assert RunFolder.open(path).metrics()[-1] == row


# --------------------------------------------------------------------------------------------- sweeps


def swept(file: Path, results: Path, *more: str) -> int:
    return fdfa(["sweep", str(file), "--results", str(results), *more])


def figures(results: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        run.record.facts["identity"]: [
            {k: v for k, v in row.items() if not k.endswith("_seconds")} for row in run.metrics()
        ]
        for run in scan([results]).runs
    }


@pytest.mark.parametrize("engine", ["serial", "batched"])
def test_a_sweep_on_a_full_disk_stops_early_and_goes_on(tmp_path, capsys, engine):
    file = tmp_path / "four.yaml"
    file.write_text(FOUR)
    arguments = ("--engine", engine, "--jobs", "4")
    assert swept(file, tmp_path / "whole", *arguments) == 0
    expected = figures(tmp_path / "whole")
    codes = set()
    for size in SIZES if engine == "serial" else SIZES[::2]:
        results = tmp_path / str(size)
        capsys.readouterr()
        with no_file_beyond(size):
            code = swept(file, results, *arguments)
        codes.add(code)
        assert not leftovers(results)
        runs = scan([results]).runs
        assert not any(run.status == "failed" for run in runs)
        if code == 1:
            a_sentence(capsys.readouterr().err)
            begun = [run for run in runs if run.status == "interrupted"]
            assert len(begun) <= (1 if engine == "serial" else 4)
            assert swept(file, results, *arguments) == 0
        assert figures(results) == expected
    assert codes == {0, 1}


def test_workers_of_a_sweep_tell_of_a_full_disk(tmp_path, capsys):
    file = tmp_path / "four.yaml"
    file.write_text(FOUR)
    with no_file_beyond(3000):  # the limit is inherited
        assert swept(file, tmp_path / "results", "--engine", "processes", "--jobs", "2") == 1
    a_sentence(capsys.readouterr().err, "once there is room, start the same command again to go on")
    assert not leftovers(tmp_path / "results")
    assert {run.status for run in scan([tmp_path / "results"]).runs} == {"interrupted"}
    assert swept(file, tmp_path / "results", "--engine", "serial") == 0


def test_trials_that_failed_are_said_to_be_left_out(tmp_path, capsys):
    file = tmp_path / "four.yaml"
    file.write_text(FOUR)
    assert swept(file, tmp_path) == 0
    assert "--retry-failed" not in capsys.readouterr().err
    first = scan([tmp_path]).runs[0]
    with RunFolder.resume(first.path, ["fdfa"]) as run:
        run.update("failed", "a test")
    assert swept(file, tmp_path) == 1
    said = capsys.readouterr().err
    assert said.endswith("1 trial failed; with --retry-failed it trains again\n")
    assert swept(file, tmp_path, "--retry-failed") == 0
    compared = ["compare", "digits/mlp", "--rules", "bp", "--seeds", "1", "training.epochs=1"]
    compared += ["network.hidden=[8]", "training.device=cpu", "--results", str(tmp_path / "compared")]
    assert fdfa(compared) == 0
    (first,) = scan([tmp_path / "compared"]).runs
    with RunFolder.resume(first.path, ["fdfa"]) as run:
        run.update("failed", "a test")
    capsys.readouterr()
    assert fdfa(compared) == 1
    assert "1 trial failed; with --retry-failed it trains again\n" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- reports


@pytest.fixture(scope="module")
def some(tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("some")
    for second in range(3):
        stored_run(results, f"training.seed={second}", second=second, test_accuracy=0.9)
    return results


@pytest.mark.parametrize(
    ("option", "name"), [("--html", "page.html"), ("--tensorboard", "events")], ids=["html", "tensorboard"]
)
def test_a_report_on_a_full_disk_leaves_the_earlier_one(tmp_path, some, capsys, option, name):
    stored = content(some)
    target = tmp_path / name
    assert fdfa(["report", str(some), option, str(target)]) == 0
    earlier = target.read_bytes() if target.is_file() else content(target)
    largest = max(len(file) for file in (content(target).values() if target.is_dir() else [earlier]))
    codes = set()
    for i in range(50):  # over the earlier one, and beside it
        path = target if i % 2 else tmp_path / str(i) / name
        path.parent.mkdir(exist_ok=True)
        capsys.readouterr()
        with no_file_beyond(largest * i // 48):
            code = fdfa(["report", str(some), option, str(path)])
        codes.add(code)
        if code:
            assert code == 1
            a_sentence(capsys.readouterr().err, str(path))
        assert not [p for p in tmp_path.rglob(".*") if p.name != ".foreign"]
        if code == 0 or path == target:
            assert earlier == (path.read_bytes() if path.is_file() else content(path))
        elif path.is_dir():  # of several files some are whole, and the others are not there
            assert content(path).items() <= dict(earlier).items()
        else:
            assert not path.exists()
    assert codes == {0, 1}
    assert content(some) == stored


def test_figures_on_a_full_disk(tmp_path, some, capsys):
    whole = tmp_path / "whole"
    assert fdfa(["report", str(some), "--plots", str(whole)]) == 0
    capsys.readouterr()
    codes = set()
    for size in (0, 1000, 10_000, 20_000, 10_000_000):
        figures = tmp_path / str(size)
        with no_file_beyond(size):
            code = fdfa(["report", str(some), "--plots", str(figures)])
        codes.add(code)
        if code:
            assert code == 1
            a_sentence(capsys.readouterr().err, str(figures))
        for name, part in content(figures).items():
            assert part == (whole / name).read_bytes()
    assert codes == {0, 1}


def test_what_is_appended_for_tensorboard_is_appended_whole(tmp_path):
    file = tmp_path / "events"
    file.write_bytes(b"before")
    with file.open("ab") as stream:
        with no_file_beyond(10), pytest.raises(files.DiskFull):
            files.append_whole(file, stream, b"and after")
        assert file.read_bytes() == b"before"
        files.append_whole(file, stream, b" and after")
    assert file.read_bytes() == b"before and after"


def test_a_training_goes_on_without_tensorboard(tmp_path, whole, monkeypatch, capsys):
    """What could not be written is written by `fdfa report`, as is said, once."""
    results, folder = tmp_path / "results", tmp_path / "events"
    write = files.append_whole
    from fdfa_cli.storage import events

    def full(path: Path, *rest: Any) -> None:
        raise files.DiskFull(f"{path}: {os.strerror(errno.ENOSPC)}")

    monkeypatch.setattr(events, "append_whole", full)
    assert write is not events.append_whole
    assert fdfa([*TRAIN, "--quiet", "--results", str(results), "--tensorboard", str(folder)]) == 0
    (path,) = results.iterdir()
    assert_same_run(whole, RunFolder.open(path))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {folder}")
    assert line.endswith(f"the training goes on, and later: fdfa report {path} --tensorboard {folder}")
