"""The store: what a folder holds after crashes, races and damage, checked from outside the writer."""

from __future__ import annotations

import fcntl
import getpass
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdfa_cli.errors import DiskFull, Diverged, Interrupted, RunDamaged, UsageError
from fdfa_cli.storage import (
    STATUSES,
    Record,
    RunFolder,
    atomic_write,
    by_identity,
    foreign_folder,
    scan,
    summarise,
)
from fdfa_cli.storage.files import dump_json, load_json
from fdfa_cli.storage.provenance import anonymous, checkout

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
FACTS = {"data": "digits", "network": "mlp", "rule": "fdfa", "seed": 3, "identity": "ab12cd34" * 8}
ROWS = [
    {"epoch": 1, "train_loss": 0.5, "val_accuracy": 0.25, "train_seconds": 1.5, "eval_seconds": 0.1},
    {"epoch": 2, "train_loss": 0.25, "val_accuracy": 0.75, "train_seconds": 2.5, "eval_seconds": 0.1},
    {"epoch": 3, "train_loss": 0.125, "val_accuracy": 0.5, "train_seconds": 0.25, "eval_seconds": 0.1},
]
RECIPE = "data: {name: digits}\n"


def create(results: Path, *, at: datetime = NOON, **facts: object) -> RunFolder:
    return RunFolder.create(
        results, RECIPE, FACTS | facts, ["fdfa", "train"], {"device": "cpu"}, clock=lambda: at
    )


def stored(results: Path, status: str = "completed", rows: int = 3, **facts: object) -> Path:
    """A run that is no longer written."""
    with create(results, **facts) as run:
        for row in ROWS[:rows]:
            run.append(row)
        if status != "running":
            run.update(status, test_accuracy=0.625)
    return run.path


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """A process that runs `code`."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, **options.pop("env", {})}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env=environment, **options)


# Creating


def test_a_new_run_holds_what_it_was_given(tmp_path):
    with create(tmp_path / "deep" / "results") as run:
        assert run.path == tmp_path / "deep" / "results" / "20260102T120000Z-digits-mlp-fdfa-ab12cd34"
        assert sorted(p.name for p in run.path.iterdir()) == ["metrics.jsonl", "recipe.yaml", "run.json"]
        assert run.recipe_text() == RECIPE
        content = json.loads((run.path / "run.json").read_text())
    assert content["schema"] == 1
    assert content["status"] == "running"
    assert content["created"] == "2026-01-02T12:00:00Z"
    assert content["facts"] == FACTS
    assert content["provenance"][0]["device"] == "cpu"
    assert content["provenance"][0]["command"] == ["fdfa", "train"]
    assert content["provenance"][0]["python"] == platform.python_version()
    assert [p.name for p in run.path.parent.iterdir()] == [run.path.name]


def test_the_name_is_in_utc_and_has_no_character_that_a_path_would_read(tmp_path):
    east = datetime(2026, 1, 3, 1, 30, 0, tzinfo=timezone(timedelta(hours=5)))
    with create(tmp_path, at=east, data="../a b", rule="x/y") as run:
        assert run.path == tmp_path / "20260102T203000Z-.._a_b-mlp-x_y-ab12cd34"


@pytest.mark.parametrize(
    ("facts", "named"), [({"seed": "3"}, "facts.seed"), ({"identity": None}, "facts.identity")]
)
def test_facts_that_a_table_needs_are_checked_before_anything_is_written(tmp_path, facts, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        create(tmp_path, **facts)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_a_usage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot create a run in"):
        create(tmp_path / "file")


def test_eight_processes_in_one_second_get_eight_folders(tmp_path):
    code = """
        import sys
        from datetime import UTC, datetime
        from pathlib import Path
        from fdfa_cli.storage import RunFolder
        facts = {"data": "d", "network": "n", "rule": "r", "seed": int(sys.argv[2]), "identity": "0" * 64}
        clock = lambda: datetime(2026, 1, 2, tzinfo=UTC)
        sys.stdin.read(1)  # until all are there
        with RunFolder.create(Path(sys.argv[1]), sys.argv[2], facts, [], clock=clock) as run:
            for epoch in range(1, 50):
                run.append({"epoch": epoch, "train_loss": float(sys.argv[2])})
            run.update("completed")
        print(run.path)
    """
    read, write = os.pipe()
    processes = [python(code, tmp_path, seed, stdin=read) for seed in range(8)]
    os.close(read)
    os.write(write, b"x" * 8)
    os.close(write)
    paths = [Path(process.communicate()[0].strip()) for process in processes]
    assert len(set(paths)) == 8
    assert {path.name for path in paths} == {p.name for p in tmp_path.iterdir()}
    for seed, path in enumerate(paths):
        run = RunFolder.open(path)
        assert (run.status, run.record.facts["seed"], run.recipe_text()) == ("completed", seed, str(seed))
        assert {row["train_loss"] for row in run.metrics()} == {float(seed)}
        assert len(run.metrics()) == 49


def test_a_run_whose_creation_is_killed_is_there_whole_or_not_at_all(tmp_path):
    """Kills creators before each of their calls that change the disk, and once not at all."""
    code = """
        import os, sys
        from datetime import UTC, datetime
        from pathlib import Path
        from fdfa_cli.storage import RunFolder
        left = 1_000
        def watch(event, arguments):
            global left
            if event in ("os.mkdir", "os.rename", "open") and sys.argv[1] in str(arguments[0]):
                left -= 1
                if left < 0:
                    os._exit(9)
        sys.addaudithook(watch)
        clock = lambda: datetime(2026, 1, 2, tzinfo=UTC)
        code, calls = 9, 0
        while code == 9:
            if (child := os.fork()) == 0:
                left = calls
                facts = {"data": "d", "network": "n", "rule": "r", "seed": 0, "identity": f"{calls:08d}"}
                RunFolder.create(Path(sys.argv[1]), "r", facts, [], clock=clock).close()
                os._exit(0)
            code, calls = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), calls + 1
        print(code, calls)
    """
    code, calls = map(int, python(code, tmp_path / "results").communicate()[0].split())
    assert (code, calls > 8) == (0, True)
    runs, damaged = scan([tmp_path / "results"])
    assert damaged == []
    assert len(runs) == 2, "the last one, and the one killed between its renaming and the end"


# Metrics


def test_numbers_that_are_not_finite_are_stored_as_null(tmp_path):
    with create(tmp_path) as run:
        blocks = [{"block": 1, "bias": 1.0, "variance": math.inf}, {"block": 2, "bias": -math.inf}]
        probe = {"step": 0, "epoch": 0.0, "blocks": blocks}
        run.append({"epoch": 1, "train_loss": math.nan, "diagnostics": [probe]})
        run.update("diverged", "the loss is not finite", test_loss=math.inf)
    text = (run.path / "metrics.jsonl").read_text()
    stored_blocks = [{"block": 1, "bias": 1.0, "variance": None}, {"block": 2, "bias": None}]
    expected = {"epoch": 1, "train_loss": None, "diagnostics": [probe | {"blocks": stored_blocks}]}
    assert json.loads(text, parse_constant=pytest.fail) == expected
    summary = json.loads((run.path / "run.json").read_text(), parse_constant=pytest.fail)["summary"]
    assert summary == {"epochs": 1, "train_loss": None, "test_loss": None}


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
))  # fmt: skip
def test_json_comes_back_as_it_was_and_is_utf8(value):
    text = dump_json(value)
    text.decode("utf-8")
    assert json.loads(text) == value


@pytest.mark.parametrize("text", [b"NaN", b"[Infinity]", b'{"a": -Infinity}', b"\xff", b"", b"{'a': 1}"])
def test_what_is_not_strict_json_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - which one says json
        load_json(text)


def test_a_row_without_its_epoch_is_refused(tmp_path):
    with create(tmp_path) as run, pytest.raises(ValueError, match="epoch"):
        run.append({"train_loss": 1.0})


def test_metrics_cut_anywhere_lose_the_torn_line_and_no_other(tmp_path):
    path = stored(tmp_path)
    file = path / "metrics.jsonl"
    whole = file.read_bytes()
    for size in range(len(whole) + 1):  # every byte
        file.write_bytes(whole[:size])
        assert RunFolder.open(path).metrics() == ROWS[: whole[:size].count(b"\n")]


def test_a_resumed_run_continues_from_a_line_cut_anywhere(tmp_path):
    path = stored(tmp_path, "interrupted")
    file = path / "metrics.jsonl"
    whole = file.read_bytes()
    ends = [i + shift for i, byte in enumerate(whole) if byte == ord("\n") for shift in (0, 1)]
    for size in sorted({*range(0, len(whole), 17), *ends}):
        file.write_bytes(whole[:size])
        intact = whole[:size].count(b"\n")
        for epochs in range(intact + 1):
            file.write_bytes(whole[:size])
            with RunFolder.resume(path, ["fdfa"]) as run:
                run.cut(epochs)
                for row in ROWS[epochs:]:
                    run.append(row)
            assert file.read_bytes() == whole


def test_a_resumed_run_appends_no_row_to_a_torn_line(tmp_path):
    path = stored(tmp_path, "interrupted", rows=2)
    with (path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 3, "tra')
    with RunFolder.resume(path, ["fdfa"]) as run:
        run.append(ROWS[2])
        assert run.metrics() == ROWS


def test_a_resumed_run_refuses_to_leave_a_gap(tmp_path):
    path = stored(tmp_path, rows=2)
    with RunFolder.resume(path, ["fdfa"]) as run, pytest.raises(RunDamaged, match=r"ends at epoch 2.* of 3"):
        run.cut(3)


@pytest.mark.parametrize("line", ['{"epoch": 2, "tr', "[]", "7", '{"train_loss": 1.0}', '{"epoch": NaN}', ""])
def test_a_line_damaged_before_the_last_is_named(tmp_path, line):
    path = stored(tmp_path)
    lines = (path / "metrics.jsonl").read_text().splitlines()
    lines[1] = line
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunDamaged, match=r"metrics\.jsonl:2: not a row"):
        RunFolder.open(path).metrics()


# Status


def test_the_summary_is_the_last_epoch_with_the_seconds_of_all():
    assert summarise(ROWS) == {
        "epochs": 3,
        "train_loss": 0.125,
        "val_accuracy": 0.5,
        "train_seconds": 4.25,
        "eval_seconds": pytest.approx(0.3, abs=0, rel=1e-15),
    }
    assert summarise([]) == {"epochs": 0}
    assert summarise(
        [{"epoch": 1, "train_seconds": None}, {"epoch": 2, "train_seconds": 2, "note": "x"}]
    ) == {
        "epochs": 2,
        "train_seconds": 2,
    }


def test_an_update_keeps_what_it_does_not_name(tmp_path):
    with create(tmp_path) as run:
        run.append(ROWS[0])
        run.update(peak_memory_bytes=7)
        run.append(ROWS[1])
        run.update("completed", test_accuracy=0.5, train_loss=0.1)
    record = RunFolder.open(run.path).record
    assert (record.status, record.facts) == ("completed", FACTS)
    assert record.summary["peak_memory_bytes"] == 7
    assert record.summary["epochs"] == 2
    assert record.summary["test_accuracy"] == 0.5
    assert record.summary["train_loss"] == 0.1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Diverged("not finite"), "diverged"),
        (Interrupted("stopped"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (MemoryError(), "failed"),
        (RuntimeError("boom"), "failed"),
    ],
)
def test_an_error_that_leaves_a_run_is_its_status(tmp_path, error, status):
    run = create(tmp_path)
    run.append(ROWS[0])
    with pytest.raises(type(error)), run:
        raise error
    record = RunFolder.open(run.path).record
    assert (record.status, record.error) == (status, str(error) or type(error).__name__)
    assert record.summary["train_loss"] == 0.5


def test_an_error_after_a_run_has_ended_does_not_change_how_it_ended(tmp_path):
    run = create(tmp_path)
    run.update("completed")
    with pytest.raises(RuntimeError), run:
        raise RuntimeError("while printing")
    assert RunFolder.open(run.path).record.error is None


def test_a_status_clears_the_error_before_it(tmp_path):
    with pytest.raises(RuntimeError), create(tmp_path) as run:
        raise RuntimeError("out of memory")
    with RunFolder.resume(run.path, ["fdfa"]) as run:
        run.update("running")
        assert run.record.error is None


WRITER = """
    import sys
    from pathlib import Path
    from fdfa_cli.storage import RunFolder
    run = RunFolder.resume(Path(sys.argv[1]), ["fdfa", "train", "--resume"])
    run.update("running")
    run.append({"epoch": 4, "train_loss": 0.0625})
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_run_is_running_while_its_process_lives_and_interrupted_after_a_kill(tmp_path):
    path = stored(tmp_path)
    writer = python(WRITER, path, stdin=subprocess.PIPE)
    assert writer.stdout.readline() == "ready\n"
    live = RunFolder.open(path)
    assert (live.status, live.record.summary["epochs"]) == ("running", 4)
    with pytest.raises(UsageError, match="another process"):
        RunFolder.resume(path, ["fdfa"])
    (path / ".checkpoint.pt.0badcafe.tmp").write_bytes(b"half")

    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert json.loads((path / "run.json").read_text())["status"] == "running"
    assert RunFolder.open(path).status == "interrupted"
    with RunFolder.resume(path, ["fdfa", "again"]) as run:
        assert run.status == "interrupted"
        assert not list(path.glob(".*"))
        run.update("completed")
    commands = [entry["command"] for entry in RunFolder.open(path).record.provenance]
    assert commands == [["fdfa", "train"], ["fdfa", "train", "--resume"], ["fdfa", "again"]]


def test_looking_at_a_run_does_not_keep_others_from_resuming_it(tmp_path):
    path = stored(tmp_path, "running")
    with (path / "metrics.jsonl").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as a reader holds it, only longer
        end = threading.Timer(0.1, fcntl.flock, (file, fcntl.LOCK_UN))
        end.start()
        RunFolder.resume(path, ["fdfa"]).close()
        end.join()


def test_only_who_holds_a_run_can_write_to_it(tmp_path):
    run = RunFolder.open(stored(tmp_path))
    for write in (lambda: run.append(ROWS[0]), lambda: run.cut(0), lambda: run.update("failed")):
        with pytest.raises(ValueError, match="reading only"):
            write()


# Replacing files


def test_a_file_whose_writer_fails_keeps_its_old_content(tmp_path):
    file = tmp_path / "checkpoint.pt"
    atomic_write(file, b"old")

    def half(stream):
        stream.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull, match="No space"):
        atomic_write(file, half)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"checkpoint.pt": b"old"}


def test_a_file_whose_writer_is_killed_keeps_its_old_content(tmp_path):
    code = """
        import os, sys
        from pathlib import Path
        from fdfa_cli.storage import atomic_write
        def half(stream):
            stream.write(b"ne")
            stream.flush()
            os.kill(os.getpid(), 9)
        atomic_write(Path(sys.argv[1]), half)
    """
    path = stored(tmp_path)
    atomic_write(path / "checkpoint.pt", b"old")
    process = python(code, path / "checkpoint.pt")
    process.communicate()
    assert process.returncode == -9
    assert (path / "checkpoint.pt").read_bytes() == b"old"
    assert len(list(path.glob(".checkpoint.pt.*.tmp"))) == 1
    RunFolder.resume(path, ["fdfa"]).close()
    assert not list(path.glob(".*"))


def test_files_have_the_permissions_of_the_users_choice(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "shared", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o640


# Provenance


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("data.root=/home/ada/sets", "data.root=$HOME/sets"),
        ("/home/ada", "$HOME"),
        ("no such file: '/home/ada/x.yaml'", "no such file: '$HOME/x.yaml'"),
        ("/home/adah/x", "/home/adah/x"),
        ("/scratch/ada/results", "/scratch/$USER/results"),
        ("/mnt/home/ada/x", "/mnt/home/$USER/x"),
        ("ada", "ada"),
        ("recipes/digits/fdfa.yaml", "recipes/digits/fdfa.yaml"),
    ],
)
def test_home_and_user_are_written_as_a_shell_expands_them(monkeypatch, text, hidden):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("LOGNAME", "ada")
    assert anonymous(text) == hidden


def test_a_run_names_neither_host_nor_user_nor_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada-lovelace")
    monkeypatch.setenv("LOGNAME", "ada-lovelace")
    command = [
        "/home/ada-lovelace/.venv/bin/fdfa",
        "train",
        "/home/ada-lovelace/a.yaml",
        "x=/nfs/ada-lovelace",
    ]
    with pytest.raises(FileNotFoundError), RunFolder.create(tmp_path, RECIPE, FACTS, command) as run:
        raise FileNotFoundError(2, "No such file", "/home/ada-lovelace/sets/mnist")
    text = (run.path / "run.json").read_text()
    assert "ada-lovelace" not in text
    assert platform.node() not in text
    assert json.loads(text)["provenance"][0]["command"] == ["fdfa", "train", "$HOME/a.yaml", "x=/nfs/$USER"]
    assert getpass.getuser() == "ada-lovelace"


def test_an_error_with_a_file_name_that_is_not_utf8_can_be_stored_and_printed(tmp_path):
    with pytest.raises(OSError, match="missing"), create(tmp_path) as run:
        raise OSError(os.fsdecode(b"missing: \xff.png"))
    assert RunFolder.open(run.path).record.error.encode("utf-8") == rb"missing: \udcff.png"


def test_a_command_line_that_is_not_utf8_is_stored_as_it_was(tmp_path):
    command = ["fdfa", "train", os.fsdecode(b"caf\xe9.yaml")]
    with RunFolder.create(tmp_path, RECIPE, FACTS, command) as run:
        assert json.loads((run.path / "run.json").read_text("utf-8"))["provenance"][0]["command"] == command


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True, capture_output=True, text=True, env=environment,
    ).stdout.strip()  # fmt: skip


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git on this machine")
def test_the_commit_is_the_packages_own_and_dirty_says_whether_it_was_changed(tmp_path, monkeypatch):
    package = tmp_path / "project" / "package"
    package.mkdir(parents=True)
    (package / "a.py").write_text("1")
    git(package.parent, "init", "-q")
    assert look(package) == {"commit": None, "dirty": None}  # no commit yet
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "one")
    clean = {"commit": git(package.parent, "rev-parse", "HEAD"), "dirty": False}
    assert look(package) == clean
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as inside a hook
    assert look(package) == clean
    (package.parent / "notes.txt").write_text("beside the package")
    assert look(package) == clean
    (package / "new_rule.py").write_text("2")
    assert look(package) == clean | {"dirty": True}
    # Installed into an environment inside somebody's checkout, it is no part of that checkout.
    installed = package.parent / ".venv" / "site-packages" / "package"
    installed.mkdir(parents=True)
    assert look(installed) == {"commit": None, "dirty": None}


def look(package: Path) -> dict[str, object]:
    checkout.cache_clear()
    return checkout(package)


# Finding runs


def damage(path: Path, kind: str) -> None:
    """Damages the run at `path`, or replaces it."""
    record = path / "run.json"
    content = json.loads(record.read_text())
    if kind.endswith(" missing"):
        (path / kind.removesuffix(" missing")).unlink()
    elif kind == "foreign folder":
        shutil.rmtree(path)
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "notes.txt").touch()
    elif kind == "symlink loop":
        shutil.rmtree(path)
        path.symlink_to(path.parent)
    elif kind == "symlink to itself":
        shutil.rmtree(path)
        path.symlink_to(path)
    elif kind == "dangling symlink":
        shutil.rmtree(path)
        path.symlink_to(path.parent / "nowhere")
    elif kind == "a folder for a file":
        record.unlink()
        record.mkdir()
    else:
        record.write_bytes(
            {
                "truncated": record.read_bytes()[:-40],
                "empty": b"",
                "binary": b"\x80\x00",
                "nested deeply": b"[" * 100_000,
                "NaN": record.read_bytes().replace(b"0.625", b"NaN"),
                "overflow": record.read_bytes().replace(b"0.625", b"1e999"),
                "another record": b"{}",
                "a list": b"[1]",
                "newer schema": json.dumps(content | {"schema": 2}).encode(),
                "unknown key": json.dumps(content | {"more": 2}).encode(),
                "unknown status": json.dumps(content | {"status": "done"}).encode(),
                "facts": json.dumps(content | {"facts": {"data": "x"}}).encode(),
                "no facts": json.dumps(content | {"facts": None}).encode(),
                "summary": json.dumps(content | {"summary": {"test_accuracy": "1"}}).encode(),
                "provenance": json.dumps(content | {"provenance": [1]}).encode(),
                "error": json.dumps(content | {"error": 1}).encode(),
            }[kind]
        )


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("run.json missing", "run.json missing"),
        ("recipe.yaml missing", "recipe.yaml missing"),
        ("metrics.jsonl missing", "metrics.jsonl missing"),
        ("foreign folder", "neither a run nor a folder of runs"),
        ("symlink loop", "a symbolic link that loops"),
        ("symlink to itself", "a symbolic link that leads nowhere"),
        ("dangling symlink", "a symbolic link that leads nowhere"),
        ("a folder for a file", "Is a directory"),
        ("truncated", "not JSON"),
        ("empty", "not JSON"),
        ("binary", "not JSON"),
        ("nested deeply", "not JSON"),
        ("NaN", "NaN is not JSON"),
        ("overflow", "summary.test_accuracy is not a finite number"),
        ("another record", "it has no schema number"),
        ("a list", "it has no schema number"),
        ("newer schema", "schema 2; this version reads 1"),
        ("unknown key", "unexpected keyword argument 'more'"),
        ("unknown status", "status 'done' is none of"),
        ("facts", "facts.network is not text"),
        ("no facts", "facts and summary must be objects"),
        ("summary", "summary.test_accuracy is not a finite number"),
        ("provenance", "provenance must be a list of objects"),
        ("error", "error and created must be text"),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_is_read(tmp_path, kind, reason):
    paths = [stored(tmp_path, seed=seed) for seed in range(3)]
    damage(paths[1], kind)
    runs, damaged = scan([tmp_path])
    assert [run.path for run in runs] == [paths[0], paths[2]]
    assert len(damaged) == 1
    assert str(damaged[0]).startswith(str(paths[1]))
    assert reason in str(damaged[0])


@pytest.mark.parametrize("there_before", [False, True])
def test_what_is_no_run_in_a_folder_made_for_such_is_passed_over(tmp_path, there_before):
    """And no run that comes to lie in it, or beside it, at any depth."""
    runs, figures = [stored(tmp_path)], tmp_path / "of" / "today"
    if there_before:
        figures.mkdir(parents=True)
    foreign_folder(figures)
    (figures / "events").mkdir()
    for file in (figures / "curve.svg", figures / "events" / "1"):
        file.touch()
    for folder in (None, figures, figures / "more" / "runs", tmp_path / "of"):
        if folder is not None:
            runs.append(stored(folder, seed=len(runs)))
        found, damaged = scan([tmp_path])
        assert {run.path for run in found} == set(runs)
        assert damaged == []


def test_a_folder_made_for_other_things_that_holds_runs_makes_its_neighbours_suspicious(tmp_path):
    foreign_folder(tmp_path / "of" / "figures")
    stored(tmp_path / "of" / "figures")
    (tmp_path / "of" / "lost").mkdir()
    (tmp_path / "of" / "lost" / "notes.txt").touch()
    assert [str(error) for error in scan([tmp_path]).damaged] == [
        f"{tmp_path}/of/lost: neither a run nor a folder of runs"
    ]


def test_a_folder_that_holds_something_is_not_marked_as_foreign(tmp_path):
    """What else is in it is as suspicious as before."""
    run = stored(tmp_path / "mine")
    (tmp_path / "mine" / "lost").mkdir()
    (tmp_path / "mine" / "lost" / "notes.txt").touch()
    foreign_folder(tmp_path / "mine")
    found, damaged = scan([tmp_path])
    assert [run.path for run in found] == [run]
    assert [str(error) for error in damaged] == [f"{tmp_path}/mine/lost: neither a run nor a folder of runs"]


def test_the_metrics_of_a_run_that_is_not_finished_are_checked_too(tmp_path):
    path = stored(tmp_path, "running")
    (path / "metrics.jsonl").write_text("?\n" + '{"epoch": 1}\n')
    assert [str(error) for error in scan([tmp_path]).damaged] == [
        f"{path}/metrics.jsonl:1: not a row of metrics"
    ]


def test_runs_are_found_at_any_depth_once_and_in_the_order_of_their_names(tmp_path):
    later, sooner = timedelta(seconds=1), timedelta(seconds=-1)
    plain = stored(tmp_path)
    first = stored(tmp_path / "sweep" / "trials", at=NOON + sooner)
    last = stored(tmp_path / "a sweep", at=NOON + later)
    (tmp_path / "a sweep" / "sweep.json").write_text("{}")
    (tmp_path / "README.txt").touch()
    (tmp_path / "0 link").symlink_to(plain)
    (tmp_path / "file link").symlink_to(tmp_path / "README.txt")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "notes").touch()
    (tmp_path / "being created").mkdir()
    for paths in ([tmp_path], [plain, tmp_path, last], [tmp_path / "0 link", first.parent, tmp_path]):
        runs, damaged = scan(paths)
        assert damaged == []
        names = sorted(run.path.resolve().name for run in runs)
        assert names == [first.name, plain.name, last.name]
    assert [run.path for run in scan([tmp_path]).runs] == [first, plain, last]
    assert scan([tmp_path / "being created"]) == ([], [])


def test_a_run_knows_its_name_from_inside(tmp_path, monkeypatch):
    path = stored(tmp_path)
    monkeypatch.chdir(path)
    assert scan([Path()]).runs[0].name == path.name


def test_a_folder_that_is_not_there_is_named_with_the_nearest_that_is(tmp_path):
    path = stored(tmp_path)
    mistyped = path.with_name(path.name.replace("fdfa", "fdaf"))
    for look_up in (
        lambda: scan([mistyped]),
        lambda: RunFolder.open(mistyped),
        lambda: RunFolder.resume(mistyped, []),
    ):
        with pytest.raises(UsageError, match=f"no such folder, did you mean '{path.name}'"):
            look_up()
    with pytest.raises(UsageError, match="not a folder"):
        scan([path / "run.json"])


def test_only_one_small_file_of_a_finished_run_is_opened(tmp_path):
    for seed in range(20):
        stored(tmp_path, seed=seed)
    code = """
        import sys
        from pathlib import Path
        from fdfa_cli.storage import scan
        opened = []
        def watch(event, arguments):
            if event == "open" and sys.argv[1] in str(arguments[0]):
                opened.append(Path(arguments[0]).name)
        sys.addaudithook(watch)
        assert len(scan([Path(sys.argv[1])]).runs) == 20
        print(len(opened), *set(opened))
    """
    assert python(code, tmp_path).communicate()[0].split() == ["20", "run.json"]


def test_of_several_runs_of_one_identity_the_nearest_to_a_result_counts(tmp_path):
    order = ["completed", "running", "interrupted", "pruned", "diverged", "failed"]
    assert list(STATUSES) == order
    for i, status in enumerate(reversed(order)):
        if status not in ("running", "interrupted"):
            stored(tmp_path, status, at=NOON + timedelta(hours=i))
    newest = stored(tmp_path, "completed", at=NOON + timedelta(days=1))
    stored(tmp_path, "failed", at=NOON + timedelta(days=2))
    other = stored(tmp_path, "interrupted", identity="f" * 64)
    found = by_identity(reversed(scan([tmp_path]).runs))
    assert {identity: run.path for identity, run in found.items()} == {
        FACTS["identity"]: newest,
        "f" * 64: other,
    }


def test_a_record_comes_back_as_it_was():
    record = Record("diverged", "é ☃", "2026-01-02T12:00:00Z", FACTS, {"a": 1.5, "b": None}, [{"fdfa": "1"}])
    assert Record.parse(record.dump()) == record
    assert "é ☃" in record.dump().decode()


def test_the_store_does_not_import_torch(tmp_path):
    path = stored(tmp_path)
    code = """
        import sys
        from pathlib import Path
        from fdfa_cli.storage import RunFolder, scan
        RunFolder.resume(Path(sys.argv[1]), ["fdfa"]).close()
        scan([Path(sys.argv[1])])
        print(sorted({"torch", "numpy", "pydantic", "yaml"} & set(sys.modules)))
    """
    assert python(code, path).communicate()[0].strip() == "[]"
