"""Reports that do not mislead: what is compared, averaged, drawn together or called best belongs together."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from plotted import swept
from scipy import stats
from stored import stored_run
from test_plots import draw

from fdfa_cli import cli
from fdfa_cli.commands.report import ReportFormat
from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.html import page
from fdfa_cli.report.plots import DoesNotApply
from fdfa_cli.report.plots.ranking import stacked
from fdfa_cli.report.query import Query
from fdfa_cli.storage import scan
from fdfa_cli.trials.announcement import Announcement, Purpose

BP, DFA = (0.91, 0.93, 0.92), (0.85, 0.88, 0.83)


def announce(folder: Path, purpose: Purpose) -> None:
    """Make the runs in `folder` those of the study `purpose`."""
    identities = frozenset(run.record.facts["identity"] for run in scan([folder]).runs)
    Announcement(len(identities), identities, purpose).write(folder)


def compared(folder: Path, *overrides: str, first: int = 0) -> None:
    """A comparison of bp and dfa under three seeds, as `fdfa compare` leaves it."""
    for i, (rule, values) in enumerate((("bp", BP), ("dfa", DFA))):
        for seed, value in enumerate(values):
            stored_run(
                folder, f"rule={rule}", f"training.seed={seed}", *overrides,
                second=first + 10 * i + seed, test_accuracy=value,
            )  # fmt: skip
    announce(folder, Purpose("compare", baseline="bp"))


def ask(capsys, *arguments: object, code: int = 0) -> str:
    assert cli.run(["report", *map(str, arguments)]) == code
    return capsys.readouterr().out


def rows_of(capsys, *arguments: object) -> list[dict]:
    return json.loads(ask(capsys, *arguments, "--format", "json"))


def made(results: Path, **query: tuple) -> str:
    """The page of the runs in `results`."""
    found = scan([results])
    return page(Catalog(found.runs), found.runs, Query(**query), found.damaged)


def summary(text: str) -> tuple[list[str], list[list[str]], str]:
    """Headings, cells and notes of a page's summary."""
    part = text[text.index('id="summary-grid"') : text.index('id="figures"')]
    headings = re.findall(r'<th role="columnheader"[^>]*><button type="button">([^<]*)</button>', part)
    cells = [re.findall(r'class="value">([^<]*)<', row) for row in part.split("<tr")[2:]]
    notes = "\n".join(html.unescape(note) for note in re.findall(r'<p class="note">([^<]*)</p>', part))
    return headings, cells, notes


# What others are compared with


def test_the_baseline_of_a_page_is_the_group_that_compare_trained(tmp_path):
    stored_run(tmp_path, "rule=bp", "training.epochs=5", test_accuracy=0.5)  # the first run of all
    compared(tmp_path / "c", "training.epochs=10", first=1)
    headings, rows, notes = summary(made(tmp_path))
    at, p = headings.index("− bp %"), headings.index("p")
    differences = [100 * (d - b) for b, d in zip(BP, DFA, strict=True)]
    half = stats.t.ppf(0.975, 2) * stats.sem(differences)
    assert [row[:3] for row in rows] == [["bp", "5", "1"], ["bp", "10", "3"], ["dfa", "10", "3"]]
    assert [row[at] for row in rows] == ["-", "-", f"{np.mean(differences):+.2f} ± {half:.2f}"]
    assert rows[2][p] == f"{stats.ttest_rel(DFA, BP).pvalue:.4f}"
    assert "baseline: bp, epochs 10" in notes


def test_every_comparison_keeps_its_own_baseline(tmp_path):
    for i, epochs in enumerate((10, 20)):
        compared(tmp_path / f"c{epochs}", f"training.epochs={epochs}", first=100 * i)
    headings, rows, _ = summary(made(tmp_path))
    differences = [row[headings.index("− bp %")] for row in rows]
    assert [row[:2] for row in rows] == [["bp", "10"], ["bp", "20"], ["dfa", "10"], ["dfa", "20"]]
    assert differences[:2] == ["-", "-"]
    assert differences[2] == differences[3] != "-"


def test_without_a_comparison_there_is_no_baseline_until_one_is_named(tmp_path, capsys):
    compared(tmp_path)
    (tmp_path / ".plan.json").unlink()
    headings, _, notes = summary(made(tmp_path))
    assert not [heading for heading in headings if heading.startswith("−") or heading == "p"]
    assert "no differences" in notes
    named = tmp_path / "page.html"
    ask(capsys, tmp_path, "--html", named, "--baseline", "rule=dfa")
    headings, rows, _ = summary(named.read_text())
    assert rows[0][headings.index("− dfa %")].startswith("+6.67 ± ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "rule=pepita", "--html", "page.html"], "fits no group"),
        (["--baseline", "data=digits", "--html", "page.html"], "fits 2 groups of digits, mlp: bp; dfa"),
        (["--baseline", "rul=bp", "--html", "page.html"], "did you mean 'rule'"),
        (["--baseline", "bp", "--html", "page.html"], "--baseline 'bp' is no condition"),
        (["--baseline", "rule=bp"], "it goes with --html"),
    ],
)
def test_a_baseline_that_is_no_single_group_is_a_usage_error(
    tmp_path, monkeypatch, capsys, arguments, message
):
    compared(tmp_path / "c")
    monkeypatch.chdir(tmp_path)
    assert cli.run(["report", "c", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_an_older_comparison_is_known_by_its_compare_json(tmp_path):
    compared(tmp_path)
    (tmp_path / ".plan.json").unlink()
    (tmp_path / "compare.json").write_text(json.dumps({"baseline": "dfa"}))
    headings, _, notes = summary(made(tmp_path))
    assert "− dfa %" in headings
    assert "baseline: dfa" in notes


# What is best


def test_every_task_has_a_best_of_its_own(tmp_path, capsys):
    for i, (data, rule, value) in enumerate(
        [("digits", "bp", 0.9), ("mnist", "bp", 0.99), ("digits", "dfa", 0.8), ("mnist", "dfa", 0.97)]
    ):
        stored_run(tmp_path, f"data={data}", f"rule={rule}", second=i, test_accuracy=value)
    for view in (["--group-by", "data,rule"], ["--columns", "data,rule,test_accuracy"]):
        lines = ask(capsys, tmp_path, *view, "--format", "latex").splitlines()
        body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
        bold = [line.split(" & ")[0] for line in body if r"\textbf" in line]
        assert sorted(bold) == ["digits", "mnist"]
        assert all(line.split(" & ")[1] == "bp" for line in body if r"\textbf" in line)


def test_a_mean_over_several_data_sets_is_no_better_than_that_of_one(tmp_path, capsys):
    for i, (data, rule, value) in enumerate(
        [("digits", "bp", 0.5), ("mnist", "bp", 0.6), ("digits", "dfa", 0.8)]
    ):
        stored_run(tmp_path, f"data={data}", f"rule={rule}", second=i, test_accuracy=value)
    assert r"\textbf" not in ask(capsys, tmp_path, "--group-by", "rule", "--format", "latex")


def test_means_that_tie_are_both_best_and_the_ranking_says_so(tmp_path, capsys):
    for i, (rule, value) in enumerate([("bp", 0.9), ("dfa", 0.900001), ("fa", 0.8)]):
        stored_run(tmp_path, f"rule={rule}", second=i, test_accuracy=value)
    latex = ask(capsys, tmp_path, "--group-by", "rule", "--format", "latex")
    assert latex.count(r"\textbf{90.00}") == 2
    assert "dfa and bp are equally good to the digits that tables show" in draw(tmp_path, "ranking").caption


# Figures and columns of a sweep


def sweep(folder: Path, *overrides: str, first: int = 0, keys: tuple[str, ...] = ("optimizer.lr",)) -> None:
    """A sweep over three rates in no order, two seeds each."""
    for i, rate in enumerate((0.0003, 0.0001, 0.001)):
        for seed in range(2):
            stored_run(
                folder, f"optimizer.lr={rate}", f"training.seed={seed}", *overrides,
                second=first + 10 * i + seed, test_accuracy=0.5 + i / 10,
            )  # fmt: skip
    swept(folder, *keys)


def test_only_what_a_sweep_varied_is_drawn_and_within_that_sweep(tmp_path):
    stored_run(tmp_path, "optimizer.lr=0.1", "training.epochs=30", curve=(0.1, 0.99), test_accuracy=0.99)
    stored_run(tmp_path, "network.hidden=[8]", curve=(0.1, 0.98), second=1, test_accuracy=0.98)
    sweep(tmp_path / "s", "training.epochs=4", first=10)
    # Trained in the folder of the sweep, but not by it as it was last started.
    stored_run(tmp_path / "s", "optimizer.lr=0.5", "training.epochs=4", curve=(0.1, 0.97), second=90)
    figure = draw(tmp_path, "sweep-response").figure
    assert [axes.get_xlabel() for axes in figure.axes] == ["optimizer.lr"]
    dots, best = (line.get_data() for line in figure.axes[0].lines)
    np.testing.assert_allclose(sorted(dots[0]), [0.0001, 0.0003, 0.001])
    assert max(dots[1]) == max(best[1]) == 75
    with pytest.raises(DoesNotApply, match="no two parameters were swept together"):
        draw(tmp_path, "sweep-interaction")


def test_without_a_sweep_nothing_is_drawn_of_parameters(tmp_path):
    for i, (rate, width) in enumerate([(0.1, 8), (0.1, 16), (0.2, 8), (0.2, 16)]):
        stored_run(tmp_path, f"optimizer.lr={rate}", f"network.hidden=[{width}]", second=i)
    announce(tmp_path, Purpose("compare", baseline="bp"))
    for name in ("sweep-response", "sweep-interaction", "variance"):
        with pytest.raises(DoesNotApply, match="no sweep"):
            draw(tmp_path, name)


def test_two_sweeps_are_two_lines_by_the_names_of_their_folders(tmp_path):
    for i, name in enumerate(("one", "two")):
        sweep(tmp_path / name, f"training.epochs={4 + i}", first=100 * i)
    figure = draw(tmp_path, "sweep-response").figure
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one: bp", "two: bp"]


def test_a_sweep_of_an_older_version_is_known_by_its_sweep_json(tmp_path):
    sweep(tmp_path, keys=())
    (tmp_path / ".plan.json").unlink()
    content = {"configurations": [{"number": 1, "overrides": {"optimizer.lr": 0.1}}]}
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    assert [axes.get_xlabel() for axes in draw(tmp_path, "sweep-response").figure.axes] == ["optimizer.lr"]


def test_cells_of_a_heat_map_that_tie_are_all_framed(tmp_path):
    for i, (rate, width) in enumerate([(0.1, 8), (0.1, 16), (0.2, 8), (0.2, 16)]):
        curve = (0.1, 0.9 if i in (1, 2) else 0.5)
        stored_run(tmp_path, f"optimizer.lr={rate}", f"network.hidden=[{width}]", curve=curve, second=i)
    swept(tmp_path, "optimizer.lr", "network.hidden")
    axes = draw(tmp_path, "sweep-interaction").figure.axes[0]
    framed = {patch.get_xy() for patch in axes.patches if patch.get_linewidth() > 2}
    assert framed == {(-0.5, 0.5), (0.5, -0.5)}


def test_what_a_sweep_varied_is_a_column_and_its_rows_are_in_the_order_of_the_values(tmp_path, capsys):
    sweep(tmp_path)
    heading, *rows = ask(capsys, tmp_path).splitlines()[:7]
    at = heading.split().index("optimizer.lr")
    assert [row.split()[at] for row in rows] == ["0.0001", "0.0001", "0.0003", "0.0003", "0.001", "0.001"]
    assert {row["optimizer.lr"] for row in rows_of(capsys, tmp_path)} == {0.0001, 0.0003, 0.001}
    assert "optimizer.lr" in rows_of(capsys, tmp_path, "--rows", "epochs")[0]
    grouped = rows_of(capsys, tmp_path, "--group-by", "optimizer.lr")
    assert [row["optimizer.lr"] for row in grouped] == [0.0001, 0.0003, 0.001]
    _, cells, _ = summary(made(tmp_path))
    assert [row[1] for row in cells] == ["0.0001", "0.0003", "0.001"]


def test_a_search_that_tried_every_rule_once_still_shows_what_it_varied(tmp_path, capsys):
    for i, (rule, rate) in enumerate((("bp", 0.2), ("dfa", 0.1))):
        stored_run(tmp_path, f"rule={rule}", f"optimizer.lr={rate}", second=i)
    assert "optimizer.lr" not in ask(capsys, tmp_path)  # one setting a rule: nothing was varied
    swept(tmp_path, "rule", "optimizer.lr")
    assert "optimizer.lr" in ask(capsys, tmp_path)


def test_settings_are_sorted_by_the_numbers_in_them(tmp_path, capsys):
    for i, width in enumerate((128, 16, 8)):
        stored_run(tmp_path, f"network.hidden=[{width}, 2]", second=i)
    rows = rows_of(capsys, tmp_path, "--group-by", "network.hidden")
    assert [row["network.hidden"] for row in rows] == ["[8, 2]", "[16, 2]", "[128, 2]"]


def test_of_many_settings_a_note_names_those_without_a_column(tmp_path, capsys):
    changed = [f"optimizer.{name}" for name in ("lr=0.1", "eps=0.1", "weight_decay=0.1")]
    changed += [f"data.{name}" for name in ("limit=9", "validation=9", "split_seed=9", "crop_padding=9")]
    for i, overrides in enumerate(((), changed)):
        stored_run(tmp_path, *overrides, second=i)
    out = ask(capsys, tmp_path)
    assert "the runs also differ in optimizer.eps: --columns shows them" in out or (
        "the runs also differ in optimizer.weight_decay: --columns shows them" in out
    )
    assert {override.split("=")[0] for override in changed} <= rows_of(capsys, tmp_path)[0].keys()


# The search before a comparison


def tuned(folder: Path) -> None:
    """A comparison, and in its folder `tuning` the search before it: what it chose, and worse."""
    compared(folder)
    for i, (rule, rate) in enumerate((("bp", 0.001), ("bp", 0.5), ("dfa", 0.001), ("dfa", 0.5))):
        stored_run(
            folder / "tuning", f"rule={rule}", f"optimizer.lr={rate}", "training.seed=3",
            second=50 + i, test_accuracy=0.3,
        )  # fmt: skip
    announce(folder / "tuning", Purpose("tuning", varied=("optimizer.lr",)))


def test_runs_of_the_search_before_a_comparison_are_not_averaged_with_its_own(tmp_path, capsys):
    tuned(tmp_path)
    rows = rows_of(capsys, tmp_path, "--group-by", "rule")
    assert [(row["rule"], row["n"]) for row in rows] == [("bp", 3), ("dfa", 3)]
    assert rows[0]["test_accuracy"] == pytest.approx(np.mean(BP))
    assert "4 runs of the search before a comparison" in ask(capsys, tmp_path, "--group-by", "rule")
    _, cells, notes = summary(made(tmp_path))
    assert [row[:2] for row in cells] == [["bp", "3"], ["dfa", "3"]]
    assert "4 runs of the search before a comparison" in notes


def test_the_search_is_averaged_where_it_is_asked_for(tmp_path, capsys):
    tuned(tmp_path)
    rows = rows_of(capsys, tmp_path / "tuning", "--group-by", "rule,optimizer.lr")
    assert [row["n"] for row in rows] == [1, 1, 1, 1]
    rows = rows_of(capsys, tmp_path, "--group-by", "study,rule")
    name = tmp_path.name
    assert [(row["study"], row["rule"], row["n"]) for row in rows] == [
        (name, "bp", 3), (name, "dfa", 3), (f"{name}/tuning", "bp", 2), (f"{name}/tuning", "dfa", 2)
    ]  # fmt: skip
    assert f"{name}/tuning" in ask(capsys, tmp_path)


def test_commands_say_what_the_runs_in_their_folders_are_for(tmp_path, capsys):
    small = ["data.limit=100", "network.hidden=[4]", "training.epochs=1", "-q", "--results", str(tmp_path)]
    assert cli.run(
        ["compare", "digits/mlp", "--rules", "dfa,bp", "--seeds", "1", "--tune", "--budget", "2", *small]
    ) == 0  # fmt: skip
    recipe = tmp_path / "s.yaml"
    recipe.write_text(
        "data: digits\nnetwork: mlp\nrule: bp\nsweep: {parameters: {optimizer.lr: [0.1, 0.2]}}\n"
    )
    text = recipe.read_text().replace("[0.1, 0.2]", "{values: [0.1, 0.2]}")
    recipe.write_text(text)
    assert cli.run(["sweep", str(recipe), "--engine", "serial", *small]) == 0
    capsys.readouterr()
    found = {}
    for run in scan([tmp_path]).runs:
        announced = Announcement.read(run.path.parent)
        assert announced is not None
        assert announced.purpose is not None
        assert run.record.facts["identity"] in announced.identities
        found[announced.purpose.kind] = announced.purpose
    assert found == {
        "compare": Purpose("compare", (), "dfa"),
        "tuning": Purpose("tuning", ("optimizer.lr", "rule.feedback_rate")),
        "sweep": Purpose("sweep", ("optimizer.lr",)),
    }


# Accuracies are fractions of one


@pytest.mark.parametrize(
    ("condition", "count", "hint"),
    [
        ("test_accuracy>95", 0, "write test_accuracy>0.95 or test_accuracy>95%"),
        ("test_accuracy<95", 2, "write test_accuracy<0.95 or test_accuracy<95%"),
        ("val_accuracy=75", 0, "write val_accuracy=0.75 or val_accuracy=75%"),
        ("test_accuracy>95%", 1, ""),
        ("test_accuracy=97.2 %", 1, ""),
        ("test_accuracy>=0.9", 2, ""),
        ("test_accuracy<=100%", 2, ""),
        ("train_seconds>3", 2, ""),
    ],
)
def test_an_accuracy_may_be_in_percent_and_a_bound_above_one_is_remarked_on(
    tmp_path, capsys, condition, count, hint
):
    for i, value in enumerate((0.9, 0.972)):
        stored_run(tmp_path, second=i, test_accuracy=value)
    assert cli.run(["report", str(tmp_path), "--where", condition, "--format", "json"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == count
    assert (hint in said.err) if hint else ("fraction" not in said.err)


@pytest.mark.parametrize("condition", ["test_accuracy>high", "test_accuracy>%", "seed>95%"])
def test_what_is_no_number_is_refused_in_words(tmp_path, capsys, condition):
    stored_run(tmp_path, test_accuracy=0.5)
    assert cli.run(["report", str(tmp_path), "--where", condition]) == 2
    said = capsys.readouterr().err
    assert " is a number, and " in said
    assert ("or 95%" in said) == condition.startswith("test_accuracy")


# How many runs there are


def test_equal_runs_are_drawn_beside_each_other(tmp_path):
    for seed in range(5):
        stored_run(tmp_path, "rule=bp", f"training.seed={seed}", second=seed, test_accuracy=0.9)
    stored_run(tmp_path, "rule=dfa", second=9, test_accuracy=0.5)
    axes = draw(tmp_path, "ranking").figure.axes[0]
    dots = {
        (x, y)
        for line in axes.lines
        if line.get_marker() == "o"
        for x, y in zip(*line.get_data(), strict=True)
    }
    assert len(dots) == 6
    assert all(abs(y - round(y)) <= 0.4 for _, y in dots)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bp (n=5)", "dfa (n=1)"]


def test_stacks_are_deterministic_and_no_two_near_points_share_a_place():
    generator = np.random.default_rng(0)
    for n in (1, 2, 5, 40):
        values = np.round(generator.uniform(0, 1, n), 1).tolist()
        offsets = stacked(values, 0.01)
        assert offsets == stacked(values, 0.01)
        assert len(set(zip(values, offsets, strict=True))) == n
        assert max(map(abs, offsets)) <= 0.4
    assert stacked([0.1, 0.5, 0.9], 0.01) == [0, 0, 0]


def test_one_seed_beside_several_is_said_once_in_plain_words(tmp_path, capsys):
    for seed in range(4):
        stored_run(tmp_path, "rule=bp", f"training.seed={seed}", second=seed, test_accuracy=0.9 + seed / 100)
    stored_run(tmp_path, "rule=dfa", second=9, test_accuracy=0.5)
    stored_run(tmp_path, "rule=dfa", second=10, test_accuracy=0.6)
    out = ask(capsys, tmp_path, "--group-by", "rule")
    assert out.count("no interval below 3 runs: these are too few to estimate how much runs vary") == 1
    assert "1 run repeats the recipe and seed of another and is not counted twice" in out
    assert [line.split() for line in out.splitlines() if line.startswith("dfa")] == [["dfa", "1", "60.00"]]


# Text that would act


NAMES = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "a\x1b[31mred\x1b[0m", "two\nlines", "\x9b31m", "\u202eevil")


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_folder_acts_in_any_format(tmp_path, capsys, name):
    path = stored_run(tmp_path, status="failed", error=f"{name} is the reason\x07")
    path.rename(tmp_path / name)
    stored_run(tmp_path, second=1, test_accuracy=0.5)
    for format in ReportFormat:
        for view in ((), ("--rows", "epochs"), ("--columns", "run,error,path")):
            out = ask(capsys, tmp_path, "--format", format, *view)
            assert not [c for c in out if c != "\n" and not c.isprintable()], (format, view)
    table = list(csv.reader(io.StringIO(ask(capsys, tmp_path, "--columns", "run,error", "--format", "csv"))))
    assert all(len(row) == 2 for row in table)
    assert not [cell for row in table for cell in row if cell.lstrip()[:1] in tuple("=+-@")]
    for row in json.loads(ask(capsys, tmp_path, "--format", "json")):
        assert row["run"] in (name, path.name) or (tmp_path / row["run"]).is_dir()
    ask(capsys, tmp_path, "--html", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert not [c for c in text if c not in "\n\xa0" and not c.isprintable()]


def test_negative_numbers_stay_numbers_in_csv(tmp_path, capsys):
    stored_run(tmp_path, rows=[{"epoch": 3, "val_loss": -1.5}])
    rows = list(csv.DictReader(io.StringIO(ask(capsys, tmp_path, "--rows", "epochs", "--format", "csv"))))
    assert rows[-1]["val_loss"] == "-1.5"


@pytest.mark.parametrize("name", [n for n in NAMES if "\x1b" in n or "\n" in n or "\x9b" in n])
def test_no_control_character_of_a_name_reaches_the_terminal_by_a_message(tmp_path, capsys, name):
    stored_run(tmp_path).rename(tmp_path / name)
    (tmp_path / name / "run.json").write_text("{")
    assert cli.run(["report", str(tmp_path)]) == 1
    assert cli.run(["report", str(tmp_path / name / "gone")]) == 2
    assert cli.run(["report", str(tmp_path), "--where", f"rule={name}"]) in (0, 1)
    said = capsys.readouterr()
    assert not [c for c in said.out + said.err if c != "\n" and not c.isprintable()]


def test_names_that_are_too_long_are_a_usage_error(tmp_path, capsys):
    stored_run(tmp_path)
    long = "x" * 300
    for arguments in (
        [tmp_path, "--html", tmp_path / long],
        [tmp_path, "--plots", tmp_path / long],
        [tmp_path, "--tensorboard", tmp_path / long],
    ):
        assert cli.run(["report", *map(str, arguments)]) == 2, arguments
    assert "File name too long" in capsys.readouterr().err
