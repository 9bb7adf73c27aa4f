"""Comparisons and sweeps that do not mislead: without test data, and where the best is not alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from test_compare import BASE, planned

from fdfa_cli import cli
from fdfa_cli.comparisons.result import ComparisonResult, result_of
from fdfa_cli.comparisons.table import across, for_people, for_programs
from fdfa_cli.document.load import parse
from fdfa_cli.recipe.write import dump, facts
from fdfa_cli.storage import RunFolder
from fdfa_cli.sweeps.plan import plan_sweep
from fdfa_cli.sweeps.result import SweepResult
from fdfa_cli.sweeps.result import result_of as sweep_result
from fdfa_cli.sweeps.table import as_json, table
from fdfa_cli.trials.plan import Trial
from fdfa_cli.trials.store import Store

SECTION = "  rules: [bp, dfa]\n  seeds: 3\n"


def trained(folder: Path, trial: Trial, *values: float | None, test: float | None = None) -> None:
    """A completed run with these validation accuracies; without one of test data unless it is given."""
    with RunFolder.create(folder, dump(trial.recipe), facts(trial.recipe), ["fdfa"], {"workers": 1}) as run:
        for epoch, value in enumerate(values, start=1):
            run.append({"epoch": epoch, "val_accuracy": value, "train_seconds": 1.0})
        run.update("completed", **({} if test is None else {"test_accuracy": test}))


def untested(folder: Path, *accuracies: tuple[float | None, ...]) -> ComparisonResult:
    """A comparison of runs without test data, one tuple of last validation accuracies a rule."""
    chosen = planned(SECTION)
    for configuration, values in zip(chosen.configurations.values(), accuracies, strict=True):
        for trial, value in zip(configuration.trials, values, strict=True):
            trained(folder, trial, value)
    return result_of(chosen, Store(folder))


def test_without_test_data_rules_are_compared_by_validation_and_it_says_so(tmp_path):
    bp, dfa = (0.91, 0.93, 0.92), (0.85, 0.88, 0.83)
    found = untested(tmp_path, bp, dfa)
    assert found.metric == "val_accuracy"
    assert found.rules[1].accuracy is not None
    assert found.rules[1].accuracy.mean == statistics.fmean(dfa)
    _, people = for_people(found)
    assert "val acc %" in [column.heading for column in people.columns]
    assert "no run has a test accuracy: rules are compared by their validation accuracy" in people.notes
    kept = found.as_json()["rules"]["dfa"]
    assert kept["val_accuracy"] == {"0": 0.85, "1": 0.88, "2": 0.83}
    assert kept["mean_val_accuracy"] == statistics.fmean(dfa)
    names = [column.name for column in for_programs([found]).columns]
    assert "mean_val_accuracy" in names
    assert "mean_test_accuracy" not in names
    assert across([found, found]).columns[1].heading == "IQM val acc %"


def test_without_any_accuracy_runs_are_counted_and_nothing_is_compared(tmp_path):
    found = untested(tmp_path, (None,) * 3, (None,) * 3)
    _, people = for_people(found)
    assert [row.statuses["completed"] for row in found.rules] == [3, 3]
    assert [row.accuracy for row in found.rules] == [None, None]
    assert any("no completed run has a test or validation accuracy" in note for note in people.notes)
    assert not any("below 3 runs" in note for note in people.notes)


def test_a_single_run_without_test_accuracy_does_not_change_what_is_compared(tmp_path):
    chosen = planned(SECTION)
    for rule, configuration in chosen.configurations.items():
        for trial in configuration.trials:
            missing = rule == "dfa" and trial.seed == 0
            trained(tmp_path, trial, 0.5, test=None if missing else 0.9)
    found = result_of(chosen, Store(tmp_path))
    assert found.metric == "test_accuracy"
    assert [len(row.accuracies) for row in found.rules] == [3, 2]


def swept(folder: Path, *accuracies: float) -> SweepResult:
    """A sweep of as many rates as accuracies, one seed each."""
    rates = [0.1 * (i + 1) for i in range(len(accuracies))]
    section = f"sweep: {{parameters: {{optimizer.lr: {{values: {rates}}}}}}}\n"
    chosen = plan_sweep(parse((BASE.replace("compare:\n", section)).encode(), "r.yaml"))
    for trial, value in zip(chosen.trials, accuracies, strict=True):
        trained(folder, trial, value)
    return sweep_result(chosen, Store(folder))


def test_configurations_that_tie_with_the_winner_are_named(tmp_path):
    found = swept(tmp_path, 0.8, 0.9, 0.7, 0.9)
    notes = table(found).notes
    assert "#2 and #4 tie for the best val accuracy; #2, the first of them, is the winner" in notes
    kept = as_json(found)
    assert (kept["winner"], kept["tied"]) == (2, [2, 4])
    json.dumps(kept)


def test_a_winner_alone_ties_with_none(tmp_path):
    found = swept(tmp_path, 0.8, 0.9, 0.7)
    assert not any("tie" in note for note in table(found).notes)
    assert as_json(found)["tied"] == []


def test_how_much_is_trained_is_said_in_whole_words(tmp_path, capsys):
    small = ["data.limit=64", "network.hidden=[4]", "training.epochs=1", "--results", str(tmp_path)]
    for rules, said in (
        ("bp", "digits/mlp: training 1 trial\n"),
        ("bp,dfa,fa", "digits/mlp: training 2 of 3 trials (1 has ended)\n"),
    ):
        assert cli.run(["compare", "digits/mlp", "--rules", rules, "--seeds", "1", *small]) == 0
        assert said in capsys.readouterr().err
