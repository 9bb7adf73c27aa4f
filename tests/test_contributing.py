"""The worked examples of CONTRIBUTING.md do what they say."""

from __future__ import annotations

import importlib.util
import math
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from plotted import store

from fdfa_cli.cli import run as fdfa
from fdfa_cli.errors import UsageError
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Activation, Linear, Mode
from fdfa_cli.network.losses import LOSSES, Batch
from fdfa_cli.optim.state import OptimizerState
from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.plots import DoesNotApply, PlotData
from fdfa_cli.rules.base import RULES
from fdfa_cli.rules.step import Step
from fdfa_cli.storage import RunFolder, scan
from fdfa_cli.streams import sample, stream

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def block(label: str) -> str:
    match = re.search(rf"<!-- example: {label} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert match, label
    return match.group(1)


def loaded(folder: Path, label: str) -> ModuleType:
    """The module that an example is."""
    file = folder / "example.py"
    file.write_text(block(label))
    spec = importlib.util.spec_from_file_location(f"example_of_{label.replace(' ', '_')}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def accuracy(output: str) -> float:
    return float(re.search(r'"test_accuracy": ([0-9.]+)', output).group(1))


def test_example_rule_trains_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RULES, "_models", dict(RULES.models()))
    Path("ternary.py").write_text(block("a rule"))
    command = shlex.split(block("its use").removeprefix("$ fdfa "))
    assert fdfa([*command, "training.epochs=8", "--quiet"]) == 0
    assert fdfa(["report", "--format", "json"]) == 0
    output = capsys.readouterr().out
    assert '"rule": "tdfa"' in output
    assert accuracy(output) > 0.8  # chance is 0.1

    assert fdfa(["rules", "--plugin", "ternary.py"]) == 0
    assert "large errors" in capsys.readouterr().out


@pytest.mark.parametrize("stacked", [False, True])
def test_example_layer_is_its_mathematics(tmp_path, stacked):
    """Against torch's own derivatives of γ ∘ x, alone and under vmap."""
    layer = loaded(tmp_path, "a layer").Scale(5, name="s")
    generator = torch.Generator().manual_seed(0)
    x, dx, dy, gamma, dgamma = (
        torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        for shape in ((4, 5), (4, 5), (4, 5), (5,), (5,))
    )

    def by_layer(x, dx, dy, gamma, dgamma):
        params = {"s.weight": gamma}
        y, saved = layer.forward(params, x, Mode(training=True))
        grads, back = layer.vjp(params, saved, dy)
        return y, layer.tangent(params, saved, dx, {"s.weight": dgamma}), grads["s.weight"], back

    def by_torch(x, dx, dy, gamma, dgamma):
        y, tangent = torch.func.jvp(torch.mul, (gamma, x), (dgamma, dx))
        return y, tangent, *torch.func.vjp(torch.mul, gamma, x)[1](dy)

    given = (x, dx, dy, gamma, dgamma)
    if stacked:
        torch.testing.assert_close(torch.func.vmap(by_layer)(*given), torch.func.vmap(by_torch)(*given))
    else:
        given = tuple(t[0] for t in given)
        torch.testing.assert_close(by_layer(*given), by_torch(*given))
    assert layer.out_shape((5,)) == (5,)
    with pytest.raises(UsageError, match=r"a scale of 5 units cannot take a sample of shape \(4,\)"):
        layer.out_shape((4,))


def test_example_layer_is_a_part_of_networks(tmp_path):
    """Between two linear layers, under backprop and under a rule that needs no transposed weights."""
    scale = loaded(tmp_path, "a layer").Scale
    blocks = [[Linear(6, 5), scale(5), Activation("tanh")]]
    network = Network.of((6,), 3, blocks, [Linear(5, 3)])
    params = sample(network.parameters(), stream(0, "init"))
    batch = Batch(torch.randn(8, 6), torch.arange(8) % 3, Mode(training=True), LOSSES["cross_entropy"])
    update = RULES.get("bp")().step(Step(network, params, {}, batch, {}))
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    loss = LOSSES["cross_entropy"](network.chain.forward(leaves, batch.x, batch.mode)[0], batch.labels)[0]
    exact = dict(zip(leaves, torch.autograd.grad(loss, [*leaves.values()]), strict=True))
    assert update.grads.keys() == exact.keys()
    for name, grad in update.grads.items():
        torch.testing.assert_close(grad, exact[name])


def test_example_network_trains_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("residual_mlp.py").write_text(block("a network"))
    command = shlex.split(block("its use, a network").removeprefix("$ fdfa "))
    for rule in ("bp", "fdfa"):
        assert fdfa([*command, f"rule={rule}", "training.epochs=8", "--results", rule, "--quiet"]) == 0
        assert fdfa(["report", rule, "--format", "json"]) == 0
        assert accuracy(capsys.readouterr().out) > 0.8  # chance is 0.1


def test_example_data_set_is_two_spirals(tmp_path):
    spirals = loaded(tmp_path, "a data set").Spirals(noise=0.0)
    splits = spirals.load(tmp_path, torch.device("cpu"))
    assert [len(part.labels) for part in (splits.train, splits.validation, splits.test)] == [1800, 200, 500]
    for part in (splits.train, splits.test):
        x, y = part.batch(torch.arange(len(part))).unbind(1)
        turned = torch.atan2(y, x) / math.pi - 2 * torch.hypot(x, y) - part.labels  # in half turns
        torch.testing.assert_close(turned / 2, (turned / 2).round(), rtol=0, atol=1e-5)


def test_example_data_set_trains_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("spirals.py").write_text(block("a data set"))
    command = shlex.split(block("its use, a data set").removeprefix("$ fdfa "))
    for rule in ("bp", "fdfa"):
        assert fdfa([*command, f"rule={rule}", "training.epochs=8", "--results", rule, "--quiet"]) == 0
        assert fdfa(["report", rule, "--format", "json"]) == 0
        assert accuracy(capsys.readouterr().out) > 0.9  # chance is 0.5


def test_example_optimizer_is_its_equations(tmp_path):
    lion = loaded(tmp_path, "an optimizer").Lion(lr=0.1, weight_decay=0.5)
    start = torch.randn(7, generator=torch.Generator().manual_seed(0))
    state = OptimizerState.new({"w": start.clone()}, lion)
    assert len(state.slots["w"]) == lion.slot_count
    w, m = start.tolist(), [0.0] * 7
    for k in range(4):
        grad = torch.randn(7, generator=torch.Generator().manual_seed(k + 1))
        state.apply({"w": grad}, lion, lion.lr)
        for i, g in enumerate(grad.tolist()):
            w[i] -= 0.1 * (math.copysign(1, 0.9 * m[i] + (1 - 0.9) * g) + 0.5 * w[i])
            m[i] = 0.99 * m[i] + (1 - 0.99) * g
    torch.testing.assert_close(state.tensors["w"], torch.tensor(w))
    torch.testing.assert_close(state.slots["w"]["mean"], torch.tensor(m))


def test_example_optimizer_trains_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("lion.py").write_text(block("an optimizer"))
    command = shlex.split(block("its use, an optimizer").removeprefix("$ fdfa "))
    assert fdfa([*command, "training.epochs=8", "--quiet"]) == 0
    assert fdfa(["report", "--format", "json"]) == 0
    assert accuracy(capsys.readouterr().out) > 0.8  # chance is 0.1


def test_example_plot_draws_what_runs_took(tmp_path, monkeypatch):
    plot = loaded(tmp_path, "a plot").PLOT
    seconds = {"bp": [1.5, 2.0], "dfa": [0.5, 0.75]}
    for number, (rule, took) in enumerate((rule, s) for rule, several in seconds.items() for s in several):
        path = store(tmp_path / "runs", number, rule__name=rule, training__seed=number % 2)
        with RunFolder.resume(path, []) as run:
            run.update("completed", median_epoch_seconds=took)
    runs = scan([tmp_path / "runs"]).runs
    figure = plot.draw(PlotData(Catalog(runs), runs), 7.5).figure
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert {label: list(line.get_xdata()) for label, line in zip(labels, axes.lines, strict=True)} == seconds

    monkeypatch.setattr("fdfa_cli.report.plots.PLOTS", (plot,))
    folder = tmp_path / "plots"
    assert fdfa(["report", str(tmp_path / "runs"), "--plots", str(folder)]) == 0
    assert {file.name for file in folder.glob("epoch*")} == {"epoch-seconds.svg", "epoch-seconds.png"}


def test_example_plot_says_why_it_is_not_drawn(tmp_path):
    plot = loaded(tmp_path, "a plot").PLOT
    store(tmp_path / "runs", 0)
    runs = scan([tmp_path / "runs"]).runs
    with pytest.raises(DoesNotApply, match="no completed run has median_epoch_seconds"):
        plot.draw(PlotData(Catalog(runs), runs), 7.5)
