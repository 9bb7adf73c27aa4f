"""Hostile run folders through every command that reads runs: no traceback, no hang, every whole run shown."""

from __future__ import annotations

import io
import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from hostile_runs import Made, make

from fdfa_cli import cli
from fdfa_cli.storage import RunFolder, scan

#: Seconds after which a command counts as hanging: many times what the slowest takes.
PATIENCE = 600

VIEWS = {
    "table": [],
    "json": ["--format", "json"],
    "csv": ["--format", "csv"],
    "markdown": ["--format", "markdown"],
    "latex": ["--format", "latex"],
    "epochs": ["--rows", "epochs", "--format", "json"],
    "epochs in a table": ["--rows", "epochs"],
    "diagnostics": ["--rows", "diagnostics", "--format", "csv"],
    "groups": ["--group-by", "rule,network", "--metric", "val_accuracy,train_loss", "--format", "json"],
    "groups by a key": ["--group-by", "optimizer.lr"],
    "curves": ["--group-by", "rule", "--columns", "rule,n,curve", "--metric", "val_loss"],
    "keys": ["--columns", "run,optimizer.lr,network.hidden,curve", "--sort", "-optimizer.lr"],
    "a condition": ["--where", "optimizer.lr>1e-9", "--format", "csv"],
}
#: Those in which a run has no row of its own, or not each has one.
GROUPED = {"diagnostics", "groups", "groups by a key", "curves"}


class Answer(NamedTuple):
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


@contextmanager
def patience() -> Iterator[None]:
    """Turns what waits for ever into a failure; a safety net, and no limit of time."""

    def hangs(number: int, frame: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fdfa(*arguments: object) -> Answer:
    """Runs a command in this process, so that whatever it does not handle is a failure of the test."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace") for _ in range(2))
    with patience(), redirect_stdout(out), redirect_stderr(err):
        code = cli.run(list(map(str, arguments)))
    found = []
    for stream in (out, err):
        stream.flush()
        found.append(stream.detach().getvalue().decode())
    return Answer(code, *found)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Made]]:
    folder = tmp_path_factory.mktemp("hostile") / "runs"
    folder.mkdir()
    made = list(make(folder, 150, seed=0))
    yield made
    for each in made:
        if not each.path.is_symlink():
            each.path.chmod(0o700)


def test_the_same_seed_gives_the_same_folders(tmp_path):
    def described(folder: Path) -> list[tuple[str, bool, str]]:
        folder.mkdir()
        return [(made.path.name, made.whole, made.how) for made in make(folder, 12, seed=3)]

    assert described(tmp_path / "a") == described(tmp_path / "b")


@pytest.mark.parametrize("view", VIEWS)
def test_every_report_shows_every_whole_run_and_names_the_others(hostile, view):
    answer = fdfa("report", hostile[0].path.parent, *VIEWS[view])
    assert answer.code == 1
    assert "these could not be read" in answer.err
    if view not in GROUPED:
        missing = [made.path.name for made in hostile if made.whole and made.path.name not in answer.out]
        assert missing == []
    if view == "groups":
        runs = [RunFolder.open(made.path) for made in hostile if made.whole]
        whole = sum(run.status == "completed" for run in runs)
        rule = runs[0].record.facts["rule"]
        (row,) = [row for row in json.loads(answer.out) if (row["rule"], row["network"]) == (rule, "mlp")]
        assert row["val_accuracy_n"] >= whole > 0


def test_what_cannot_be_read_is_neither_a_run_nor_unnamed(hostile):
    """Every folder is in the answer or among those that could not be read.

    In both only where its recipe or its metrics cannot be read, and are wanted.
    """
    answer = fdfa("report", hostile[0].path.parent, "--format", "json")
    shown = {row["run"] for row in json.loads(answer.out)}
    for made in hostile:
        named = f"{made.path}" in answer.err
        if made.path.name in shown:
            assert f"{made.path}/run.json" not in answer.err, made
            assert f"{made.path}: " not in answer.err, made
        elif made.how.startswith("folder: nested") or made.how.startswith("folder: linked"):
            continue  # it holds nothing, or leads to where the others are
        else:
            assert named, made


@pytest.mark.parametrize("option", ["--html", "--tensorboard", "--plots"])
def test_pages_figures_and_exports_are_made_of_the_others(hostile, tmp_path, option):
    if option == "--tensorboard":
        pytest.importorskip("tensorboard")
    target = tmp_path / "of" if option != "--html" else tmp_path / "page.html"
    answer = fdfa("report", hostile[0].path.parent, option, target)
    assert (answer.code, "these could not be read" in answer.err) == (1, True)
    whole = [made.path.name for made in hostile if made.whole]
    if option == "--html":
        text = target.read_text()
        assert [name for name in whole if name not in text] == []
    elif option == "--tensorboard":
        assert set(whole) <= {folder.name for folder in target.iterdir()}
    else:
        assert list(target.glob("*.svg"))


def test_every_run_is_gone_on_with_or_refused_with_a_sentence(tmp_path):
    for made in list(make(tmp_path, 60, seed=1)):
        answer = fdfa("train", "--resume", made.path, "--quiet")
        assert answer.code == 0 if made.whole else answer.code in (0, 1, 2), (made, answer)
        if answer.code:
            assert answer.err.startswith("fdfa: "), made
        if made.path.is_dir() and not made.path.is_symlink():
            made.path.chmod(0o700)


SWEEP = """\
data: {name: digits, limit: 100}
network: {name: mlp, hidden: [4]}
rule: bp
optimizer: {name: sgd, lr: 0.1}
training: {epochs: 2}
sweep:
  seeds: 2
  parameters:
    optimizer.lr: {values: [0.01, 0.1]}
"""


def test_a_sweep_trains_what_is_missing_beside_them(tmp_path):
    """Beside damaged copies of its own trials; what it has trained again is not called unreadable again."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(SWEEP)
    sweep = ("sweep", recipe, "--engine", "serial", "--quiet", "--results", tmp_path)
    first = fdfa(*sweep)
    assert first.code == 0
    folder = Path(first.out.splitlines()[-1])
    trials = [run.path for run in scan([folder]).runs]
    originals = shutil.copytree(folder, tmp_path / "originals")
    for path in trials:
        shutil.rmtree(path)
    made = list(make(folder, 40, seed=2, runs=[originals / path.name for path in trials]))
    for _ in range(2):
        answer = fdfa(*sweep)
        assert answer.code in (0, 1), answer.err
        assert "winner" in answer.out
    identities = {run.record.facts["identity"] for run in scan([folder]).runs if run.status == "completed"}
    assert {run.record.facts["identity"] for run in scan([originals]).runs} <= identities
    named = [line for line in answer.err.splitlines() if line.startswith("cannot be read")]
    for each in made:
        if each.how == "run.json: missing":
            assert not any(str(each.path) in line for line in named)
