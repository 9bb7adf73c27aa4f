"""The report: what each format says, read back by something that is not its writer."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import random
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.cells import cell_len
from stored import stored_run

from fdfa_cli import cli
from fdfa_cli.commands.report import ReportFormat, report
from fdfa_cli.errors import RunDamaged, UsageError
from fdfa_cli.printable import printable
from fdfa_cli.report import export, terminal
from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.query import Query
from fdfa_cli.report.run_table import runs_table
from fdfa_cli.stats import Mean
from fdfa_cli.storage import RunFolder, scan
from fdfa_cli.tables import SUMMARY, Column, Table

HOSTILE = r"[bold red]a\[/]|b_c*d*`e`<i>&amp;{~}^$#%--\LaTeX"
PROGRAM = "import sys; from fdfa_cli.cli import run; sys.exit(run(['report', *sys.argv[1:]]))"


def store(
    results: Path,
    number: int = 0,
    status: str | None = "completed",
    error: str | None = None,
    accuracy: float = 0.9375,
    **facts: object,
) -> Path:
    """A run whose numbers follow from `number`."""
    facts = {"data": "digits", "network": "mlp", "rule": "fdfa", "seed": number, **facts}
    at = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=number)
    with RunFolder.create(
        results,
        "r",
        facts | {"identity": f"{number:064x}"[::-1]},
        ["fdfa"],
        {"device": "cpu"},
        clock=lambda: at,
    ) as run:
        run.append({"epoch": 1, "train_loss": 2.5, "val_accuracy": 0.5, "train_seconds": 10.0})
        run.append({"epoch": 2, "train_loss": 0.125 + number, "val_accuracy": 0.75, "train_seconds": 20.5})
        if status is not None:
            tested = {"test_accuracy": accuracy, "test_loss": 0.25} if status == "completed" else {}
            run.update(status, error, **tested)
    return run.path


def mixed(results: Path) -> list[Path]:
    """Runs that ended in every way, over several sets, networks and rules."""
    return [
        store(results, 0, rule="bp"),
        store(results, 1, rule="dfa", data="tiny_imagenet", network="alexnet"),
        store(results, 2, "diverged", "the training loss is not finite in epoch 3\nsecond line"),
        store(results, 3, "failed", "out of memory", rule="lg-fg-a"),
        store(results, 4, None, network="resnet"),
    ]


def table_of(results: Path) -> Table:
    """The table of the runs in `results`."""
    facts = Catalog(scan([results]).runs)
    return runs_table(facts, facts.runs, Query())


def said(capsys, *paths: Path, format: str = "table") -> str:
    report(list(paths), format=ReportFormat(format))
    return capsys.readouterr().out


def fdfa_report(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`fdfa report` in a process of its own, piped."""
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=here, check=False)


def on_terminal(width: int, *arguments: object) -> str:
    """What `fdfa report` sends to a terminal of that width, escape sequences and all."""
    master, slave = pty.openpty()
    here = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    here |= {"PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": str(width), "TERM": "xterm-256color"}
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=here):
        os.close(slave)
        output = b""
        while True:
            try:
                output += os.read(master, 65536)
            except OSError:  # Linux says so when the other end is closed
                break
    os.close(master)
    return output.decode().replace("\r\n", "\n")


# For programs


def test_json_holds_the_stored_numbers(tmp_path, capsys):
    paths = mixed(tmp_path)
    rows = json.loads(said(capsys, tmp_path, format="json"))
    assert list(rows[0])[:11] == [
        "run", "status", "data", "network", "rule", "seed", "epochs",
        "train_loss", "val_accuracy", "test_accuracy", "train_seconds",
    ]  # fmt: skip
    assert [row["run"] for row in rows] == [path.name for path in paths]
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert [row["status"] for row in rows] == ["completed", "completed", "diverged", "failed", "interrupted"]
    assert [row["test_accuracy"] for row in rows] == [0.9375, 0.9375, None, None, None]
    assert [row["train_loss"] for row in rows] == [0.125, 1.125, 2.125, 3.125, 4.125]
    assert {(row["epochs"], row["val_accuracy"], row["train_seconds"]) for row in rows} == {(2, 0.75, 30.5)}
    assert rows[2]["error"] == "the training loss is not finite in epoch 3\nsecond line"
    assert rows[0]["device"] == "cpu"


def test_csv_holds_what_json_holds(tmp_path, capsys):
    mixed(tmp_path)
    store(tmp_path, 5, "failed", 'a "quoted", multi-\nline reason', rule=HOSTILE)
    rows = json.loads(said(capsys, tmp_path, format="json"))
    lines = list(csv.DictReader(io.StringIO(said(capsys, tmp_path, format="csv"), newline="")))
    assert lines == [{k: as_csv_holds(v) for k, v in row.items()} for row in rows]


def as_csv_holds(value: object) -> str:
    """What a CSV file has for a value: no formula, no control character, and nothing for no value."""
    if value is None or not isinstance(value, str):
        return "" if value is None else str(value)
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    acts = re.match(r"\s*[-=+@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]", value)
    return ("'" if acts else "") + escaped


@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False, allow_infinity=False) | st.none())))
def test_csv_and_json_read_back_whatever_is_in_a_table(rows):
    table = Table((Column("a", "a"), Column("b", "b", "number")), tuple(rows))
    assert [tuple(row.values()) for row in json.loads(export.to_json(table))] == rows
    _, *read = csv.reader(io.StringIO(export.to_csv(table), newline=""))
    assert [(a, float(b) if b else None) for a, b in read] == [(as_csv_holds(a), b) for a, b in rows]


def test_text_that_is_not_unicode_can_be_exported(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    store(folder)
    for format in ReportFormat:
        said(capsys, folder, format=format).encode("utf-8")


# For documents


def as_people_read(table: Table) -> list[list[str]]:
    return [[column.heading for column in table.columns], *table.shown]


@given(st.lists(st.lists(st.text(min_size=1), min_size=2, max_size=2), max_size=3))
def test_markdown_shows_text_as_it_is(rows):
    rows = [[HOSTILE, "a_b __c__ _d_"], *rows]
    table = Table((Column("run", "run"), Column("rule", "a|b")), tuple(map(tuple, rows)), (HOSTILE,))
    tokens = (
        MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .parse(export.to_markdown(table))
    )
    inline = [token for token in tokens if token.type == "inline"]
    assert all(child.type == "text" for token in inline for child in token.children or [])
    shown = ["".join(child.content for child in token.children) for token in inline]
    cells = [cell.strip() for row in as_people_read(table) for cell in row]
    assert shown == [*cells, printable(HOSTILE)]


def test_markdown_keeps_names_readable():
    table = Table((Column("a", "a"),), (("tiny_imagenet",), ("fg-w",)))
    assert "tiny_imagenet" in export.to_markdown(table)
    assert "fg-w" in export.to_markdown(table)


LATEX = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
    r"\textgreater{}": ">", r"\textbar{}": "|", r"\textasciigrave{}": "`", "-{}": "-",
    r"$\pm$": "±", "$-$": "−", "{[}": "[", "{*}": "*",
    **{f"\\{c}": c for c in "{}$&#_%"},
}  # fmt: skip


def latex_text(source: str) -> str:
    """What LaTeX prints for `source`; fails on anything that would act."""
    read = ""
    while source:
        command = next((c for c in sorted(LATEX, key=len, reverse=True) if source.startswith(c)), None)
        if command is None:
            assert source[0] not in r"\{}$&#_%~^<>|`", f"{source[0]} acts in {source!r}"
            assert not source.startswith("--"), "a ligature"
        read += source[0] if command is None else LATEX[command]
        source = source[len(command or "x") :]
    return read


@given(st.text(min_size=1))
def test_latex_shows_text_as_it_is(text):
    table = Table(
        (Column("run", "run"), Column("x", "x", "fraction")), ((text, 0.5), (HOSTILE, None)), (text,)
    )
    lines = export.to_latex(table).splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    cells = [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in body]
    assert [list(map(latex_text, row)) for row in cells] == table.shown
    assert lines[1:3] == [r"\begin{tabular}{lr}", r"\toprule"]
    assert lines[-1].startswith("% ")


def test_latex_reads_no_row_as_an_option_of_the_one_before_and_no_minus_as_a_hyphen():
    table = Table(
        (Column("h", "h"), Column("x", "x", "difference"), Column("y", "y", "number")),
        (("[8, 8]", -0.01, -2.5e-9), ("*", 0.5, 0.25)),
    )
    lines = export.to_latex(table).splitlines()
    assert lines[5:7] == [r"{[}8, 8] & $-$1.00 & $-$2.500e$-$09 \\", r"{*} & +50.00 & 0.2500 \\"]


def test_latex_sets_in_bold_what_looks_best_in_its_direction():
    accuracy = Column("a", "a", "fraction", best="max")
    loss = Column("l", "l", "number", best="min")
    rows = (
        ("p", 0.93751, 0.3, 1.0, None),
        ("q", Mean(3, 0.93752, 0.01), 0.1, 2.0, 0.5),  # alike to the digits shown
        ("r", 0.5, None, 3.0, None),
    )
    columns = (Column("n", "n"), accuracy, loss, Column("s", "s", "seconds"), accuracy)
    lines = export.to_latex(Table(columns, rows)).splitlines()
    assert lines[5:8] == [
        r"p & \textbf{93.75} & 0.3000 & 1.0 & - \\",
        r"q & \textbf{93.75 $\pm$ 1.00} & \textbf{0.1000} & 2.0 & 50.00 \\",
        r"r & 50.00 & - & 3.0 & - \\",
    ]


# For people


@pytest.mark.parametrize(
    ("kind", "value", "heading", "shown"),
    [
        ("fraction", 0.97225, "x %", "97.22"),
        ("fraction", 1.0, "x %", "100.00"),
        ("seconds", 3.14159, "x s", "3.1"),
        ("bytes", 3 * 2**20, "x MiB", "3.0"),
        ("count", 12345678, "x", "12345678"),
        ("number", 0.123456, "x", "0.1235"),
        ("number", 0, "x", "0"),
        ("number", 0.0, "x", "0.0000"),
        ("number", 1.5e-7, "x", "1.500e-07"),
        ("number", -2.5e9, "x", "-2.500e+09"),
        ("number", None, "x", "-"),
        ("text", "a\x1b[31mb\n\u202e\udcff", "x", r"a\x1b[31mb\n\u202e\udcff"),
        ("text", "é ☃ 深", "x", "é ☃ 深"),
    ],
)
def test_values_are_shown_in_the_unit_of_the_heading(kind, value, heading, shown):
    column = Column("x", "x", kind)
    assert (column.heading, column.show(value)) == (heading, shown)


def test_piped_output_has_a_line_for_each_run_whatever_the_terminal_is(tmp_path):
    paths = mixed(tmp_path)
    piped = fdfa_report(tmp_path, COLUMNS="20", FORCE_COLOR="1", TERM="xterm-256color")
    assert piped.returncode == 0
    assert piped.stderr == ""
    assert "\x1b" not in piped.stdout
    heading, *rows = piped.stdout.splitlines()[:6]
    assert "val acc %  test acc %" in heading
    for path, row in zip(paths, rows, strict=True):
        assert row.split()[0] == path.name
        assert row.split()[-5:-2] == ["2", f"{paths.index(path) + 0.125:.4f}", "75.00"]
    assert len({heading.rindex("train s") + len("train s"), *map(len, rows)}) == 1, "columns are aligned"


def test_columns_are_aligned_by_the_cells_that_text_takes():
    table = Table(
        (Column("run", "run"), Column("x", "x", "count"), Column("rule", "rule")),
        (("深い", 1, "bp"), ("abcde", 100, "深")),
    )
    assert terminal.for_pipe(table) == "run      x  rule\n深い     1  bp\nabcde  100  深\n"


def test_failed_and_diverged_runs_are_shown_counted_and_explained(tmp_path, capsys):
    paths = mixed(tmp_path)
    assert said(capsys, tmp_path).splitlines()[-3:] == [
        "5 runs: 2 completed, 1 interrupted, 1 diverged, 1 failed",
        f"{paths[2].name} diverged: the training loss is not finite in epoch 3",
        f"{paths[3].name} failed: out of memory",
    ]
    assert said(capsys, paths[0]).splitlines()[-1] == "1 run: 1 completed"


@pytest.mark.parametrize("width", [160, 120, 100, 80, 60, 40])
@pytest.mark.parametrize("alike", [True, False])
def test_on_a_terminal_of_any_width_everything_is_there(tmp_path, width, alike):
    for i in range(3):
        store(
            tmp_path,
            i,
            rule="深い[/]",
            **({} if alike else {"data": ("mnist", "tiny_imagenet", "x" * 30)[i]}),
        )
    table = table_of(tmp_path)
    lines = ["".join(text for text, _ in line) for line in terminal.for_terminal(table, width)]
    text = "\n".join(lines)
    for row in table.shown:
        for column, cell in zip(table.columns, row, strict=True):
            assert cell in text, column
    if width >= 80:
        assert all(cell_len(line) <= width for line in lines)


def test_what_runs_share_is_named_once(tmp_path):
    for i in range(3):
        store(tmp_path, i, rule=("bp", "dfa", "fdfa")[i])
    table = table_of(tmp_path)
    first, _, *rest = ["".join(t for t, _ in line) for line in terminal.for_terminal(table, 120)]
    assert first == "data digits   network mlp   epochs 2"
    assert " ".join(rest[0].split()) == "run status rule seed train loss val acc % test acc % train s"


def test_a_single_run_keeps_its_columns(tmp_path):
    store(tmp_path)
    table = table_of(tmp_path)
    lines = ["".join(text for text, _ in line) for line in terminal.for_terminal(table, 160)]
    assert lines[0].split()[:5] == ["run", "status", "data", "network", "rule"]


def test_on_a_terminal_statuses_are_coloured_and_no_text_is_read_as_markup(tmp_path):
    paths = [store(tmp_path, 0), store(tmp_path, 1, "failed", "[red]no[/red] :smile:", rule="[bold]x[/bold]")]
    output = on_terminal(80, tmp_path)
    text = re.sub(r"\x1b\[[0-9;]*m", "", output)
    assert "\x1b[32mcompleted" in output
    assert "\x1b" not in text
    assert all(path.name in text for path in paths)
    assert "[bold]x[/bold]" in text
    assert "failed: [red]no[/red] :smile:" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_where_the_encoding_lacks_blocks_and_signs_they_are_written_in_ascii(tmp_path):
    for seed in range(3):
        stored_run(tmp_path, "rule=bp", f"training.seed={seed}", second=seed, test_accuracy=0.875)
    arguments = (tmp_path, "--group-by", "rule", "--columns", "rule,test_accuracy,curve")
    row = fdfa_report(*arguments, PYTHONIOENCODING="ascii").stdout.splitlines()[3]
    assert row.split() == ["bp", "87.50", "+/-", "0.00", "_#"]
    row = fdfa_report(*arguments, PYTHONIOENCODING="utf-8").stdout.splitlines()[3]
    assert row.split() == ["bp", "87.50", "±", "0.00", "▁█"]


def test_on_a_terminal_runs_come_with_their_curves(tmp_path):
    stored_run(tmp_path, "rule=bp", curve=(0.0, 0.5, 1.0))
    assert "▁" + "▅" + "█" in on_terminal(160, tmp_path)
    assert "█" not in fdfa_report(tmp_path).stdout


# What is not a run


VIEWS = {
    "plain": [],
    "columns": ["--columns", "run,optimizer.lr,network.hidden,curve", "--sort", "-seed"],
    "groups": ["--group-by", "rule,network", "--metric", "test_accuracy,train_loss"],
    "curves": ["--group-by", "rule", "--columns", "rule,n,curve"],
    "epochs": ["--rows", "epochs"],
    "diagnostics": ["--rows", "diagnostics"],
}


@pytest.mark.parametrize("format", ReportFormat)
@pytest.mark.parametrize("view", VIEWS)
def test_damaged_folders_are_named_on_stderr_and_the_rest_is_shown(tmp_path, capsys, view, format):
    good = stored_run(tmp_path, "rule=bp", test_accuracy=0.875)
    broken, other, without = (stored_run(tmp_path, f"rule={r}", second=9) for r in ("dfa", "fa", "drtp"))
    (broken / "run.json").write_text('{"schema": 1')
    (other / "run.json").write_text((other / "run.json").read_text().replace('"schema": 1', '"schema": 99'))
    (without / "metrics.jsonl").unlink()
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "curve.svg").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert cli.run(["report", str(tmp_path), "--format", format, *VIEWS[view]]) == 1
    output = capsys.readouterr()
    if view in ("groups", "curves"):
        assert "bp" in output.out
    elif view != "diagnostics":  # of which there are none
        assert good.name in output.out
    assert not any(path.name in output.out for path in (broken, other, without))
    for said in (
        f"{broken}/run.json: not JSON",
        f"{other}/run.json: schema 99; this version reads 1",
        f"{without}: metrics.jsonl missing",
        f"{tmp_path}/plots: neither a run nor a folder of runs",
        f"{tmp_path}/loop: a symbolic link that loops",
        f"{tmp_path}/nowhere: a symbolic link that leads nowhere",
    ):
        assert said in output.err
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    ("file", "view"), [("metrics.jsonl", "curves"), ("metrics.jsonl", "epochs"), ("recipe.yaml", "columns")]
)
def test_a_file_that_is_only_opened_for_some_views_is_named_when_it_is(tmp_path, capsys, file, view):
    good, bad = stored_run(tmp_path, "rule=bp"), stored_run(tmp_path, "rule=dfa", second=1)
    (bad / file).write_text("[1\n[2\n")
    assert cli.run(["report", str(tmp_path)]) == 0
    assert bad.name in capsys.readouterr().out
    assert cli.run(["report", str(tmp_path), *VIEWS[view]]) == 1
    output = capsys.readouterr()
    assert ("bp" if view == "curves" else good.name) in output.out
    assert output.err.count(f"{bad}/{file}:") == 1


def test_nothing_but_damage_is_no_empty_store(tmp_path, capsys):
    (store(tmp_path) / "run.json").unlink()
    with pytest.raises(RunDamaged, match=r"run\.json missing"):
        report([tmp_path])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("there", [True, False])
def test_without_runs_it_says_what_to_do_next(tmp_path, monkeypatch, capsys, there):
    monkeypatch.chdir(tmp_path)
    if there:
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / ".gitkeep").touch()
    empty = {"table": "", "json": "[]\n"}
    for format in ReportFormat:
        report(None, format=format)
        output = capsys.readouterr()
        assert "no runs in results yet; train one: fdfa train " in output.err
        assert output.out.startswith(empty.get(format, ""))


def test_the_recipe_that_an_empty_store_suggests_exists(tmp_path, monkeypatch, capsys):
    from fdfa_cli.recipe.shipped import find

    monkeypatch.chdir(tmp_path)
    report()
    assert find(capsys.readouterr().err.split()[-1]).is_file()


def test_a_path_that_is_not_there_is_a_usage_error(tmp_path):
    store(tmp_path / "results")
    with pytest.raises(UsageError, match="did you mean 'results'"):
        report([tmp_path / "result"])


# Whatever the order of things


def every_format(*paths: Path, **environment: str) -> str:
    """What the report says of `paths` in each format, and which heavy modules it loaded."""
    code = f"""import sys
from fdfa_cli import cli
from fdfa_cli.commands.report import ReportFormat
for format in ReportFormat:
    for view in {list(VIEWS.values())}:
        assert cli.run(["report", *sys.argv[1:], "--format", format, *view]) == 0
print(sorted({{"torch", "numpy", "torchvision", "scipy"}} & set(sys.modules)))"""
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment
    return subprocess.check_output([sys.executable, "-c", code, *map(str, paths)], env=here, text=True)


def test_reports_of_the_same_runs_are_byte_identical(tmp_path):
    paths = [
        stored_run(tmp_path, f"rule={rule}", f"training.seed={seed}", status=status, second=seed)
        for rule in ("bp", "dfa")
        for seed, status in enumerate(("completed", "failed", "completed", "diverged", "completed"))
    ]
    random.Random(0).shuffle(paths)
    one = every_format(tmp_path, PYTHONHASHSEED="1")
    assert one == every_format(tmp_path, PYTHONHASHSEED="2")
    assert one == every_format(*paths)


def test_the_report_does_not_import_torch(tmp_path):
    stored_run(tmp_path, "rule=bp")
    assert every_format(tmp_path).splitlines()[-1] == "[]"


def test_columns_are_named_once():
    names = [column.name for column in SUMMARY]
    assert len(set(names)) == len(names)
