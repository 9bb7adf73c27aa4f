"""Choosing, grouping and sorting stored runs; averages against numpy and scipy."""

from __future__ import annotations

import csv
import io
import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stored import stored_run

from fdfa_cli import cli
from fdfa_cli.document.load import parse
from fdfa_cli.recipe.resolve import read
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import dump
from fdfa_cli.report.select import Condition, SortKey, ordered
from fdfa_cli.report.sparkline import BLOCKS, GAP, mean_curve, sparkline

ACCURACIES = {"bp": (0.91, 0.93, 0.92, 0.95), "dfa": (0.85, 0.88, 0.83, 0.86)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To read only: two rules, four seeds each; one bp failed, one dfa diverged, and fdfa at two rates."""
    tmp_path = tmp_path_factory.mktemp("runs")
    number = 0
    for rule, values in ACCURACIES.items():
        for seed, value in enumerate(values):
            stored_run(tmp_path, f"rule={rule}", f"training.seed={seed}", second=number, test_accuracy=value)
            number += 1
    stored_run(tmp_path, "rule=bp", "training.seed=9", status="failed", error="out of memory", second=20)
    stored_run(tmp_path, "rule=dfa", "training.seed=9", status="diverged", error="not finite", second=21)
    for i, rate in enumerate(("1e-4", "3e-3")):
        stored_run(
            tmp_path,
            "rule=fdfa",
            f"optimizer.lr={rate}",
            f"training.seed={i}",
            second=30 + i,
            test_accuracy=0.9,
        )
    return tmp_path


def ask(capsys, *arguments: object) -> str:
    assert cli.run(["report", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def answers(capsys, *arguments: object) -> list[dict]:
    return json.loads(ask(capsys, *arguments, "--format", "json"))


# Conditions


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        ("rule=bp", 5),
        ("rule=bp,dfa", 10),
        ("rule!=bp,dfa", 2),
        ("rule==fdfa", 2),
        ("status=failed,diverged", 2),
        ("seed<2", 6),
        ("seed<=0", 3),
        ("test_accuracy>0.9", 4),  # 0.91 0.93 0.92 0.95; a bound itself is not above
        ("test_accuracy>=0.9", 6),
        ("test_accuracy!=0.9", 10),  # a run that has none meets it too
        ("optimizer.lr<1e-3", 1),
        ("optimizer.lr=0.0030", 1),
        ("optimizer.lr = 3e-3", 1),
        ("optimizer=adam", 12),
        ("optimizer.name=sgd", 0),
        ("network.hidden=[128, 128]", 12),
        ("network.hidden=[128,128],[3]", 12),
        ("training.seed=9", 2),
        ("rule.feedback_rate>0", 2),
        ("created>=2026-01-02T00:00:20Z", 4),
        ("epochs=2", 12),
    ],
)
def test_conditions_choose_runs(runs, capsys, condition, count):
    assert len(answers(capsys, runs, "--where", condition)) == count


def test_all_of_several_conditions_must_hold(runs, capsys):
    rows = answers(capsys, runs, "--where", "rule=bp", "--where", "seed>=2", "--where", "status=completed")
    assert [(row["rule"], row["seed"]) for row in rows] == [("bp", 2), ("bp", 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "rul=bp"], "unknown name 'rul', did you mean 'rule'?"),
        (["--where", "optimizer.lrr=1"], "did you mean 'optimizer.lr'?"),
        (["--group-by", "netwrk"], "did you mean 'network'?"),
        (["--group-by", "rule", "--metric", "test_acuracy"], "did you mean 'test_accuracy'?"),
        (["--sort", "-test_acc"], "unknown name 'test_acc'"),
        (["--columns", "run,stauts"], "did you mean 'status'?"),
        (["--rows", "epochs", "--columns", "epoch,val_acuracy"], "did you mean 'val_accuracy'?"),
        (["--where", "rule"], "is no condition"),
        (["--where", "rule="], "is no condition"),
        (["--where", "seed<1,2"], "< compares with one value"),
        (["--where", "seed<one"], "seed is a number, and 'one' is not"),
        (["--columns", "run,,rule"], "a name is missing"),
        (["--columns", "run,run"], "a name is given twice"),
        (["--group-by", "rule", "--metric", "device"], "device is no figure"),
        (["--group-by", "rule", "--rows", "epochs"], "does not go with --rows epochs"),
    ],
)
def test_what_is_asked_wrongly_is_a_usage_error(runs, capsys, arguments, message):
    assert cli.run(["report", str(runs), *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_a_value_that_no_run_has_is_said_on_stderr(runs, capsys):
    assert cli.run(["report", str(runs), "--where", "rule=fdaf", "--format", "json"]) == 0
    said = capsys.readouterr()
    assert said.out == "[]\n"
    assert "none of 12 runs has rule=fdaf, did you mean 'fdfa'? (rule: bp, dfa, fdfa)" in said.err


def test_recipes_are_read_only_for_a_dotted_key(runs, tmp_path, capsys):
    runs = shutil.copytree(runs, tmp_path / "runs")
    for recipe in runs.glob("*/recipe.yaml"):
        recipe.write_text("a: [1")
    assert len(answers(capsys, runs, "--where", "rule=bp", "--sort", "seed")) == 5
    assert cli.run(["report", str(runs), "--columns", "run,optimizer.lr"]) == 2


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_compared_as_python_does(value, bound):
    for sign, holds in (("=", value == bound), ("<", value < bound), (">=", value >= bound)):
        assert Condition.parse(f"x{sign}{bound!r}").holds(value) == holds


# Order and columns


def test_sorting_puts_what_has_no_value_last_either_way(runs, capsys):
    for sort, sign in (("-test_accuracy", -1), ("test_accuracy", 1)):
        found = [row["test_accuracy"] for row in answers(capsys, runs, "--sort", sort)]
        assert found[-2:] == [None, None]
        assert found[:-2] == sorted(found[:-2], key=lambda value: sign * value)


@given(st.lists(st.tuples(st.integers(0, 3) | st.none(), st.integers(0, 3))))
def test_sorting_by_several_keys_is_stable(pairs):
    keys = [SortKey.parse("-a"), SortKey.parse("b")]
    found = ordered(pairs, keys, lambda pair, name: pair["ab".index(name)])
    assert found == sorted(pairs, key=lambda p: (p[0] is None, -(p[0] or 0), p[1]))


def test_columns_are_exactly_those_asked_for(runs, capsys):
    out = ask(capsys, runs, "--columns", "rule,optimizer.lr,network.hidden,curve", "--format", "csv")
    first, *_, last = csv.reader(io.StringIO(out))
    assert first == ["rule", "optimizer.lr", "network.hidden", "curve"]
    assert last == ["fdfa", "0.003", "[128, 128]", "▁█"]


# Groups


def test_groups_average_as_numpy_and_scipy_do(runs, capsys):
    rows = {row["rule"]: row for row in answers(capsys, runs, "--group-by", "rule")}
    for rule, values in ACCURACIES.items():
        row = rows[rule]
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
        assert row["n"] == row["test_accuracy_n"] == 4
        assert row["test_accuracy"] == pytest.approx(np.mean(values), rel=1e-14)
        assert row["test_accuracy_half_width"] == pytest.approx(half, rel=1e-12)
        assert row["completed"] == 4
    assert (rows["bp"]["failed"], rows["dfa"]["diverged"]) == (1, 1)


def test_the_table_of_groups_counts_every_end_and_names_once_what_all_share(runs, capsys):
    out = ask(capsys, runs, "--group-by", "rule", "--where", "rule=bp,dfa").splitlines()
    assert out[0] == "data digits   network mlp   epochs 2   seeds 0-3"
    assert [line.split() for line in out[2:5]] == [
        ["rule", "n", "test", "acc", "%", "diverged", "failed"],
        ["bp", "4", "92.75", "±", "2.72", "0", "1"],
        ["dfa", "4", "85.50", "±", "3.31", "1", "0"],
    ]
    assert "10 runs: 8 completed, 1 diverged, 1 failed" in out
    assert "± 95 % Student-t interval over the completed runs of a group" in out
    assert any(line.endswith("failed: out of memory") for line in out)
    mixed = ask(capsys, runs, "--group-by", "network", "--where", "rule=bp,dfa").splitlines()
    assert mixed[0] == "data digits   epochs 2   seeds 0-3"  # each once, of the two rules' runs


def test_without_other_ends_there_are_no_columns_for_them(runs, capsys):
    out = ask(capsys, runs, "--group-by", "rule", "--where", "status=completed", "--where", "rule=bp,dfa")
    assert "failed" not in out
    assert "diverged" not in out


def test_below_three_runs_there_is_no_interval_and_it_says_why(runs, capsys):
    out = ask(capsys, runs, "--group-by", "rule", "--where", "seed<2", "--where", "rule=bp")
    assert "92.00" in out
    assert "92.00 ±" not in out
    assert "no interval below 3 runs: these are too few to estimate how much runs vary" in out


def test_runs_that_differ_in_more_than_their_seed_get_no_interval_and_it_names_the_settings(tmp_path, capsys):
    for seed in range(4):
        stored_run(
            tmp_path, "rule=bp", f"training.seed={seed}", f"optimizer.lr=1e-{2 + seed % 2}",
            test_accuracy=0.9, second=seed,
        )  # fmt: skip
    out = ask(capsys, tmp_path, "--group-by", "rule")
    assert "±" not in out
    assert "rule bp: runs differ in more than their seed (optimizer.lr), so no interval" in out
    out = ask(capsys, tmp_path, "--group-by", "rule,optimizer.lr", "--columns", "optimizer.lr,n")
    assert [line.split() for line in out.splitlines()[2:5]] == [
        ["optimizer.lr", "n"], ["0.001", "2"], ["0.01", "2"],
    ]  # fmt: skip


def test_runs_that_differ_only_in_where_they_computed_are_averaged(tmp_path, capsys):
    for seed in range(3):
        stored_run(
            tmp_path, "rule=bp", f"training.seed={seed}", f"training.threads={1 + seed}", test_accuracy=0.9,
            second=seed,
        )  # fmt: skip
    assert "90.00 ± 0.00" in ask(capsys, tmp_path, "--group-by", "rule")


def test_a_recipe_and_seed_trained_twice_counts_once(tmp_path, capsys):
    for i, value in enumerate((0.5, 0.7)):
        stored_run(tmp_path, "rule=bp", test_accuracy=value, second=i)
    stored_run(tmp_path, "rule=bp", status="failed", second=3)
    (row,) = answers(capsys, tmp_path, "--group-by", "rule")
    assert (row["n"], row["test_accuracy"], row["failed"]) == (1, 0.7, 0)
    assert "2 runs repeat the recipe and seed of another" in ask(capsys, tmp_path, "--group-by", "rule")


def test_groups_are_sorted_by_their_means(runs, capsys):
    rows = answers(capsys, runs, "--group-by", "rule", "--metric", "val_accuracy", "--sort", "-test_accuracy")
    assert [row["rule"] for row in rows] == ["bp", "fdfa", "dfa"]


def test_latex_sets_the_best_of_each_metric_in_bold(runs, capsys):
    lines = ask(
        capsys, runs, "--group-by", "rule", "--metric", "test_accuracy,train_loss,train_seconds",
        "--where", "rule=bp,dfa", "--format", "latex",
    ).splitlines()  # fmt: skip
    bp, dfa = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert bp == (
        r"bp & 4 & \textbf{92.75 $\pm$ 2.72} & \textbf{0.5000 $\pm$ 0.0000} & 4.0 $\pm$ 0.0 & 0 & 1 \\"
    )
    assert dfa.startswith(r"dfa & 4 & 85.50 $\pm$ 3.31 & \textbf{0.5000")  # as good as the other


# Curves


def test_sparklines_run_from_the_lowest_to_the_highest():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == BLOCKS
    assert sparkline([7, 0, None]) == f"{BLOCKS[-1]}{BLOCKS[0]}{GAP}"
    assert sparkline([0.3, 0.3]) == BLOCKS[0] * 2
    assert sparkline([5e-324, 0.0]) == f"{BLOCKS[-1]}{BLOCKS[0]}"
    assert sparkline([]) is sparkline([None]) is None


@given(st.lists(st.floats(0, 1), min_size=13, max_size=300))
def test_a_long_sparkline_keeps_its_ends(values):
    line = sparkline(values, 12)
    full = sparkline(values, len(values))
    assert len(line) == 12
    assert (line[0], line[-1]) == (full[0], full[-1])


def test_the_curve_of_a_group_is_the_mean_where_all_runs_are():
    curves = [[{"x": 1.0}, {"x": 3.0}, {"x": 9.0}], [{"x": 2.0}, {"x": None}]]
    assert mean_curve(curves, "x") == [1.5, None]


# Tidy


def test_a_row_an_epoch(runs, capsys):
    rows = answers(capsys, runs, "--rows", "epochs", "--where", "rule=bp", "--where", "seed<2")
    assert [(row["seed"], row["epoch"], row["val_accuracy"], row["train_loss"]) for row in rows] == [
        (0, 1, 0.5, 1.0), (0, 2, 0.75, 0.5), (1, 1, 0.5, 1.0), (1, 2, 0.75, 0.5),
    ]  # fmt: skip
    assert {(row["data"], row["network"], row["rule"], row["status"]) for row in rows} == {
        ("digits", "mlp", "bp", "completed")
    }


def test_a_row_an_epoch_may_hold_any_key_of_the_recipe(runs, capsys):
    out = ask(
        capsys, runs, "--rows", "epochs", "--columns", "epoch,optimizer.lr,val_accuracy",
        "--where", "rule=fdfa", "--sort", "-epoch,optimizer.lr", "--format", "csv",
    )  # fmt: skip
    assert out.splitlines() == [
        "epoch,optimizer.lr,val_accuracy", "2,0.0001,0.75", "2,0.003,0.75", "1,0.0001,0.5", "1,0.003,0.5",
    ]  # fmt: skip


def test_a_row_a_probed_block_and_one_of_the_whole_probe(tmp_path, capsys):
    probe = {
        "step": 0, "epoch": 0.0, "seconds": 0.25,
        "blocks": [{"block": 1, "signal_cosine": 0.5}, {"block": 2, "signal_cosine": None, "snr": 2.0}],
        "phases": {"forward": {"seconds": 0.01, "bytes": 7}},
    }  # fmt: skip
    row = {"epoch": 1, "train_loss": 1.0, "diagnostics": [probe, probe | {"step": 10, "epoch": 1.0}]}
    stored_run(tmp_path, "rule=dfa", curve=(), rows=[row])
    columns = "rule,step,epoch,block,signal_cosine,snr,seconds,forward_seconds,forward_bytes"
    out = ask(capsys, tmp_path, "--rows", "diagnostics", "--columns", columns, "--format", "csv")
    assert out.splitlines()[1:4] == ["dfa,0,0.0,,,,0.25,0.01,7", "dfa,0,0.0,1,0.5,,,,", "dfa,0,0.0,2,,2.0,,,"]
    assert len(out.splitlines()) == 7
    assert "diagnostics" not in ask(capsys, tmp_path, "--rows", "epochs", "--format", "csv")
    shutil.rmtree(next(tmp_path.iterdir()))
    stored_run(tmp_path, "rule=dfa")
    assert "no diagnostics" in ask(capsys, tmp_path, "--rows", "diagnostics")


# Stored recipes


@cache
def parsed() -> Recipe:
    return read("digits/mlp").recipe.single()


@given(st.text(max_size=12) | st.sampled_from(["on", "1e-3", "010", "1:30", "~", "0o7", "=", "<<", ".5"]))
def test_the_quick_reader_of_stored_recipes_reads_what_the_strict_one_does(text):
    recipe = parsed()
    optimizer = recipe.optimizer.model_copy(update={"lr": 1e-30})
    training = recipe.training.model_copy(update={"device": text})
    written = dump(recipe.model_copy(update={"optimizer": optimizer, "training": training}))
    assert yaml.load(written, yaml.CSafeLoader) == parse(written.encode(), "recipe.yaml").tree
