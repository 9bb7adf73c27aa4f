"""`import fdfa_cli` does what the command line does, and a run becomes a model of torch's."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import polars
import pytest
import torch

import fdfa_cli
from fdfa_cli.cli import run as fdfa
from fdfa_cli.data import data_root
from fdfa_cli.errors import (
    Diverged,
    Interrupted,
    RecipeError,
    RunDamaged,
    Unsupported,
    UsageError,
)
from fdfa_cli.network.base import NETWORKS
from fdfa_cli.network.layers import Linear
from fdfa_cli.network.modules import network_module
from fdfa_cli.rules.base import RULES
from fdfa_cli.streams import sample, stream

SMALL: dict[str, Any] = {
    "network": {"hidden": [12, 10]},
    "training": {"epochs": 2, "threads": 1, "device": "cpu"},
}
FLAGS = ["network.hidden=[12,10]", "training.epochs=2", "training.threads=1", "training.device=cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> fdfa_cli.Run:
    return fdfa_cli.train("digits/mlp", results=tmp_path_factory.mktemp("results"), progress=False, **SMALL)


def figures(run: fdfa_cli.Run) -> list[dict[str, Any]]:
    """The metrics without the clocks."""
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in run.metrics]


# --- training --------------------------------------------------------------------------------------------


def test_a_training_from_python_is_the_one_of_the_command_line(trained, tmp_path):
    assert fdfa(["train", "digits/mlp", *FLAGS, "--results", str(tmp_path), "--quiet"]) == 0
    (typed,) = fdfa_cli.runs(tmp_path)
    assert trained.status == typed.status == "completed"
    assert trained.recipe == typed.recipe
    assert figures(trained) == figures(typed)
    assert trained.summary["test_accuracy"] == typed.summary["test_accuracy"]


def test_the_stored_command_trains_the_same(trained, tmp_path):
    command = trained._folder.record.provenance[0]["command"]
    assert command[:3] == ["fdfa", "train", "digits/mlp"]
    assert fdfa([*command[1:], "--results", str(tmp_path), "--quiet"]) == 0
    assert figures(fdfa_cli.runs(tmp_path)[0]) == figures(trained)


@pytest.mark.parametrize("kind", ["file", "mapping", "recipe"])
def test_a_recipe_is_a_file_a_name_a_mapping_or_itself(tmp_path, kind):
    named = fdfa_cli.load("digits/mlp", rule="dfa", **SMALL)
    file = tmp_path / "mine.yaml"
    file.write_text("data: digits\nnetwork: {name: mlp, hidden: [12, 10]}\nrule: dfa\n")
    source = {
        "file": file,
        "mapping": {"data": "digits", "network": {"name": "mlp", "hidden": (12, 10)}, "rule": "dfa"},
        "recipe": named,
    }[kind]
    again = fdfa_cli.load(source, network={"hidden": [12, 10]})
    assert (again.data, again.network, again.rule) == (named.data, named.network, named.rule)


def test_a_mapping_with_a_name_replaces_a_section_and_another_one_changes_keys():
    base = fdfa_cli.load("digits/mlp", rule={"name": "fdfa", "feedback_rate": 0.5})
    changed = fdfa_cli.load(base, rule={"feedback_rate": 0.25}).rule
    assert (changed.name, changed.feedback_rate) == ("fdfa", 0.25)
    assert fdfa_cli.load(base, rule={"name": "fdfa"}).rule == RULES.get("fdfa")()
    assert fdfa_cli.load(base, training={"epochs": 7}).training.batch_size == base.training.batch_size


@pytest.mark.parametrize(
    ("source", "overrides", "said"),
    [
        ("digits/mlpp", {}, "did you mean 'digits/mlp'"),
        ("digits/mlp", {"rule": "fdfaa"}, "did you mean 'fdfa'"),
        ("digits/mlp", {"training": {"epoch": 3}}, "argument training.epoch: "),
        ("digits/mlp", {"trainings": {"epochs": 3}}, "did you mean 'training'"),
        ({"data": "digits"}, {}, "recipe: "),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(source, overrides, said):
    with pytest.raises(UsageError) as error:
        fdfa_cli.load(source, **overrides)
    assert said in str(error.value)


def test_a_stopped_training_goes_on_to_the_same_digits(trained, tmp_path):
    started: list[fdfa_cli.Run] = []
    asked = iter(range(10**6))
    with pytest.raises(Interrupted):
        fdfa_cli.train(
            "digits/mlp",
            results=tmp_path,
            progress=False,
            stop=lambda: next(asked) >= 30,
            started=started.append,
            **SMALL,
        )
    (run,) = started
    assert run.status == "running"
    assert fdfa_cli.Run(run.path).status == "interrupted"
    ended = fdfa_cli.resume(run.path, progress=False)
    assert figures(ended) == figures(trained)
    before, after = (torch.load(r.path / "checkpoint.pt") for r in (trained, ended))
    for name, value in before["params"].items():
        assert torch.equal(after["params"][name], value)
    assert fdfa_cli.resume(ended, progress=False).summary == ended.summary  # completed: as it is


def test_a_training_that_diverges_is_stored_and_raised(tmp_path):
    with pytest.raises(Diverged):
        fdfa_cli.train(
            "digits/mlp", results=tmp_path, progress=False, optimizer={"name": "sgd", "lr": 1e30}, **SMALL
        )
    (run,) = fdfa_cli.runs(tmp_path)
    assert (run.status, "not finite" in str(run.error)) == ("diverged", True)


def test_nothing_is_printed_but_by_progress(tmp_path, capfd, caplog):
    with caplog.at_level(logging.INFO, logger="fdfa_cli"):
        fdfa_cli.train("digits/mlp", results=tmp_path, progress=False, **SMALL)
    assert capfd.readouterr() == ("", "")
    fdfa_cli.train("digits/mlp", results=tmp_path, **SMALL)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("epoch ") == 2


def test_a_section_that_only_another_function_reads_is_refused(tmp_path):
    section = {"seeds": 2, "parameters": {"optimizer.lr": {"values": [0.1]}}}
    with pytest.raises(RecipeError, match="only `fdfa sweep` reads the section sweep"):
        fdfa_cli.train("digits/mlp", results=tmp_path, sweep=section, **SMALL)
    with pytest.raises(RecipeError, match="only `fdfa sweep` reads the section sweep"):
        fdfa_cli.compare("digits/mlp", ["bp", "dfa"], results=tmp_path, sweep=section, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_before_the_loop_begins_is_the_end_of_the_run(tmp_path):
    def refuse(run: fdfa_cli.Run) -> None:
        raise RuntimeError("not this one")

    with pytest.raises(RuntimeError, match="not this one"):
        fdfa_cli.train("digits/mlp", results=tmp_path, progress=False, started=refuse, **SMALL)
    (run,) = fdfa_cli.runs(tmp_path)
    assert (run.status, run.error) == ("failed", "not this one")


# --- what was trained ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_network_in_torch_s_modules_computes_the_same(name, norm):
    shape, options = (3, 64, 64), NETWORKS.get(name)
    given = {"norm": norm} if "norm" in options.model_fields else {}
    network = options.model_validate(given).build(shape, 10)
    params = sample(network.parameters(), stream(0, "init"))
    buffers = sample(network.buffers(), stream(0, "init"))
    for value in buffers.values():
        value += torch.rand(value.shape, generator=stream(1, "buffers"))
    x = torch.randn(4, *shape, generator=stream(0, "x"))
    with torch.no_grad():
        made = network_module(network, params, buffers)(x)
        torch.testing.assert_close(made, network.predict(params, buffers, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "softplus", "identity"]
)
def test_every_activation_has_a_module(activation):
    options = {"hidden": (8,), "norm": "none", "activation": activation}
    network = NETWORKS.get("mlp").model_validate(options).build((5,), 3)
    params, x = sample(network.parameters(), stream(0, "init")), torch.randn(4, 5)
    with torch.no_grad():
        torch.testing.assert_close(network_module(network, params, {})(x), network.predict(params, {}, x))


def test_a_layer_without_a_module_is_named_until_it_says_which_it_is():
    from fdfa_cli.network.modules import as_module

    class Doubled(Linear):
        """A layer of one's own, which is not what it derives from."""

    as_module.register(Doubled, as_module.dispatch(object))
    with pytest.raises(Unsupported, match="layer Doubled has no torch module"):
        as_module(Doubled(3, 3), (3,))
    as_module.register(Doubled, lambda layer, shape: torch.nn.Identity())
    assert isinstance(as_module(Doubled(3, 3), (3,)), torch.nn.Identity)


def test_a_model_scores_what_the_run_scored(trained):
    model = trained.model()
    splits = trained.recipe.data.load(data_root(), torch.device("cpu"))
    x = splits.test.batch(torch.arange(len(splits.test)))
    accuracy = (model(x).argmax(1) == splits.test.labels).float().mean().item()
    assert accuracy == pytest.approx(trained.summary["test_accuracy"])
    assert trained.evaluate()["accuracy"] == pytest.approx(accuracy)
    assert trained.evaluate("validation")["accuracy"] == pytest.approx(trained.summary["val_accuracy"])
    assert not model.training
    normalising = trained.model(normalise=True)
    raw = splits.test.images.float() / trained.recipe.data.white
    torch.testing.assert_close(normalising(raw), model(x), rtol=1e-4, atol=1e-4)


def test_a_model_is_an_ordinary_module(trained, tmp_path):
    model, x = trained.model(), torch.randn(3, 1, 8, 8, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is not None for parameter in model.parameters())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    stored = torch.load(trained.path / "checkpoint.pt")["params"]
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        name: tuple(p.shape) for name, p in stored.items()
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_model_exported_to_onnx_computes_the_same(trained, tmp_path):
    import onnxruntime

    model, x = trained.model(), torch.randn(5, 1, 8, 8)
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", input_names=["x"], dynamo=True)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(x).detach(), rtol=1e-5, atol=1e-5)


def test_what_has_no_model_says_why(trained, tmp_path):
    ff = fdfa_cli.train("digits/mlp", results=tmp_path, progress=False, rule="ff", **SMALL)
    with pytest.raises(Unsupported, match="ff does not classify by the network's logits"):
        ff.model()
    assert ff.evaluate()["accuracy"] == pytest.approx(ff.summary["test_accuracy"])
    (ff.path / "checkpoint.pt").unlink()
    with pytest.raises(UsageError, match="no checkpoint"):
        ff.evaluate()
    (ff.path / "checkpoint.pt").write_bytes((trained.path / "checkpoint.pt").read_bytes()[:-100])
    with pytest.raises(RunDamaged, match=r"checkpoint\.pt: damaged"):
        ff.evaluate()


# --- runs, sweeps, comparisons -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> fdfa_cli.Sweep:
    section = {
        "seeds": 1,
        "parameters": {"rule": {"values": ["bp", "dfa"]}, "optimizer.lr": {"values": [0.1, 0.01]}},
    }
    return fdfa_cli.sweep(
        "digits/mlp",
        name="mine",
        results=tmp_path_factory.mktemp("sweeps"),
        progress=False,
        sweep=section,
        optimizer="sgd",
        **SMALL,
    )


def test_a_sweep_has_its_runs_and_its_winner(swept):
    assert swept.path.name.startswith("mine-sweep-")
    assert len(swept.runs) == 4
    assert swept.runs[0].recipe.rule.name == swept.best["rule"]
    assert set(swept.best or {}) == {"rule", "optimizer.lr"}
    assert swept.result.statuses["completed"] == 4


def test_runs_are_chosen_as_by_the_report_and_become_a_frame(swept):
    chosen = fdfa_cli.runs(swept.path.parent, where=["rule=dfa", "optimizer.lr>=0.05"])
    assert [(run.recipe.rule.name, run.recipe.optimizer.lr) for run in chosen] == [("dfa", 0.1)]
    everything = fdfa_cli.runs(swept.path)
    assert len(everything) == 4
    assert len(everything[1:3]) == 2
    for frame in (everything.to_pandas(), everything.to_polars()):
        assert isinstance(frame, pandas.DataFrame | polars.DataFrame)
        assert len(frame) == 4
        assert sorted(frame["optimizer.lr"]) == [0.01, 0.01, 0.1, 0.1]
        assert list(frame["test_accuracy"]) == [run.summary["test_accuracy"] for run in everything]
    with pytest.raises(UsageError, match=r"did you mean 'optimizer\.lr'"):
        fdfa_cli.runs(swept.path, where="optimizer.lrr>1")


def test_a_damaged_run_hides_no_other(trained, tmp_path):
    fdfa_cli.train("digits/mlp", results=tmp_path, progress=False, **SMALL)
    broken = fdfa_cli.train("digits/mlp", results=tmp_path, progress=False, rule="dfa", **SMALL)
    (broken.path / "run.json").write_text("{")
    found = fdfa_cli.runs(tmp_path)
    assert [run.recipe.rule.name for run in found] == ["bp"]
    assert [error.folder for error in found.damaged] == [broken.path]


def test_the_runs_of_a_smaller_sweep_are_its_own(swept):
    section = {"seeds": 1, "parameters": {"rule": {"values": ["dfa"]}, "optimizer.lr": {"values": [0.1]}}}
    again = fdfa_cli.sweep(
        "digits/mlp",
        name="mine",
        results=swept.path.parent,
        progress=False,
        sweep=section,
        optimizer="sgd",
        **SMALL,
    )
    assert again.path == swept.path
    assert [(run.recipe.rule.name, run.recipe.optimizer.lr) for run in again.runs] == [("dfa", 0.1)]


def test_a_comparison_has_figures_for_each_rule(tmp_path):
    compared = fdfa_cli.compare(
        "digits/mlp", ["bp", "dfa"], seeds=3, results=tmp_path, progress=False, **SMALL
    )
    assert list(compared.figures) == ["bp", "dfa"]
    assert compared.figures["dfa"]["n"] == 3
    assert compared.figures["dfa"]["p_holm"] is not None
    assert len(compared.runs) == 6
    again = fdfa_cli.compare("digits/mlp", ["bp", "dfa"], seeds=3, results=tmp_path, progress=False, **SMALL)
    assert [run.path for run in again.runs] == [run.path for run in compared.runs]  # nothing trained again


# --- the face ----------------------------------------------------------------------------------------------


def test_every_public_name_is_there_and_no_other():
    assert sorted(fdfa_cli._MODULES) == sorted({*fdfa_cli.__all__} - {"__version__", "layers"})
    for name in fdfa_cli.__all__:
        assert getattr(fdfa_cli, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        fdfa_cli.trian  # noqa: B018
    assert (Path(fdfa_cli.__file__).parent / "py.typed").exists()


def test_importing_it_and_asking_for_its_names_loads_nothing_heavy():
    code = (
        "import sys, fdfa_cli\n"
        "print({'torch', 'pydantic'} & {*sys.modules})\n"
        "fdfa_cli.train, fdfa_cli.RULES, fdfa_cli.runs\n"
        "print({'torch', 'scipy', 'optuna', 'matplotlib'} & {*sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\nset()\n"
