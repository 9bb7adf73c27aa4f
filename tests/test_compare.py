"""Comparisons: what is trained, what the table says of it, and what it does not say."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from fdfa_cli.cli import run as fdfa
from fdfa_cli.comparisons.plan import ComparisonPlan, plan_comparison
from fdfa_cli.comparisons.result import ComparisonResult, result_of
from fdfa_cli.comparisons.table import across, for_people, for_programs
from fdfa_cli.comparisons.tuning import TUNED, candidates
from fdfa_cli.document.load import parse
from fdfa_cli.recipe.overrides import apply
from fdfa_cli.recipe.resolve import read, resolve
from fdfa_cli.recipe.write import dump, facts, identity
from fdfa_cli.rules.base import RULES
from fdfa_cli.storage import RunFolder, scan
from fdfa_cli.trials.plan import Trial
from fdfa_cli.trials.store import Store

BASE = """\
data: {name: digits, limit: 200}
network: {name: mlp, hidden: [8]}
rule: {name: fdfa, feedback_rate: 0.5}
training: {epochs: 2, batch_size: 50, device: cpu}
compare:
"""
SECTION = "  rules: [bp, dfa, fdfa]\n  seeds: 4\n"


def planned(section: str = SECTION) -> ComparisonPlan:
    return plan_comparison(parse((BASE + section).encode(), "r.yaml"), "r.yaml")


def stored(
    folder: Path,
    trial: Trial,
    status: str = "completed",
    test: float = 0.9,
    val: Sequence[float] = (0.5, 0.9),
    seconds: Sequence[float] = (1.0, 1.0),
    memory: int = 100,
    **environment: Any,
) -> None:
    """A run as a training would leave it, with made-up figures."""
    where = {"device": "cpu", "threads": 1, "workers": 1} | environment
    with RunFolder.create(folder, dump(trial.recipe), facts(trial.recipe), ["fdfa"], where) as run:
        for epoch, (accuracy, time) in enumerate(zip(val, seconds, strict=True), start=1):
            run.append({"epoch": epoch, "val_accuracy": accuracy, "train_seconds": time})
        best = {"best_val_accuracy": max(val), "test_accuracy": test, "peak_memory_bytes": memory}
        best["median_epoch_seconds"] = statistics.median(seconds)
        run.update(
            status, None if status == "completed" else "told", **(best if status == "completed" else {})
        )


def summary(
    folder: Path, figures: Mapping[str, Sequence[Mapping[str, Any]]], section: str = SECTION
) -> ComparisonResult:
    """The summary of made-up runs: for each rule, one mapping a seed."""
    chosen = planned(section)
    for rule, runs in figures.items():
        for trial, values in zip(chosen.configurations[rule].trials, runs, strict=False):
            stored(folder, trial, **values)
    return result_of(chosen, Store(folder))


# -------------------------------------------------------------------------------------------- plan


def test_each_rule_is_the_recipe_under_that_rule_with_what_it_recommends():
    section = "  rules: [bp, pepita, fdfa]\n  seeds: [3, 1]\n  overrides: {bp: {optimizer.lr: 0.02}}\n"
    chosen = planned(section)
    file = parse(BASE.replace("compare:\n", "").encode(), "r.yaml")
    expected = {
        "bp": ["rule=bp", "optimizer.lr=0.02"],
        "pepita": ["rule=pepita"],  # and so SGD, which it recommends
        "fdfa": [],  # and so the recipe's own feedback rate
    }
    assert list(chosen.configurations) == list(expected)
    for rule, overrides in expected.items():
        for seed, trial in zip((3, 1), chosen.configurations[rule].trials, strict=True):
            recipe = resolve(apply(file, [*overrides, f"training.seed={seed}"])).recipe
            assert trial.identity == identity(recipe)
    assert chosen.configurations["pepita"].trials[0].recipe.optimizer.name == "sgd"
    assert chosen.baseline == "bp"


def test_all_rules_are_those_that_are_registered():
    chosen = planned("  rules: all\n  seeds: 1\n  baseline: fdfa\n")
    assert chosen.rules == tuple(chosen.configurations) == tuple(RULES)
    assert {trial.recipe.rule.name for trial in chosen.trials} == set(RULES)


def test_trials_are_interleaved_by_seed_then_rule():
    assert [(t.seed, t.recipe.rule.name) for t in planned("  rules: [bp, dfa]\n  seeds: 2\n").trials] == [
        (0, "bp"),
        (0, "dfa"),
        (1, "bp"),
        (1, "dfa"),
    ]


@pytest.mark.parametrize(
    ("section", "place", "message"),
    [
        ("  rules: [bp, daf]\n", "6:15", "did you mean 'dfa'"),
        ("  rules: [bp, bp]\n", "6:15", "given twice"),
        ("  rules: []\n", "6:10", "must be 'all' or a list of at least 1, not an empty list"),
        ("  rules: al\n", "6:10", "not the text 'al', did you mean 'all'"),
        ("  rules: [bp, 3]\n", "6:15", "compare.rules.1 must be text, not 3"),
        ("  seeds: 3\n", "5:1", "compare has no rules"),
        ("  rules: [bp]\n  seeds: 0\n", "7:10", "at least 1"),
        ("  rules: [bp]\n  seeds: [2, 2]\n", "7:10", "given twice"),
        ("  rules: [bp]\n  baseline: dfa\n", "7:13", "not among the rules"),
        ("  rules: [bp]\n  overrides: {pb: {optimizer.lr: 1}}\n", "7:15", "unknown rule 'pb'"),
        ("  rules: [bp]\n  overrides: {bp: {optimizer.rate: 1}}\n", "7:36", "unknown option 'rate'"),
        ("  rules: [bp]\n  overrides: {bp: {optimizer.lr: fast}}\n", "7:34", "must be a number"),
        ("  rules: [bp]\n  overrides: {bp: {training.seed: 1}}\n", "7:20", "list the seeds"),
        ("  rules: [bp]\n  overrides: {bp: {rule: dfa}}\n", "7:20", "another entry"),
    ],
)
def test_a_malformed_section_is_located_and_nothing_starts(section, place, message, tmp_path, capsys):
    file = tmp_path / "r.yaml"
    file.write_text(BASE + section)
    assert fdfa(["compare", str(file), "--results", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert f"{file}:{place}: " in error
    assert message in error
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "2"], "no section compare"),
        (["--rules", "bp,daf"], "--rules: unknown rule 'daf', did you mean 'dfa'"),
        (["--rules", "bp,dfa", "--baseline", "fa"], "--baseline: the baseline 'fa' is not among the rules"),
        (["--rules", "bp", "--seeds", "0"], "--seeds: "),
        ([], "no section compare"),
        (["--rules", "bp", "--tune", "--budget", "1"], "--budget"),
        (["--rules", "bp", "--budget", "4"], "--budget is for --tune"),
    ],
)
def test_malformed_options_are_named(arguments, message, capsys):
    assert fdfa(["compare", "digits/mlp", *arguments]) == 2
    assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ summary


def test_figures_are_those_of_the_runs(tmp_path):
    test = {"bp": [0.95, 0.96, 0.97, 0.95], "dfa": [0.90, 0.93, 0.91, 0.90], "fdfa": [0.94, 0.97, 0.96, 0.95]}
    found = summary(
        tmp_path,
        {
            rule: [{"test": value, "seconds": (9, 2 + i), "memory": 100 * (i + 1)} for value in values]
            for i, (rule, values) in enumerate(test.items())
        },
    )
    rows = {row.rule: row for row in found.rules}
    p = {rule: scipy.stats.ttest_rel(test[rule], test["bp"]).pvalue for rule in ("dfa", "fdfa")}
    for rule, values in test.items():
        accuracy = rows[rule].accuracy
        assert accuracy is not None
        assert accuracy.mean == pytest.approx(statistics.fmean(values))
        assert accuracy.half == pytest.approx(scipy.stats.t.ppf(0.975, 3) * scipy.stats.sem(values))
    for rule, expected in p.items():
        difference = rows[rule].difference
        assert difference is not None
        assert difference.difference.mean == pytest.approx(
            statistics.fmean(a - b for a, b in zip(test[rule], test["bp"], strict=True))
        )
        assert difference.p == pytest.approx(expected)
    assert rows["dfa"].p_holm == pytest.approx(2 * p["dfa"])
    assert rows["fdfa"].p_holm == pytest.approx(max(2 * p["dfa"], p["fdfa"]))
    assert rows["bp"].difference is None
    # the median of (9, 2 + i): half of 11 + i
    assert [rows[rule].seconds_ratio for rule in test] == pytest.approx([1, 6 / 5.5, 6.5 / 5.5])
    assert [rows[rule].memory_ratio for rule in test] == [1, 2, 3]


def test_epochs_to_the_target_count_runs_that_never_get_there_as_late(tmp_path):
    # the baseline's best are 0.8 and 0.6 on average 0.7: the target is 0.665
    found = summary(
        tmp_path,
        {
            "bp": [{"val": (0.5, 0.8)}, {"val": (0.6, 0.6)}],
            "dfa": [{"val": (0.7, 0.1)}, {"val": (0.6, 0.67)}],
            "fdfa": [{"val": (0.1, 0.6)}, {"val": (0.1, 0.6)}],
        },
        "  rules: [bp, dfa, fdfa]\n  seeds: 2\n",
    )
    assert found.target == pytest.approx(0.665)
    assert [(row.epochs_to_target, row.reached) for row in found.rules] == [(None, 1), (1.5, 2), (None, 0)]


def test_below_three_runs_there_is_no_interval_and_it_says_why(tmp_path):
    found = summary(tmp_path, {rule: [{}, {}] for rule in ("bp", "dfa", "fdfa")}, SECTION.replace("4", "2"))
    _, table = for_people(found)
    assert "±" not in str(table.shown)
    assert any("no interval and no p below 3 runs" in note for note in table.notes)
    assert not any(column.name == "p_holm" for column in table.columns)


def test_a_large_p_is_not_called_no_difference(tmp_path):
    runs = [{"test": value} for value in (0.90, 0.91, 0.93, 0.92)]
    found = summary(tmp_path, {"bp": runs, "dfa": runs[::-1], "fdfa": runs[1:] + runs[:1]})
    _, table = for_people(found)
    assert all(row.p_holm is None or row.p_holm > 0.5 for row in found.rules)
    text = " ".join(table.notes)
    assert "no difference" not in text + str(table.rows)
    assert "no evidence of a difference, and no evidence that there is none" in text


def test_runs_that_did_not_complete_are_counted_and_not_averaged(tmp_path):
    ends = [{"test": 0.8}, {"status": "diverged"}, {"test": 0.9}, {"status": "failed"}]
    found = summary(tmp_path, {"bp": [{}] * 4, "dfa": ends, "fdfa": [{}] * 3})
    assert found.rules[1].statuses == Counter(completed=2, diverged=1, failed=1)
    assert found.rules[2].statuses == Counter(completed=3, missing=1)
    assert found.rules[1].accuracy is not None
    assert found.rules[1].accuracy.mean == pytest.approx(0.85)
    assert found.rules[1].difference is not None
    assert found.rules[1].difference.difference.n == 2
    _, table = for_people(found)
    names = [column.name for column in table.columns]
    assert [table.rows[i][names.index("n")] for i in range(3)] == [4, "2 of 4", "3 of 4"]
    assert [table.rows[i][names.index("diverged")] for i in range(3)] == [0, 1, 0]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({"workers": 2}, "at the same time as others"), ({"device": "other"}, "different machines")],
)
def test_times_are_not_compared_where_they_were_not_taken_alike(environment, reason, tmp_path):
    found = summary(tmp_path, {"bp": [{}] * 4, "dfa": [{}] * 4, "fdfa": [{}, {}, {}, environment]})
    assert reason in str(found.untimed)
    assert {row.seconds_ratio for row in found.rules} == {None}
    _, table = for_people(found)
    assert not {"seconds_ratio", "memory_ratio"} & {column.name for column in table.columns}
    assert any("not compared" in note and reason in note for note in table.notes)


def test_what_all_rules_share_is_named_once_above(tmp_path):
    section = "  rules: [bp, pepita]\n  seeds: 3\n"
    line, table = for_people(summary(tmp_path, {"bp": [{}] * 3, "pepita": [{}] * 3}, section))
    headings = [column.heading for column in table.columns]
    for shared in ("data digits", "network mlp", "epochs 2", "batch 50", "seeds 0-2"):
        assert shared in line
        assert shared.split()[0] not in headings
    assert {"optimizer", "lr"} <= set(headings)
    assert "optimizer" not in line


def test_several_tasks_are_aggregated_over_the_rules_they_share(tmp_path):
    one = summary(tmp_path / "a", {"bp": [{"test": t} for t in (0.1, 0.2, 0.3, 0.4)], "dfa": [{}] * 4})
    section = "  rules: [bp, dfa]\n  seeds: 4\n"
    two = summary(tmp_path / "b", {"bp": [{"test": 0.9}] * 4, "dfa": [{"test": 0.8}] * 4}, section)
    table = across([one, two])
    # bp: 0.1 … 0.4 and four 0.9; the middle four are 0.3, 0.4, 0.9, 0.9
    assert [row[0] for row in table.rows] == ["bp", "dfa"]
    assert table.shown[0][1].startswith("62.50 [")
    # dfa beats bp on the first task always, on the second never
    assert table.rows[1][2] == "0.50 [0.50, 0.50]"
    machine = for_programs([one, two])
    names = [column.name for column in machine.columns]
    assert len(machine.rows) == 5
    assert machine.rows[0][names.index("iqm")] == pytest.approx(0.625)
    assert machine.rows[2][names.index("iqm")] is None  # fdfa, which the second task lacks


# -------------------------------------------------------------------------------------- end to end

SMALL = ["data.limit=200", "network.hidden=[8]", "training.epochs=1", "training.batch_size=50"]


def compared(results: Path, *arguments: str) -> int:
    return fdfa(["compare", "digits/mlp", *SMALL, "--results", str(results), "--quiet", *arguments])


def test_only_what_is_missing_is_trained_and_the_folder_is_the_last_line(tmp_path, capsys):
    assert compared(tmp_path, "--rules", "bp,dfa", "--seeds", "2") == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    before = {run.path: run.record for run in scan([folder]).runs}
    assert len(before) == 4
    assert compared(tmp_path, "--rules", "bp,dfa,fdfa", "--seeds", "3") == 0
    after = {run.path: run.record for run in scan([folder]).runs}
    assert len(after) == 9
    assert before.items() <= after.items()


def test_every_format_says_the_same(tmp_path, capsys):
    options = ("--rules", "bp,dfa", "--seeds", "3")
    compared(tmp_path, *options)
    capsys.readouterr()
    assert compared(tmp_path, *options, "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    compared(tmp_path, *options, "--format", "csv")
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["rule"] for row in rows] == [row["rule"] for row in table] == ["bp", "dfa"]
    kept = json.loads(next(tmp_path.glob("*/compare.json")).read_text())["rules"]
    for row, line in zip(rows, table, strict=True):
        assert 0 <= row["mean_test_accuracy"] <= 1
        assert row["mean_test_accuracy"] == float(line["mean_test_accuracy"])
        assert row["mean_test_accuracy"] == kept[row["rule"]]["mean_test_accuracy"]
    for format, mark in (("markdown", "| rule |"), ("latex", r"\begin{tabular}"), ("table", "rule")):
        compared(tmp_path, *options, "--format", format)
        out = capsys.readouterr().out
        assert mark in out
        plus_minus = r"$\pm$" if format == "latex" else "±"
        assert f"{100 * rows[1]['mean_test_accuracy']:.2f} {plus_minus} " in out


def test_a_diverged_run_is_in_the_exit_code(tmp_path, capsys):
    assert compared(tmp_path, "--rules", "bp", "--seeds", "1", "optimizer={name: sgd, lr: 1e30}") == 1
    assert "diverged" in capsys.readouterr().out


def test_a_dry_run_trains_nothing(tmp_path, capsys):
    assert compared(tmp_path, "--rules", "bp,dfa", "--seeds", "3", "--dry-run") == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_tuning_shows_what_is_tried_for_each_rule(tmp_path, capsys):
    options = ("--rules", "bp,fdfa", "--seeds", "3", "--tune", "--budget", "4")
    assert compared(tmp_path, *options, "--dry-run") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert not list(tmp_path.iterdir())
    assert Counter((row[1], row[2:4] == ["as", "tuned"]) for row in rows) == {
        (rule, tuned): count for rule in ("bp", "fdfa") for tuned, count in ((False, 4), (True, 3))
    }
    assert compared(tmp_path, *options) == 0
    tried = {run.record.facts["identity"] for run in scan(tmp_path.glob("*/tuning")).runs}
    assert tried == {row[-1] for row in rows if row[2:4] != ["as", "tuned"]}


def test_tuning_gives_every_rule_the_same_budget_and_draws_in_bounds():
    chosen = planned()
    found = {rule: candidates(chosen, rule, 5) for rule in chosen.configurations}
    rates = {rule: [c.trials[0].recipe.optimizer.lr for c in several][1:] for rule, several in found.items()}
    assert {len(several) for several in found.values()} == {5}
    assert rates["bp"] == rates["dfa"] == rates["fdfa"]
    assert all(1e-5 <= rate <= 1 for rate in rates["bp"])
    for rule, several in found.items():
        assert several[0].overrides == chosen.configurations[rule].overrides  # its own settings come first
        assert {trial.seed for c in several for trial in c.trials} == {4}  # not one of 0 … 3
        assert ("rule.feedback_rate" in several[1].overrides) == (rule == "fdfa")
    assert set(TUNED) == {"optimizer.lr", "rule.feedback_rate"}


def test_tuning_chooses_by_validation_and_says_so(tmp_path, capsys):
    options = ("--rules", "bp,dfa", "--seeds", "2", "--tune", "--budget", "3")
    assert compared(tmp_path, *options) == 0
    printed = capsys.readouterr().out
    kept = json.loads(next(tmp_path.glob("*/compare.json")).read_text())
    assert (kept["tuning"]["budget"], kept["tuning"]["metric"]) == (3, "val_accuracy")
    assert "each rule was tuned by val_accuracy under seed 2, in 3 trainings" in printed
    for rule in ("bp", "dfa"):
        tried = [run for run in scan(tmp_path.glob("*/tuning")).runs if run.record.facts["rule"] == rule]
        assert len(tried) == 3
        scores = {
            read(str(run.path / "recipe.yaml")).recipe.optimizer.lr: run.record.summary["val_accuracy"] or 0
            for run in tried
        }
        own = read("digits/mlp", [f"rule={rule}"]).recipe.optimizer.lr
        chosen = kept["rules"][rule]["overrides"].get("optimizer.lr", own)
        assert scores[chosen] == max(scores.values())  # more than one may have it
        assert kept["tuning"]["chosen"][rule] == kept["rules"][rule]["overrides"]


def test_tuning_takes_eight_trainings_where_nothing_else_is_said(tmp_path):
    assert compared(tmp_path, "--rules", "bp", "--seeds", "1", "--tune") == 0
    assert json.loads(next(tmp_path.glob("*/compare.json")).read_text())["tuning"]["budget"] == 8
    assert len(scan(tmp_path.glob("*/tuning")).runs) == 8


def test_tasks_with_several_baselines_are_refused(tmp_path, capsys):
    files = []
    for name, rules in (("a", "[bp, dfa]"), ("b", "[dfa, bp]")):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(BASE + f"  rules: {rules}\n")
    assert fdfa(["compare", *map(str, files)]) == 2
    assert "give one --baseline" in capsys.readouterr().err
