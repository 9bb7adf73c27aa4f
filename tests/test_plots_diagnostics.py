"""Figures of diagnostics: the stored numbers are the drawn ones, in panels that say what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plotted import store, swept
from scipy import stats
from test_plots import bands, curves, draw

from fdfa_cli.report.plots import DoesNotApply


def probe(epoch: float, *blocks: dict[str, Any]) -> dict[str, Any]:
    numbered = [{"block": i, **block} for i, block in enumerate(blocks, 1)]
    return {"step": int(10 * epoch), "epoch": epoch, "seconds": 0.1, "blocks": numbered, "phases": {}}


def probed(results: Path, number: int, *probes: dict[str, Any], **choices: Any) -> None:
    """A run of one epoch with these probes in its row."""
    store(results, number, [0.9], row={"diagnostics": list(probes)}, **choices)


def test_alignment_is_a_panel_a_block_and_the_mean_over_seeds(tmp_path):
    first, second = np.array([[0.1, 0.5], [0.2, 0.7], [0.3, 0.6]]), np.array([0.8, 0.9])
    for seed, (before, after) in enumerate(first):
        probed(
            tmp_path, seed,
            probe(0, {"signal_cosine": before}, {"signal_cosine": second[0]}),
            probe(2.5, {"signal_cosine": after}, {"signal_cosine": second[1]}),
        )  # fmt: skip
    picture = draw(tmp_path, "alignment")
    assert [axes.get_title() for axes in picture.figure.axes] == ["block 1", "block 2"]
    ((x, y),) = curves(picture.figure)
    np.testing.assert_allclose(x, [0, 2.5])
    np.testing.assert_allclose(y, first.mean(0))
    low, high = stats.t.interval(0.95, 2, first.mean(0), stats.sem(first, axis=0))
    np.testing.assert_allclose(bands(picture.figure)[0], [[0, 2.5], low, high])
    np.testing.assert_allclose(picture.figure.axes[1].lines[0].get_ydata(), second)
    assert "95 % t-interval" in picture.caption


def test_a_rule_without_signal_is_drawn_by_its_gradients_and_says_so(tmp_path):
    probed(tmp_path, 0, probe(0, {"weight_cosine": 0.1}), probe(1, {"weight_cosine": 0.2}), rule__name="fg-w")
    probed(
        tmp_path, 1,
        probe(0, {"signal_cosine": None, "weight_cosine": None}),
        probe(1, {"signal_cosine": 0.5, "weight_cosine": 0.9}),
        probe(2, {"signal_cosine": 0.6, "weight_cosine": 0.9}),
        rule__name="fdfa",
    )  # fmt: skip
    figure = draw(tmp_path, "alignment").figure
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["fg-w, gradients (n=1)", "fdfa (n=1)"]
    by_gradient, by_signal = curves(figure)
    np.testing.assert_allclose(by_gradient, [[0, 1], [0.1, 0.2]])
    np.testing.assert_allclose(by_signal, [[1, 2], [0.5, 0.6]])  # zero feedback has no angle


def test_variance_has_a_line_of_theory_through_its_markers(tmp_path):
    measured = {"fg-w": [900.0, 4100.0, 15000.0], "fdfa": [0.1, 0.19, 0.41]}
    number = 0
    for rule, values in measured.items():
        for width, value in zip((128, 64, 256), values, strict=True):
            found = {"variance": value, "variance_theory": 1.1 * value if rule == "fg-w" else None}
            earlier = probe(0, {"variance": 1e9, "variance_theory": 1e9})
            probed(tmp_path, number, earlier, probe(1, found), network__hidden=[width], rule__name=rule)
            number += 1
    swept(tmp_path, "rule", "network.hidden")
    picture = draw(tmp_path, "variance")
    (axes,) = picture.figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")  # 64 to 256 is less than tenfold
    assert axes.get_xlabel() == "network.hidden (units)"
    drawn = [line.get_data() for line in axes.lines if len(line.get_xdata())]
    order = [1, 0, 2]
    for (x, y), expected in zip(
        drawn,
        (np.array(measured["fg-w"]), 1.1 * np.array(measured["fg-w"]), np.array(measured["fdfa"])),
        strict=True,
    ):
        np.testing.assert_allclose(x, [64, 128, 256])
        np.testing.assert_allclose(y, expected[order])
    assert [line.get_linestyle() for line in axes.lines][:2] == ["None", "-"]


@pytest.mark.parametrize(
    ("key", "values", "name"),
    [
        ("rule__feedback_rate", (0.01, 1.0), "rule.feedback_rate"),
        ("network__hidden", ([8], [8, 8]), "network.hidden (layers)"),
        ("data__n_classes", (2, 100), "data.n_classes"),
    ],
)
def test_variance_is_drawn_against_any_one_number(tmp_path, key, values, name):
    for i, value in enumerate(values):
        probed(tmp_path, i, probe(0, {"variance": 1.0 + i}), **{key: value})
    swept(tmp_path, key.replace("__", "."))
    (axes, *_) = draw(tmp_path, "variance").figure.axes
    assert axes.get_xlabel() == name


def test_nothing_is_drawn_where_nothing_was_measured(tmp_path):
    store(tmp_path, 0)
    probed(tmp_path, 1, probe(0, {"signal_cosine": 0.1, "variance": 0.0}), rule__name="dfa")
    with pytest.raises(DoesNotApply, match="probed twice"):
        draw(tmp_path, "alignment")
    with pytest.raises(DoesNotApply, match="several values of one number"):
        draw(tmp_path, "variance")
