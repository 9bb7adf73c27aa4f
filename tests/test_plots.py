"""Figures: the numbers in them, that they can be read, and that two of the same runs are the same."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image
from plotted import MACHINE, store, swept
from scipy import stats

from fdfa_cli import cli
from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.plots import PLOTS, DoesNotApply, Picture, PlotData
from fdfa_cli.report.plots.style import COLORS, DARK, INK, OVERLAID, house_style, line_style
from fdfa_cli.storage import scan

WIDTHS = (4.0, 7.5, 10.0)
HOSTILE = r"_a $\frac$ x^2 </svg>"


def draw(
    results: Path, name: str, width: float = 7.5, by: tuple[str, ...] = (), metric: str | None = None
) -> Picture:
    """The plot `name` of the runs in `results`."""
    runs = scan([results]).runs
    (plot,) = (plot for plot in PLOTS if plot.name == name)
    with house_style():
        return plot.draw(PlotData(Catalog(runs), runs, by, metric), width)


def curves(figure: Figure) -> list[tuple[np.ndarray, np.ndarray]]:
    """The data of every line of the first axes."""
    return [line.get_data() for line in figure.axes[0].lines]


def bands(figure: Figure) -> list[np.ndarray]:
    """The vertices of every band of the first axes, as (x, low, high) by column."""
    found = []
    for area in figure.axes[0].collections:
        points = area.get_paths()[0].vertices
        xs = np.unique(points[:, 0])
        found.append(np.array([[x, *(f(points[points[:, 0] == x, 1]) for f in (min, max))] for x in xs]).T)
    return found


# The numbers


def test_a_learning_curve_is_the_mean_over_seeds_in_a_band_of_t_intervals(tmp_path):
    values = np.array([[0.50, 0.90], [0.60, 0.94], [0.40, 0.95], [0.55, 0.91]])
    for seed, row in enumerate(values):
        store(tmp_path, seed, row.tolist())
    picture = draw(tmp_path, "learning-curves")
    ((x, y),) = curves(picture.figure)
    low, high = stats.t.interval(0.95, 3, values.mean(0), stats.sem(values, axis=0))
    np.testing.assert_allclose(x, [1, 2])
    np.testing.assert_allclose(y, 100 * values.mean(0))
    np.testing.assert_allclose(bands(picture.figure)[0], [[1, 2], 100 * low, 100 * high])
    assert "95 % t-interval" in picture.caption
    assert picture.figure.axes[0].get_ylabel() == "validation accuracy (%)"


def test_two_seeds_have_a_band_of_both_and_one_has_none(tmp_path):
    store(tmp_path, 0, [0.5, 0.9])
    store(tmp_path, 1, [0.6, 0.8])
    store(tmp_path, 2, [0.1, 0.2], rule__name="dfa")
    picture = draw(tmp_path, "learning-curves")
    (band,) = bands(picture.figure)
    np.testing.assert_allclose(band, [[1, 2], [50, 80], [60, 90]])
    assert "minimum to maximum where n = 2" in picture.caption
    assert "interval" not in picture.caption
    labels = [text.get_text() for text in picture.figure.legends[0].get_texts()]
    assert labels == ["bp (n=2)", "dfa (n=1)"]


def test_groups_of_runs_that_differ_in_more_than_seeds_have_no_interval(tmp_path):
    for number in range(4):
        store(tmp_path, number, [0.5 + number / 10], optimizer__lr=0.1 * (1 + number % 2))
    picture = draw(tmp_path, "learning-curves", by=("rule",))
    (band,) = bands(picture.figure)
    np.testing.assert_allclose(band, [[1], [50], [80]])
    assert "minimum to maximum where runs differ in more than their seed" in picture.caption
    assert "t-interval" not in picture.caption
    assert len(curves(draw(tmp_path, "learning-curves").figure)) == 2, "by what was swept, if not asked"


def test_runs_that_did_not_complete_are_counted_and_never_averaged(tmp_path):
    store(tmp_path, 0, [0.5, 0.9])
    store(tmp_path, 1, [0.1], "diverged", "the loss is not finite")
    store(tmp_path, 2, [0.1], "failed", rule__name="dfa")
    picture = draw(tmp_path, "learning-curves")
    ((_, y),) = curves(picture.figure)
    np.testing.assert_allclose(y, [50, 90])
    assert "2 runs are not drawn: not completed, or unreadable." in picture.caption


def test_seconds_add_up_over_epochs(tmp_path):
    store(tmp_path, 0, [0.5, 0.8, 0.9])
    store(tmp_path, 1, [0.5, 0.8, 0.9])
    ((x, _),) = curves(draw(tmp_path, "accuracy-over-time").figure)
    np.testing.assert_allclose(x, [2, 4, 6])


@pytest.mark.parametrize(
    ("other", "reason"), [({"workers": 2}, "beside others"), ({"threads": 4}, "different machines")]
)
def test_seconds_of_runs_that_cannot_be_compared_are_not(tmp_path, other, reason):
    store(tmp_path, 0)
    store(tmp_path, 1, environment=MACHINE | other)
    with pytest.raises(DoesNotApply, match=reason):
        draw(tmp_path, "accuracy-over-time")


def test_the_ranking_has_every_run_and_the_best_mean_on_top(tmp_path):
    values = {"bp": [0.5, 0.6, 0.7, 0.8], "dfa": [0.9, 0.92, 0.91], "pepita": [0.95, 0.65]}
    for number, (rule, accuracy) in enumerate((r, a) for r, several in values.items() for a in several):
        store(tmp_path, number, [accuracy + 0.01], rule__name=rule)  # the test accuracy is 0.01 below
    picture = draw(tmp_path, "ranking")
    (axes,) = picture.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dfa (n=3)", "pepita (n=2)", "bp (n=4)"]
    assert axes.yaxis_inverted()
    dots = {line.get_ydata()[0]: line.get_xdata() for line in axes.lines if line.get_marker() == "o"}
    np.testing.assert_allclose(dots[0], 100 * np.array(values["dfa"]))
    np.testing.assert_allclose(dots[2], 100 * np.array(values["bp"]))
    low, high = stats.t.interval(0.95, 3, np.mean(values["bp"]), stats.sem(values["bp"]))
    bars = [container for container in axes.containers if container.has_xerr]
    assert len(bars) == 2, "two runs have no interval"
    ((left, right),) = bars[1].lines[2][0].get_segments()
    np.testing.assert_allclose([left[0], right[0]], [100 * low, 100 * high])
    assert "No interval below 3 runs" in picture.caption


def grid(results: Path, seeds: int = 1) -> np.ndarray:
    """A sweep of 3 learning rates and 2 widths; the accuracies by both, rising with the rate."""
    scores = np.array([[0.5, 0.6], [0.7, 0.65], [0.8, 0.9]])
    number = itertools.count()
    for i, lr in enumerate((1e-4, 1e-3, 1e-2)):
        for j, hidden in enumerate(([8], [16])):
            for seed in range(seeds):
                score = scores[i, j] + 0.01 * (seed - (seeds - 1) / 2)
                store(
                    results, next(number), [score], optimizer__lr=lr, network__hidden=hidden,
                    training__seed=seed,
                )  # fmt: skip
    swept(results, "optimizer.lr", "network.hidden")
    return scores


def test_the_response_joins_the_best_of_each_value(tmp_path):
    scores = grid(tmp_path, seeds=2)
    figure = draw(tmp_path, "sweep-response").figure
    by_name = {axes.get_xlabel(): axes for axes in figure.axes}
    dots, best = (line.get_data() for line in by_name["optimizer.lr"].lines)
    np.testing.assert_allclose(np.sort(dots[1]), np.sort(100 * scores.ravel()))
    np.testing.assert_allclose(best[0], [1e-4, 1e-3, 1e-2])
    np.testing.assert_allclose(best[1], 100 * scores.max(1))
    assert by_name["optimizer.lr"].get_xscale() == "log"
    _, best = (line.get_data() for line in by_name["network.hidden"].lines)
    np.testing.assert_allclose(best[1], 100 * scores.max(0))
    names = [label.get_text() for label in by_name["network.hidden"].get_xticklabels()]
    assert names == ["[8]", "[16]"]


def test_the_interaction_has_a_cell_for_each_pair_of_values(tmp_path):
    scores = grid(tmp_path)
    figure = draw(tmp_path, "sweep-interaction").figure
    axes = figure.axes[0]
    assert {axes.get_xlabel(), axes.get_ylabel()} == {"network.hidden", "optimizer.lr"}
    cells = axes.collections[0].get_array()
    np.testing.assert_allclose(np.sort(np.ravel(cells)), np.sort(100 * scores.ravel()))
    assert sorted(text.get_text() for text in axes.texts) == sorted(f"{100 * s:.1f}" for s in scores.ravel())
    assert axes.patches[-1].get_xy() == (0.5, 1.5), "the best is framed: the second width, the third rate"


def test_of_losses_less_is_better(tmp_path):
    for number, (lr, loss) in enumerate([(0.1, 3.0), (0.1, 2.0), (0.2, 4.0), (0.2, 5.0)]):
        layers = [number % 2 + 1]
        store(
            tmp_path, number, row={"val_loss": loss}, optimizer__lr=lr, network__hidden=layers,
        )  # fmt: skip
    swept(tmp_path, "optimizer.lr", "network.hidden")
    figure = draw(tmp_path, "sweep-response", metric="val_loss").figure
    axes = next(axes for axes in figure.axes if axes.get_xlabel() == "optimizer.lr")
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [2, 4])


def test_values_drawn_at_random_are_binned(tmp_path):
    rates = 10 ** np.random.default_rng(0).uniform(-5, -1, size=40)
    for number, rate in enumerate(rates.tolist()):
        store(tmp_path, number, [0.5 + number / 100], optimizer__lr=rate, network__hidden=[8 + number % 3])
    swept(tmp_path, "optimizer.lr", "network.hidden")
    figure = draw(tmp_path, "sweep-response").figure
    axes = next(axes for axes in figure.axes if axes.get_xlabel() == "optimizer.lr")
    x, y = axes.lines[1].get_data()
    edges = np.geomspace(rates.min(), rates.max(), 13)
    bins = np.clip(np.digitize(rates, edges) - 1, 0, 11)
    best = [max(np.flatnonzero(bins == b)) for b in np.unique(bins)]  # later runs are better
    np.testing.assert_allclose(x, rates[best])
    np.testing.assert_allclose(y, 50 + np.array(best))


def test_two_recipes_that_differ_in_many_things_are_no_sweep(tmp_path):
    store(tmp_path, 0)
    store(tmp_path, 1, optimizer__lr=0.1, network__hidden=[9])
    for name in ("sweep-response", "sweep-interaction"):
        with pytest.raises(DoesNotApply, match="no sweep among these runs"):
            draw(tmp_path, name)


# Whether they can be read


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""

    def luminance(color: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


# Machado, Oliveira & Fernandes 2009, severity 1.
BLINDNESS = {
    "none": np.eye(3).tolist(),
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]
    ],
}  # fmt: skip
TO_LMS = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
          [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
TO_LAB = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
          [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip


def oklab(color: str, blindness: str) -> np.ndarray:
    linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)])
    return np.array(TO_LAB) @ np.cbrt(np.clip(np.array(TO_LMS) @ (BLINDNESS[blindness] @ linear), 0, 1))


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("colors", [COLORS, tuple(DARK[color] for color in COLORS)], ids=["light", "dark"])
def test_series_are_told_apart_by_the_colour_blind(colors, blindness):
    for one, other in itertools.combinations(colors, 2):
        assert 100 * np.linalg.norm(oklab(one, blindness) - oklab(other, blindness)) >= 10, (one, other)


def test_colours_stand_out_from_light_and_dark_ground():
    for color in COLORS:
        assert contrast(color, "#ffffff") >= 3
        assert contrast(DARK[color], "#16181d") >= 3
    assert contrast(INK, "#ffffff") >= 7
    assert contrast(DARK[INK], "#16181d") >= 7


def test_series_that_share_axes_are_told_apart_without_colour():
    assert len({line_style(i).marker for i in range(OVERLAID)}) == OVERLAID
    assert len({(str(line_style(i).dashes), line_style(i).marker) for i in range(OVERLAID)}) == OVERLAID


def assert_legible(figure: Figure) -> None:
    """No text leaves the figure, and no two texts touch."""
    drawn = []
    draw_text = Text.draw

    def record(text, renderer, *args, **keywords):
        draw_text(text, renderer, *args, **keywords)
        if text.get_visible() and text.get_text().strip():
            drawn.append((text.get_text(), text.get_window_extent(renderer)))

    with pytest.MonkeyPatch.context() as patch:  # a locator makes more ticks than are drawn
        patch.setattr(Text, "draw", record)
        figure.draw(FigureCanvasAgg(figure).get_renderer())
    boxes = list(dict.fromkeys((name, *box.extents) for name, box in drawn))
    boxes = [(name, Bbox.from_extents(*ends)) for name, *ends in boxes]
    assert len(boxes) > 5
    for name, box in boxes:
        assert min(box.x0, box.y0) >= -1, name
        assert max(box.x1 - figure.bbox.x1, box.y1 - figure.bbox.y1) <= 1, name
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        up = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, up) <= 1, f"{one!r} overlaps {other!r}"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rules", [2, 20])
@pytest.mark.parametrize("plot", ["ranking", "learning-curves", "accuracy-over-time"])
def test_nothing_overlaps_with_few_rules_and_with_many(tmp_path, plot, rules, width):
    for number in range(rules):
        store(tmp_path, number, [0.1 + number / 100] * 12, rule__name=f"a-rule-of-some-length-{number}")
    assert_legible(draw(tmp_path, plot, width).figure)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overlaps_in_figures_of_a_sweep(tmp_path, width):
    number = itertools.count()
    for lr, rate, norm in itertools.product((1e-4, 3e-4, 1e-3), (0.001, 0.01), ("batch", "none", "layer")):
        for rule in ("fdfa", "dkp"):
            store(
                tmp_path, next(number), [0.3 + next(number) / 200], optimizer__lr=lr,
                rule__feedback_rate=rate, network__norm=norm, rule__name=rule,
            )  # fmt: skip
    swept(tmp_path, "optimizer.lr", "rule.feedback_rate", "network.norm", "rule")
    for name in ("sweep-response", "sweep-interaction"):
        assert_legible(draw(tmp_path, name, width).figure)


def test_of_more_groups_than_fit_the_best_are_drawn_and_the_caption_says_so(tmp_path):
    for number in range(30):
        store(tmp_path, number, [number / 100], rule__name=f"r{number}")
    picture = draw(tmp_path, "learning-curves")
    assert [axes.get_title() for axes in picture.figure.axes] == [f"r{n} (n=1)" for n in range(29, 5, -1)]
    assert "the 24 of 30 that end best" in picture.caption


def test_text_is_drawn_as_it_is(tmp_path):
    store(tmp_path, 0, rule__name=HOSTILE)
    store(tmp_path, 1)
    figure = draw(tmp_path, "learning-curves").figure
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == [
        f"{HOSTILE} (n=1)",
        "bp (n=1)",
    ]
    FigureCanvasAgg(figure).draw()  # as mathematics it would be refused here


def test_what_the_font_lacks_is_escaped(tmp_path):
    store(tmp_path, 0, rule__name="深い", network__norm="層")
    store(tmp_path, 1, rule__name="深い", network__norm="é")
    figure = draw(tmp_path, "learning-curves").figure
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["norm\xa0é (n=1)", r"norm \u5c64 (n=1)".replace(" ", "\xa0", 1)]
    FigureCanvasAgg(figure).draw()  # warns of a glyph that is missing


def test_metrics_that_cannot_be_read_leave_the_rest(tmp_path):
    paths = [store(tmp_path, number, training__seed=number) for number in range(3)]
    (paths[1] / "metrics.jsonl").write_text("x\n{}\n")
    picture = draw(tmp_path, "learning-curves")
    assert picture.figure.legends[0].get_texts()[0].get_text() == "bp (n=2)"
    assert "1 run is not drawn: not completed, or unreadable." in picture.caption
    for path in paths:
        (path / "metrics.jsonl").write_text("x\n{}\n")
    with pytest.raises(DoesNotApply):
        draw(tmp_path, "learning-curves")


# As files


def report(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment
    command = [sys.executable, "-m", "fdfa_cli", "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=here, check=False)


def test_two_reports_of_the_same_runs_are_byte_identical(tmp_path):
    grid(tmp_path / "runs")
    for number, lr in enumerate((1e-3, 1e-2), start=100):  # another task, with diagnostics
        blocks = [{"block": 1, "signal_cosine": lr, "variance": lr}]
        found = [
            {"step": int(e), "epoch": e, "seconds": 0.1, "blocks": blocks, "phases": {}} for e in (0.0, 1.0)
        ]
        store(tmp_path / "runs", number, row={"diagnostics": found}, optimizer__lr=lr, network__name="cnn")
    (tmp_path / "rc").mkdir()
    (tmp_path / "rc" / "matplotlibrc").write_text("font.size: 30\naxes.grid: False\nsvg.hashsalt: other\n")
    first, second = tmp_path / "a", tmp_path / "b"
    done = report(tmp_path / "runs", "--plots", first, PYTHONHASHSEED="1")
    assert (done.returncode, done.stdout.count("\n")) == (0, 11)
    report(tmp_path / "runs", "--plots", second, PYTHONHASHSEED="2", MATPLOTLIBRC=str(tmp_path / "rc"))
    names = sorted(file.name for file in first.glob("[!.]*"))
    assert {"ranking.svg", "learning-curves.png", "sweep-response.svg", "sweep-interaction.png"} <= set(names)
    assert len(names) % 2 == 0
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    for file in first.glob("*.svg"):
        assert ET.parse(file).getroot().tag.endswith("svg")
        assert b"<dc:date>" not in file.read_bytes()
    for file in first.glob("*.png"):
        with Image.open(file) as image:
            assert "Software" not in image.info


def test_figures_that_do_not_apply_are_named_with_the_reason_and_leave_no_file(tmp_path, capsys):
    store(tmp_path / "runs", 0)
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "sweep-response.svg").write_text("of another report")
    (folder / "mine.svg").write_text("not ours")
    assert cli.run(["report", str(tmp_path / "runs"), "--plots", str(folder)]) == 0
    said = capsys.readouterr().err
    assert "sweep-response not drawn: no sweep among these runs completed several values" in said
    assert f"{folder}/learning-curves.{{svg,png}}: " in said
    assert {f.name for f in folder.glob("*.svg")} == {
        "mine.svg",
        "learning-curves.svg",
        "accuracy-over-time.svg",
    }


def test_a_folder_that_cannot_be_written_to_is_a_usage_error(tmp_path, capsys):
    store(tmp_path / "runs", 0)
    (tmp_path / "file").touch()
    assert cli.run(["report", str(tmp_path / "runs"), "--plots", str(tmp_path / "file")]) == 2
    assert "cannot write figures to" in capsys.readouterr().err
