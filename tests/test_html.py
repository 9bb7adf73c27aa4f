"""The page: what is in it, that text of users cannot act, and what it does in a real browser."""

from __future__ import annotations

import base64
import html.parser
import importlib.util
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Page, browser
from PIL import Image, ImageColor
from plotted import store, swept
from scipy import stats

from fdfa_cli import cli
from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.html import page
from fdfa_cli.report.plots.style import COLORS, DARK
from fdfa_cli.report.query import Query
from fdfa_cli.report.select import Condition, SortKey
from fdfa_cli.storage import RunFolder, scan
from fdfa_cli.storage.provenance import quote

HOSTILE = '</script></style><img src=x onerror="window.hacked=1">&amp;\'"`'
VOID = {"meta", "link", "input", "br", "img", "source"}
PICTURE = "data:image/svg+xml;base64,"


class Reader(html.parser.HTMLParser):
    """The elements of a page as (tag, attributes), and the text of each id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append((tag, dict(attributes).get("id")))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for _, id in self._open:
            if id:
                self.texts[id] = self.texts.get(id, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def made(results: Path, **query: tuple[str, ...]) -> str:
    """The page of the runs in `results`."""
    found = scan([results])
    return page(Catalog(found.runs), found.runs, Query(**query), found.damaged)


def mixed(results: Path) -> None:
    """Two rules, four seeds each; one run diverged, one failed with hostile words, one was interrupted."""
    for seed in range(4):
        store(results, seed, [0.5, 0.90 + seed / 100], training__seed=seed)
        store(results, 10 + seed, [0.4, 0.85 + seed / 50], rule__name="dfa", training__seed=seed)
    store(results, 4, [0.2], "diverged", "the training loss is not finite in epoch 2", training__seed=4)
    store(results, 21, [0.2], "failed", HOSTILE, rule__name="dfa", training__seed=4)
    store(results, 22, [0.2], "interrupted", "interrupted in epoch 2", rule__name="dfa", training__seed=5)


def width_of(address: str) -> float:
    """The width in points of the SVG at an address of the page."""
    root = ET.fromstring(base64.b64decode(address.removeprefix(PICTURE)))
    assert root.tag.endswith("svg")
    return float(root.attrib["width"].removesuffix("pt"))


# What is in it


def test_the_page_needs_nothing_else(tmp_path):
    mixed(tmp_path)
    text = made(tmp_path)
    read = Reader(text)
    for tag, attributes in read.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "image"), tag
        assert not {"style", "action"} & attributes.keys(), (tag, attributes)
        for name in {"src", "srcset"} & attributes.keys():
            assert tag in ("img", "source")
            assert attributes[name].startswith(PICTURE)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert "url(http" not in text
    policy = next(meta for meta in read.all("meta") if meta.get("http-equiv"))["content"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "img-src data:; " in policy


def test_every_figure_has_a_picture_for_each_screen_and_words(tmp_path):
    mixed(tmp_path)
    read = Reader(made(tmp_path))
    pictures = read.all("img")
    assert len(pictures) == len(read.all("figure")) == 3
    assert all(len(picture["alt"]) > 40 for picture in pictures)
    addresses = [*(a["src"] for a in pictures), *(a["srcset"] for a in read.all("source"))]
    assert len(set(addresses)) == 2 * len(pictures)
    for address in addresses:
        assert width_of(address) in (288, 720)


def test_every_id_is_there_once_and_every_reference_leads_somewhere(tmp_path):
    mixed(tmp_path)
    text = made(tmp_path)
    ids = [a["id"] for _, a in Reader(text).elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in Reader(text).elements:
        for name in ("href", "popovertarget", "data-copy", "aria-labelledby"):
            if name in attributes:
                assert attributes[name].removeprefix("#") in ids, attributes
    for reference in re.findall(r"url\(#([^)]+)\)", text):
        assert reference in ids


def test_text_of_users_is_text(tmp_path):
    store(tmp_path, 0, status="failed", error=HOSTILE, rule__name=HOSTILE, command=["fdfa", "train", HOSTILE])
    store(tmp_path, 1, rule__name=HOSTILE, data__name=HOSTILE)
    read = Reader(made(tmp_path))
    assert [tag for tag, _ in read.elements if tag in ("script", "style")] == ["style", "script"]
    assert all(picture["src"].startswith(PICTURE) for picture in read.all("img"))
    assert shlex.split(read.texts["command-1"]) == ["fdfa", "train", HOSTILE]
    assert any(HOSTILE in text for text in read.texts.values())


def test_the_same_runs_give_the_same_bytes(tmp_path):
    mixed(tmp_path)
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    files = []
    for seed in "12":
        files.append(tmp_path / f"{seed}.html")
        command = [sys.executable, "-m", "fdfa_cli", "report", tmp_path, "--html", files[-1]]
        done = subprocess.run(
            command, env=here | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == f"{files[-1]}: open it in a browser\n"
    assert files[0].read_bytes() == files[1].read_bytes()


def cells(text: str, row: str) -> list[str]:
    """The cells of a row of the summary."""
    part = text[text.index('id="summary-grid"') : text.index('id="figures"')]
    for line in part.split("<tr")[2:]:
        found = re.findall(r'class="value">([^<]*)<', line)
        if found[0] == row:
            return found
    raise AssertionError(row)


def test_the_summary_has_means_with_intervals_and_paired_differences(tmp_path):
    mixed(tmp_path)
    bp = [0.89 + seed / 100 for seed in range(4)]
    dfa = [0.84 + seed / 50 for seed in range(4)]
    differences = [100 * (d - b) for b, d in zip(bp, dfa, strict=True)]

    def interval(values: list[float]) -> tuple[float, float]:
        centre = sum(values) / 4
        return centre, stats.t.interval(0.95, 3, centre, stats.sem(values))[1] - centre

    (
        _,
        n,
        accuracy,
        difference,
        p,
        *_,
        others,
    ) = cells(made(tmp_path, baseline=(Condition.parse("rule=bp"),)), "dfa")
    assert n == "4"
    assert accuracy == "{:.2f} ± {:.2f}".format(*interval([100 * d for d in dfa]))
    assert difference == "{:+.2f} ± {:.2f}".format(*interval(differences))
    assert p == f"{stats.ttest_rel(dfa, bp).pvalue:.4f}"  # one test: nothing to adjust for
    assert others == "1 interrupted, 1 failed"
    assert cells(made(tmp_path, baseline=(Condition.parse("rule=bp"),)), "bp")[1:4] == [
        "4",
        "{:.2f} ± {:.2f}".format(*interval([100 * b for b in bp])),
        "-",
    ]


def test_both_tables_are_sorted_as_asked(tmp_path):
    mixed(tmp_path)
    text = made(tmp_path, sort=(SortKey("test_accuracy", descending=True),))
    summary, runs = (
        [re.findall(r'class="value">([^<]*)<', row) for row in part.split("<tr")[2:]]
        for part in (text[text.index('id="summary-grid"') :], text[text.index('id="runs-grid"') :])
    )
    assert [row[0] for row in summary[:2]] == ["bp", "dfa"]
    shown = [float(row[7]) for row in runs[:8]]
    assert shown == sorted(shown, reverse=True)


def test_the_baseline_is_that_of_the_comparison(tmp_path):
    mixed(tmp_path)
    (tmp_path / "compare.json").write_text(json.dumps({"baseline": "dfa"}))
    text = made(tmp_path)
    assert "baseline: dfa<" in text
    assert "− dfa %" in text


def test_a_recipe_and_seed_that_was_trained_twice_counts_once(tmp_path):
    for folder in ("a", "b"):
        for seed in range(3):
            store(tmp_path / folder, seed, training__seed=seed)
    text = made(tmp_path)
    assert cells(text, "bp")[1] == "3"
    assert "3 runs repeat the recipe and seed of another" in text


def test_what_went_wrong_is_there_with_its_reason(tmp_path):
    mixed(tmp_path)
    (store(tmp_path, 30) / "run.json").write_text("{")
    text = made(tmp_path)
    part = text[text.index('id="troubles"') : text.index('id="runs"')]
    assert part.count("<dt>") == 4
    for word in (
        "diverged",
        "not finite in epoch 2",
        "failed",
        "interrupted in epoch 2",
        "run.json: not JSON",
    ):
        assert word in part
    assert "8 completed" in text


@pytest.mark.parametrize(
    ("word", "expanded"),
    [
        ("plain", "plain"),
        ("a b;c", "a b;c"),
        ("$HOME/my runs/`x`", "/home/me/my runs/`x`"),
        ('$USER"\\$(date)$HOME', 'me"\\$(date)/home/me'),
        ("$HOMES '$x'", "$HOMES '$x'"),
    ],
)
def test_a_command_can_be_pasted_into_a_shell(word, expanded):
    environment = {"HOME": "/home/me", "USER": "me", "PATH": os.environ["PATH"]}
    said = subprocess.run(
        ["sh", "-c", f"printf %s {quote(word)}"], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout == expanded


def test_a_row_can_be_trained_again_from_the_page_alone(tmp_path, monkeypatch):
    overrides = ["training.epochs=1", "network.hidden=[4]", "data.limit=64"]
    for seed in "34":
        assert (
            cli.run(
                ["train", "digits/mlp", *overrides, "--seed", seed, "-q", "--results", str(tmp_path / "one")]
            )
            == 0
        )
    first = scan([tmp_path / "one"]).runs
    read = Reader(made(tmp_path / "one"))
    (tmp_path / "recipe.yaml").write_text(read.texts["summary-1-1"])
    assert read.texts["summary-1-2"] == "for seed in 3 4; do fdfa train recipe.yaml --seed $seed; done"
    monkeypatch.chdir(tmp_path)
    for seed in "34":
        assert cli.run(["train", "recipe.yaml", "--seed", seed, "-q"]) == 0
    second = scan([tmp_path / "results"]).runs
    assert [run.record.facts for run in second] == [run.record.facts for run in first]
    for one, other in zip(first, second, strict=True):
        assert one.record.summary["test_accuracy"] == other.record.summary["test_accuracy"]
    assert isinstance(first[0], RunFolder)


def test_a_file_that_cannot_be_written_is_a_usage_error(tmp_path, capsys):
    store(tmp_path, 0)
    assert cli.run(["report", str(tmp_path), "--html", str(tmp_path / "no" / "page.html")]) == 2
    assert "cannot write" in capsys.readouterr().err


# In a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: `apt-get install chromium`")
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of `mixed`, beside its runs."""
    folder = tmp_path_factory.mktemp("shown")
    mixed(folder / "runs")
    (folder / "page.html").write_text(made(folder / "runs"))
    return folder / "page.html"


@pytest.fixture
def opened(tab: Page, shown: Path) -> Iterator[Page]:
    """A tab that shows the page; whatever the browser complained of fails the test."""
    tab.errors.clear()
    tab.open(shown)
    yield tab
    assert tab.errors == []


def column(tab: Page, grid: str, index: int) -> list[str]:
    """The texts of a column, of the rows that can be seen, from above."""
    return tab.run(
        f"Array.from(document.querySelectorAll('#{grid}-grid tbody tr'))"
        f".filter((row) => row.offsetHeight)"
        f".map((row) => row.cells[{index}].querySelector('.value').textContent)"
    )


def test_it_renders(opened):
    assert opened.run("document.title") == "fdfa: 11 runs of digits, mlp"
    assert opened.run("document.querySelectorAll('figure').length") == 3
    for drawn in opened.run(
        "Array.from(document.querySelectorAll('figure img'), (img) => img.complete * img.naturalWidth)"
    ):
        assert drawn > 700
    assert opened.run("window.hacked") is None


def test_it_sorts_by_each_column_either_way_and_says_so(opened):
    heading = "#runs-grid thead th:nth-child(7)"
    assert opened.run(f"document.querySelector('{heading}').textContent") == "val acc %"
    known = sorted(map(float, column(opened, "runs", 6)))
    press = f"document.querySelector('{heading} button').click()"
    opened.run(press)
    assert list(map(float, column(opened, "runs", 6))) == known
    assert opened.run(f"document.querySelector('{heading}').ariaSort") == "ascending"
    opened.run(press)
    assert list(map(float, column(opened, "runs", 6))) == known[::-1]
    assert opened.run(f"document.querySelector('{heading}').ariaSort") == "descending"
    assert opened.run("document.querySelectorAll('#runs-grid [aria-sort=none]').length") == 8


def test_missing_values_come_last_either_way(opened):
    for _ in range(2):
        opened.run("document.querySelector('#runs-grid thead th:nth-child(8) button').click()")
        assert column(opened, "runs", 7)[-3:] == ["-"] * 3
        assert "-" not in column(opened, "runs", 7)[:-3]


def test_sorting_works_from_the_keyboard(opened):
    opened.run("document.querySelector('#summary-grid thead button').focus()")
    opened.press("Enter", "\r")
    opened.press("Enter", "\r")
    assert column(opened, "summary", 0) == ["dfa", "bp"]
    opened.press("Tab")
    assert opened.run("document.activeElement.closest('th').textContent") == "n"


def type_into(tab: Page, selector: str, text: str) -> None:
    tab.run(f"document.querySelector('{selector}').focus()")
    tab.send("Input.insertText", text=text)


def test_it_filters_by_words_and_by_status_and_counts(opened):
    type_into(opened, "#runs-grid input", "DFA compl")
    assert column(opened, "runs", 2) == ["dfa"] * 4
    assert opened.run("document.querySelector('#runs-grid output').textContent") == "4 of 11 rows"
    opened.run("document.querySelector('#runs-grid input').value = ''")
    opened.run(
        "(() => { const status = document.querySelector('#runs-grid select'); status.value = 'failed';"
        " status.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    assert column(opened, "runs", 1) == ["failed"]


def test_recipes_open_and_are_copied(opened, shown):
    opened.send("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    opened.run("document.querySelector('#runs-grid .open').click()")
    assert opened.run("document.querySelector('#runs-1').matches(':popover-open')")
    opened.run("document.querySelector('#runs-1 [data-copy]').click()")
    copied = opened.run(
        "new Promise((done) => setTimeout(async () => done(await navigator.clipboard.readText()), 100))"
    )
    assert copied == scan([shown.parent / "runs"]).runs[0].recipe_text()
    assert opened.run("document.querySelector('#runs-1 [data-copy]').textContent") == "Copied"
    opened.press("Escape")
    assert not opened.run("document.querySelector('#runs-1').matches(':popover-open')")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_nothing_is_wider_than_the_window(tab, tmp_path, width, dark):
    store(tmp_path, 40, status="failed", error="x" * 300, rule__name="r" * 60, command=["fdfa", "y" * 300])
    mixed(tmp_path)
    (tmp_path / "page.html").write_text(made(tmp_path))
    tab.open(tmp_path / "page.html", width, dark=dark)
    assert tab.run("document.documentElement.scrollWidth") == width
    wide = tab.run(
        "Array.from(document.querySelectorAll('main *'))"
        ".filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)"
        ".filter((e) => getComputedStyle(e).display !== 'inline')"
        ".map((e) => e.outerHTML.slice(0, 200))"
    )
    assert wide == []
    drawn = tab.run("Array.from(document.querySelectorAll('figure img')).map((e) => e.currentSrc)")
    assert {width_of(address) for address in drawn} == {288 if width == 375 else 720}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_figures_are_drawn_in_the_palette_of_their_ground(tab, tmp_path, dark):
    mixed(tmp_path)
    (tmp_path / "page.html").write_text(made(tmp_path))
    tab.open(tmp_path / "page.html", dark=dark)
    tab.picture(tmp_path / "page.png")
    picture = Image.open(tmp_path / "page.png").convert("RGB")
    colors = {color for _, color in picture.getcolors(picture.width * picture.height)}
    second = COLORS[1]
    assert (ImageColor.getrgb(second) in colors) == (not dark)
    assert (ImageColor.getrgb(DARK[second]) in colors) == dark


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_it_passes_axe(tab, shown, width, dark):
    """The rules of WCAG 2.1 A and AA, and best practices, as axe-core checks them; with a recipe open too."""
    tab.open(shown, width, dark=dark)
    spec = importlib.util.find_spec("axe_core_python")
    assert spec is not None
    tab.run((Path(str(spec.origin)).parent / "axe.min.js").read_text() + ";0")
    for opened in (False, True):
        if opened:
            tab.run("document.querySelector('#runs-grid .open').click()")
        found = tab.run(
            "axe.run(document).then((found) => ({passes: found.passes.length, "
            "violations: found.violations.map((v) => v.id + ': ' + "
            "v.nodes.map((n) => n.html.slice(0, 150)).join(' | '))}))"
        )
        assert found["violations"] == []
        assert found["passes"] > 25


@pytest.mark.slow
def test_five_hundred_runs_make_a_page_of_less_than_five_megabytes(tab, tmp_path):
    recipe = {f"training__option_{i}": f"value {i}" for i in range(30)}  # as long as a real one
    sweep = itertools.product(range(20), ([64, 64], [128], [256], [512], [1024, 32]), range(5))
    for number, (lr, hidden, seed) in enumerate(sweep):
        curve = [0.5 + 0.3 * epoch / 20 + lr / 200 + seed / 500 for epoch in range(20)]
        choices = {"optimizer__lr": (lr + 1) / 1000, "network__hidden": hidden, "training__seed": seed}
        store(tmp_path, number, curve, **choices, **recipe)
    swept(tmp_path, "optimizer.lr", "network.hidden")
    text = made(tmp_path)
    assert len(text.encode()) < 5e6
    (tmp_path / "page.html").write_text(text)
    tab.errors.clear()
    tab.open(tmp_path / "page.html")
    assert tab.run("document.querySelectorAll('#runs-grid tbody tr').length") == 500
    assert tab.run("document.querySelectorAll('figure').length") == 5, "those of a sweep are among them"
    assert tab.errors == []
