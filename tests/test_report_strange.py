"""Runs that are valid and unusual: each is shown in every format, table, page and figure."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plotted import swept
from stored import stored_run

from fdfa_cli import cli
from fdfa_cli.commands.report import ReportFormat


def probe(epoch: float, *blocks: dict[str, Any]) -> dict[str, Any]:
    numbered = [{"block": i, **block} for i, block in enumerate(blocks, 1)]
    return {"step": int(10 * epoch), "epoch": epoch, "seconds": 0.1, "blocks": numbered, "phases": {}}


def alike(results: Path, **run: Any) -> None:
    """Two rules, three seeds each, of runs that are all stored like this."""
    for i, rule in enumerate(("bp", "dfa")):
        for seed in range(3):
            stored_run(results, f"rule={rule}", f"training.seed={seed}", second=10 * i + seed, **run)


def diagnosed(results: Path) -> None:
    """Diagnostics that differ: other figures, other blocks, none at all, and an empty probe."""
    first = [
        probe(0, {"weight_cosine": 0.1, "variance": 0.0}),
        probe(1, {"signal_cosine": 0.1}, {"snr": None}),
    ]
    stored_run(results, "rule=bp", curve=(), rows=[{"epoch": 1, "diagnostics": first}])
    rows: list[dict[str, Any]] = [{"epoch": 1, "diagnostics": [probe(0)]}, {"epoch": 2, "diagnostics": []}]
    stored_run(results, "rule=dfa", second=1, curve=(), rows=rows)
    stored_run(results, "rule=fa", second=2, curve=(), rows=[{"epoch": 1}])


def uneven(results: Path) -> None:
    """Seeds with three epochs, with one whose metric was not finite, and with none."""
    for seed, curve in enumerate(((0.1, 0.2, 0.3), (None,), ())):
        stored_run(results, f"training.seed={seed}", second=seed, curve=curve)


def lists(results: Path) -> None:
    """A sweep over lists of words, one of them empty, with a variance for each."""
    rows = [{"epoch": 1, "val_accuracy": 0.5, "diagnostics": [probe(0, {"variance": 1.0})]}]
    for i, augment in enumerate(("[]", "[flip]", "[crop,flip]")):
        stored_run(results, f"data.augment={augment}", second=i, curve=(), rows=rows)
    swept(results, "data.augment")


def nulls(results: Path) -> None:
    """A sweep over a key that is null in one configuration, and over a section."""
    for i, limit in enumerate(("null", "100", "200")):
        stored_run(results, f"data.limit={limit}", f"optimizer={('adam', 'sgd', 'adam')[i]}", second=i)
    swept(results, "data.limit", "optimizer")


def extreme(results: Path) -> None:
    """Losses at the ends of what can be stored."""
    for seed, loss in enumerate((9e149, -9e149, 9e149)):
        stored_run(
            results, f"training.seed={seed}", second=seed, curve=(), rows=[{"epoch": 1, "val_loss": loss}]
        )
    for seed in range(3):
        tiny = [{"epoch": 1, "val_loss": 1e-200 * (seed + 1)}]
        stored_run(results, "rule=dfa", f"training.seed={seed}", second=10 + seed, curve=(), rows=tiny)


STRANGE: dict[str, Callable[[Path], None]] = {
    "no test set": alike,
    "no validation set": lambda results: alike(results, curve=(), rows=[{"epoch": 1, "train_loss": 1.0}]),
    "nothing finite": lambda results: alike(
        results,
        curve=(),
        rows=[{"epoch": 1, "train_loss": None, "val_accuracy": None, "train_seconds": None}],
    ),
    "no epoch": lambda results: alike(results, curve=()),
    "all failed at once": lambda results: alike(results, curve=(), status="failed", error="no memory"),
    "one epoch": lambda results: alike(results, curve=(0.5,), test_accuracy=0.5),
    "no metric": lambda results: alike(results, curve=(), rows=[{"epoch": 1}]),
    "diagnostics": diagnosed,
    "uneven": uneven,
    "lists": lists,
    "nulls": nulls,
    "extreme": extreme,
}
VIEWS = (
    (),
    ("--group-by", "rule"),
    ("--group-by", "rule,seed,training.epochs"),
    ("--group-by", "rule", "--metric", "train_loss,val_loss,test_loss,train_seconds,epochs"),
    ("--group-by", "rule", "--columns", "rule,n,curve,peak_memory_bytes"),
    ("--rows", "epochs"),
    ("--rows", "diagnostics"),
    ("--columns", "run,curve,test_accuracy,optimizer.lr"),
    ("--sort", "-test_accuracy,val_loss"),
)


@pytest.mark.parametrize("case", STRANGE)
def test_every_table_is_made_of(tmp_path, capsys, case):
    STRANGE[case](tmp_path)
    for view in VIEWS:
        for format in ReportFormat:
            assert cli.run(["report", str(tmp_path), *view, "--format", format]) == 0, (view, format)
            said = capsys.readouterr()
            assert said.out
            if format is ReportFormat.json:
                json.loads(said.out)


@pytest.mark.parametrize("case", STRANGE)
def test_page_and_figures_are_made_of(tmp_path, capsys, case):
    STRANGE[case](tmp_path / "runs")
    page, plots = tmp_path / "page.html", tmp_path / "plots"
    arguments = ["--html", str(page), "--plots", str(plots), "--tensorboard", str(tmp_path / "board")]
    assert cli.run(["report", str(tmp_path / "runs"), *arguments]) == 0
    assert page.read_text().rstrip().endswith("</html>")
    assert not re.search(r"\b(nan|inf|None)\b", page.read_text())
    assert plots.is_dir()


def test_runs_without_test_accuracy_are_judged_by_what_they_have(tmp_path, capsys):
    alike(tmp_path)
    assert cli.run(["report", str(tmp_path), "--group-by", "rule", "--format", "json"]) == 0
    assert {row["val_accuracy"] for row in json.loads(capsys.readouterr().out)} == {0.75}


def test_a_metric_that_no_run_has_is_said_once(tmp_path, capsys):
    alike(tmp_path)
    assert cli.run(["report", str(tmp_path), "--group-by", "rule", "--metric", "test_accuracy"]) == 0
    assert capsys.readouterr().out.count("no completed run has test_accuracy") == 1


def test_a_stream_that_has_no_encoding_is_written_to(tmp_path, monkeypatch):
    stored_run(tmp_path, test_accuracy=0.5)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.run(["report", str(tmp_path)]) == 0
    assert "50.00" in stream.getvalue()
