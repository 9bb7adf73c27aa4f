"""`fdfa report --watch` and `--tensorboard`: what they show and write while runs change."""

from __future__ import annotations

import math
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stored import resolved, stored_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fdfa_cli import cli
from fdfa_cli.errors import UsageError
from fdfa_cli.report.poll import RunPoller
from fdfa_cli.report.query import Query
from fdfa_cli.report.query_table import query_table
from fdfa_cli.report.select import Condition
from fdfa_cli.report.watch import fitting, heading
from fdfa_cli.storage import RunFolder
from fdfa_cli.storage.events import export
from fdfa_cli.trials.store import Store

ROOT = Path(__file__).parents[1]
HERE = os.environ | {"PYTHONPATH": str(ROOT)}


def started(results: Path, *overrides: str, epochs: int = 2) -> RunFolder:
    """A run that this process is writing."""
    text, facts = resolved(*overrides)
    run = RunFolder.create(results, text, facts, ["fdfa"], {"device": "cpu"})
    for epoch in range(1, epochs + 1):
        run.append({"epoch": epoch, "train_loss": 1.0 / epoch, "val_accuracy": 0.5, "train_seconds": 2.0})
    return run


# Looking again


def test_only_what_has_changed_is_read_again(tmp_path, monkeypatch):
    done, live = stored_run(tmp_path, "rule=bp"), started(tmp_path, "rule=dfa")
    read = []
    for name in ("read", "metrics"):
        real = getattr(RunFolder, name)
        function = real.__func__ if name == "read" else real

        def spy(*arguments, function=function, name=name):
            of = arguments[1] if name == "read" else arguments[0].path
            read.append((name, of))
            return function(*arguments)

        monkeypatch.setattr(RunFolder, name, classmethod(spy) if name == "read" else spy)
    poller = RunPoller([tmp_path], Query())
    first = poller.poll()
    query_table(first.catalog, Query(), curves=True)
    assert {path for _, path in read} == {done, live.path}
    read.clear()
    second = poller.poll()
    query_table(second.catalog, Query(), curves=True)
    assert read == []
    assert second.changed == ()
    live.append({"epoch": 3, "train_loss": 0.25, "val_accuracy": 0.75, "train_seconds": 2.0})
    third = poller.poll()
    query_table(third.catalog, Query(), curves=True)
    assert {path for _, path in read} == {live.path}
    assert [run.path for run in third.changed] == [live.path]
    assert third.changed[0].record.summary["epochs"] == 3
    live.close()


def test_a_writer_that_dies_is_seen_though_it_writes_nothing_more(tmp_path):
    live = started(tmp_path, "rule=dfa")
    poller = RunPoller([tmp_path], Query())
    assert [run.status for run in poller.poll().runs] == ["running"]
    live.close()
    poll = poller.poll()
    assert [run.status for run in poll.changed] == ["interrupted"]


def test_runs_that_come_and_go_are_seen(tmp_path):
    poller = RunPoller([tmp_path / "later"], Query((Condition.parse("rule=bp"),)), wait=True)
    assert heading(poller.poll()) == ["waiting for runs"]
    stored_run(tmp_path / "later", "rule=dfa")
    assert poller.poll().runs == ()
    path = stored_run(tmp_path / "later", "rule=bp", second=1)
    assert [run.path for run in poller.poll().runs] == [path]
    path.rename(tmp_path / "elsewhere")
    assert poller.poll().runs == ()


def test_how_far_a_sweep_is(tmp_path):
    folder = tmp_path / "s-sweep-12345678"
    folder.mkdir()
    runs = [
        stored_run(folder, "rule=bp", f"training.seed={seed}", second=seed, status=status)
        for seed, status in enumerate(("completed", "diverged", "completed"))
    ]
    live = started(folder, "rule=bp", "training.seed=3", "training.epochs=7")
    ours = [RunFolder.open(path).record.facts["identity"] for path in (*runs[:2], live.path)]
    Store(folder).announce(ours, 9)  # the third run is of another plan
    lines = heading(RunPoller([tmp_path], Query()).poll())
    assert lines == [
        "s-sweep-12345678  2 of 9 done  1 running  1 diverged",
        f"{live.path.name}  epoch 2 of 7",
    ]
    live.close()


def test_a_folder_in_which_a_sweep_only_begins_is_no_damage(tmp_path):
    (tmp_path / "s-sweep").mkdir()
    Store(tmp_path / "s-sweep").announce(["x"], 1)
    stored_run(tmp_path, "rule=bp")
    assert RunPoller([tmp_path], Query()).poll().damaged == []


def test_a_window_that_is_too_low_shows_the_last_runs_and_counts_the_others(tmp_path):
    for seed in range(9):
        stored_run(tmp_path, "rule=bp", f"training.seed={seed}", second=seed)
    table = query_table(RunPoller([tmp_path], Query()).poll().catalog, Query())
    for height in range(9, 30):
        lines = ["".join(text for text, _ in line) for line in fitting(table, 160, height, first=False)]
        shown = [line for line in lines if "completed  " in line]
        assert len(lines) <= height
        assert shown[-1].startswith(table.rows[-1][0])
        left = 9 - len(shown)
        assert (f"{left} earlier rows: the window is too low" in lines) == (left > 0)
    lines = ["".join(text for text, _ in line) for line in fitting(table, 160, 9, first=True)]
    assert any(line.startswith(table.rows[0][0]) for line in lines)


# The command


@contextmanager
def watching(*arguments: object, terminal: bool = False) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`fdfa report --watch` in a process of its own, and where to read what it says."""
    if terminal:
        reader, writer = pty.openpty()
        environment = HERE | {"COLUMNS": "100", "LINES": "30", "TERM": "xterm-256color"}
    else:
        reader, writer = os.pipe()
        environment = HERE
    command = [sys.executable, "-m", "fdfa_cli", "report", *map(str, arguments), "--watch"]
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, env=environment) as process:
        os.close(writer)
        try:
            yield process, reader
        finally:
            process.kill()
            os.close(reader)


def read_until(reader: int, text: str) -> str:
    """What comes from `reader` until `text` has; the end of the process fails."""
    said = ""
    while text not in said:
        data = os.read(reader, 65536).decode()
        assert data, f"ended before {text!r}: {said}"
        said += data
    return said


def read_to_the_end(reader: int) -> str:
    said = b""
    try:
        while data := os.read(reader, 65536):
            said += data
    except OSError:  # Linux says so when the other end of a terminal is closed
        pass
    return said.decode()


def end(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    return process.wait(), said


def test_in_a_pipe_it_prints_a_block_a_change_until_ctrl_c(tmp_path):
    stored_run(tmp_path, "rule=bp", test_accuracy=0.875)
    with watching(tmp_path, "--group-by", "rule") as (process, reader):
        first = read_until(reader, "1 completed")
        assert "87.50" in first
        assert "\x1b" not in first
        stored_run(tmp_path, "rule=bp", "training.seed=1", second=1, test_accuracy=0.625)
        assert "75.00" in read_until(reader, "2 completed")
        assert end(process) == (0, "")


def test_a_damaged_folder_is_named_while_watching_and_makes_the_exit_code_1(tmp_path):
    stored_run(tmp_path, "rule=bp")
    broken = stored_run(tmp_path, "rule=dfa", second=1)
    (broken / "run.json").write_text("{")
    with watching(tmp_path) as (process, reader):
        said = read_until(reader, "1 completed")
        assert f"cannot be read: {broken}/run.json: not JSON" in said
        code, error = end(process)
        assert code == 1
        assert f"{broken}/run.json: not JSON" in error


def test_on_a_terminal_it_draws_over_itself_and_leaves_the_last_table(tmp_path):
    stored_run(tmp_path, "rule=[bold]".replace("[bold]", "bp"), test_accuracy=0.875)
    with watching(tmp_path, terminal=True) as (process, reader):
        read_until(reader, "1 completed")
        stored_run(tmp_path, "rule=bp", "training.seed=1", second=1, test_accuracy=0.625)
        read_until(reader, "2 completed")
        process.send_signal(signal.SIGINT)
        rest = read_to_the_end(reader)
        assert process.wait() == 0
    after = rest.partition("\x1b[?1049l")[2]  # back on the ordinary screen
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", after)
    assert text.count("completed") == 3  # two rows and their number
    assert "▁█" in text


@pytest.mark.parametrize("arguments", [["--format", "csv"], ["--plots", "figures"]])
def test_watching_excludes_what_is_written_once(tmp_path, capsys, arguments):
    assert cli.run(["report", str(tmp_path), "--watch", *arguments]) == 2
    assert "--watch follows the table" in capsys.readouterr().err


# TensorBoard


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard itself reads in the folder of a run."""
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_reads_the_stored_numbers(tmp_path, capsys):
    probe = {"step": 40, "epoch": 1.0, "seconds": 0.1, "blocks": [{"block": 1, "signal_cosine": 0.25}]}
    rows = [
        {"epoch": 1, "train_loss": 2.5, "val_accuracy": 0.5, "train_seconds": 10.0, "eval_seconds": 1.0},
        {"epoch": 2, "train_loss": None, "lr": 1e-3, "train_seconds": 20.0, "diagnostics": [probe]},
    ]
    path = stored_run(tmp_path / "runs", "rule=dfa", curve=(), rows=rows, test_accuracy=0.875)
    assert cli.run(["report", str(tmp_path / "runs"), "--tensorboard", str(tmp_path / "tb")]) == 0
    found = events(tmp_path / "tb" / path.name)
    began = 1767312000.0  # 2026-01-02 in UTC
    assert set(found.Tags()["scalars"]) == {
        "loss/train", "accuracy/val", "accuracy/test", "seconds/train", "seconds/eval", "lr",
        "diagnostics/signal_cosine/block_1",
    }  # fmt: skip
    first, second = found.Scalars("loss/train")
    assert (first.step, first.wall_time, first.value) == (1, began + 11, 2.5)
    assert (second.step, second.wall_time) == (2, began + 31)
    assert math.isnan(second.value)
    (tested,) = found.Scalars("accuracy/test")
    assert (tested.step, tested.value) == (2, 0.875)
    (cosine,) = found.Scalars("diagnostics/signal_cosine/block_1")
    assert (cosine.step, cosine.value) == (40, 0.25)


def test_an_open_tensorboard_sees_what_is_added(tmp_path):
    run = started(tmp_path / "runs", "rule=dfa")
    export(run, tmp_path / "tb")
    found = events(tmp_path / "tb" / run.name)
    file = next((tmp_path / "tb" / run.name).iterdir())
    inode = file.stat().st_ino
    run.append({"epoch": 3, "train_loss": 0.25, "val_accuracy": 0.75, "train_seconds": 2.0})
    run.update("completed", None, test_accuracy=0.5)
    export(run, tmp_path / "tb")
    found.Reload()
    assert [event.step for event in found.Scalars("loss/train")] == [1, 2, 3]
    assert found.Scalars("accuracy/test")[0].value == 0.5
    assert file.stat().st_ino == inode, "appended to, not replaced"
    run.close()


def test_a_run_that_went_back_is_written_anew(tmp_path):
    run = started(tmp_path / "runs", "rule=dfa", epochs=3)
    export(run, tmp_path / "tb")
    run.cut(1)
    run.append({"epoch": 2, "train_loss": 9.0, "train_seconds": 2.0})
    export(run, tmp_path / "tb")
    found = events(tmp_path / "tb" / run.name)
    assert [(event.step, event.value) for event in found.Scalars("loss/train")] == [(1, 1.0), (2, 9.0)]
    run.close()


@pytest.mark.slow
def test_training_writes_what_a_report_of_it_writes(tmp_path, capsys):
    results, live, after = tmp_path / "runs", tmp_path / "live", tmp_path / "after"
    train = ["train", "digits/mlp", "rule=dfa", "training.epochs=2", "--quiet", "--results", str(results)]
    assert cli.run([*train, "--tensorboard", str(live)]) == 0
    assert cli.run(["report", str(results), "--tensorboard", str(after)]) == 0
    (one,), (two,) = (list(folder.glob("*/*")) for folder in (live, after))
    assert one.relative_to(live) == two.relative_to(after)
    assert one.read_bytes() == two.read_bytes()


def test_watching_keeps_tensorboard_up_to_date(tmp_path):
    run = started(tmp_path / "runs", "rule=dfa")
    with watching(tmp_path / "runs", "--tensorboard", tmp_path / "tb") as (process, reader):
        read_until(reader, "1 running")
        run.append({"epoch": 3, "train_loss": 0.25, "val_accuracy": 0.75, "train_seconds": 2.0})
        read_until(reader, "epoch 3 of")
        run.close()
        read_until(reader, "1 interrupted")
        assert end(process)[0] == 0
    assert len(events(tmp_path / "tb" / run.name).Scalars("loss/train")) == 3


def test_without_the_package_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for command in (["report", str(tmp_path)], ["train", "digits/mlp", "--results", str(tmp_path / "r")]):
        assert cli.run([*command, "--tensorboard", str(tmp_path / "tb")]) == 2
        assert "pip install 'fdfa-cli[tensorboard]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_a_usage_error(tmp_path, capsys):
    run = RunFolder.open(stored_run(tmp_path / "runs", "rule=dfa"))
    (tmp_path / "tb").write_text("a file")
    new = str(tmp_path / "new")
    assert cli.run(["train", "digits/mlp", "--results", new, "--tensorboard", str(tmp_path / "tb")]) == 2
    assert f"cannot write to {tmp_path / 'tb'}: " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="cannot write to"):
        export(run, tmp_path / "tb")
