"""Training: schedules against torch's, exact resume, divergence, interruption, independence of streams."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from over import over
from trainings import resumed, stopped, trained

from fdfa_cli.cli import run as fdfa
from fdfa_cli.errors import Interrupted, UsageError
from fdfa_cli.optim.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from fdfa_cli.optim.schedules import Constant, Cosine, Exponential, Schedule, Step
from fdfa_cli.optim.state import OptimizerState
from fdfa_cli.recipe.resolve import read
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.signals import stopping
from fdfa_cli.storage import RunFolder
from fdfa_cli.training import device
from fdfa_cli.training.state import TrainState
from fdfa_cli.training.training_run import CheckpointInterval, TrainingRun

SMALL = ("network.hidden=[16,12]", "training.epochs=4", "training.threads=1", "training.device=cpu")


def recipe(*overrides: str) -> Recipe:
    return read("digits/mlp", over(SMALL, *overrides)).recipe


def figures(run: RunFolder) -> list[dict[str, float]]:
    """The metrics without the clocks."""
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in run.metrics()]


def tensors(run: RunFolder) -> dict[str, torch.Tensor]:
    content = torch.load(run.checkpoint, weights_only=True)
    return {**content["params"], **content["buffers"], **content["state"]}


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    assert figures(one) == figures(other)
    mine, theirs = tensors(one), tensors(other)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Constant(), lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
        (Exponential(gamma=0.9), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)),
        (Step(every=3, gamma=0.5), lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5)),
        (Cosine(), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10)),
        (Cosine(floor=0.1), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10, eta_min=0.1)),
    ],
    ids=lambda value: value.name if isinstance(value, Schedule) else "",
)
def test_schedule_equals_torch_at_whole_epochs(ours, theirs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = theirs(optimizer)
    for epoch in range(10):
        assert ours.factor(epoch, 10) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_warm_up_is_linear_and_then_hands_over():
    schedule = Exponential(gamma=0.5, warmup=2.0)
    assert [schedule.factor(t, 10) for t in (0, 0.5, 1, 2, 3, 4)] == [0, 0.25, 0.5, 1, 0.5, 0.25]


def test_same_seed_same_digits_and_another_seed_others(tmp_path):
    first, again = (trained(tmp_path, recipe("rule=fdfa")) for _ in range(2))
    assert_same_run(first, again)
    assert figures(trained(tmp_path, recipe("rule=fdfa", "training.seed=1"))) != figures(first)


def test_rules_share_initial_weights_and_data_order(tmp_path):
    """Comparisons are paired: with rates of zero nothing distinguishes the rules' forward passes."""
    still = ("optimizer.lr=0", "rule.feedback_rate=0.5")
    bp = trained(tmp_path, recipe("rule=bp", "optimizer.lr=0"))
    fdfa_run = trained(tmp_path, recipe("rule=fdfa", *still))
    losses = [[row["train_loss"] for row in run.metrics()] for run in (bp, fdfa_run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("steps", [1, 7, 19, 20, 45])
@pytest.mark.parametrize(
    "overrides", [("rule=fdfa",), ("rule=fdfa-adam", "network.dropout=0.2", "schedule=cosine")]
)
def test_stopped_anywhere_and_resumed_ends_bit_identical(tmp_path, steps, overrides):
    options = recipe(*overrides)
    whole = trained(tmp_path, options)
    asked = iter(range(10**9))
    run = stopped(tmp_path, options, lambda: next(asked) >= steps)
    assert RunFolder.open(run.path).status == "interrupted"
    assert_same_run(whole, resumed(run, options))


def start_process(folder: Path, *arguments: str, quiet: bool = True) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fdfa_cli", "train", *arguments, "--results", str(folder)]
    return subprocess.Popen(command + ["--quiet"] * quiet, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def epochs_stored(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*/metrics.jsonl"))


def kill_after(process: subprocess.Popen[bytes], folder: Path, epochs: int, number: int) -> None:
    """Send signal `number` once `epochs` rows are stored."""
    while epochs_stored(folder) < epochs:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)


LONG = ("digits/mlp", "rule=fdfa", *SMALL[:1], "training.epochs=30", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> RunFolder:
    folder = tmp_path_factory.mktemp("whole")
    options = recipe("rule=fdfa", "training.epochs=30")
    return trained(folder, options)


@pytest.mark.parametrize("epochs", [1, 8, 19])
def test_killed_process_resumes_to_the_same_digits(tmp_path, uninterrupted, epochs):
    process = start_process(tmp_path, *LONG)
    kill_after(process, tmp_path, epochs, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (path,) = tmp_path.iterdir()
    assert RunFolder.open(path).status == "interrupted"
    assert fdfa(["train", "--resume", str(path), "--quiet"]) == 0
    assert_same_run(uninterrupted, RunFolder.open(path))


def test_interrupted_process_exits_130_with_a_checkpoint(tmp_path, uninterrupted):
    folder, plugin = tmp_path / "runs", tmp_path / "own rules.py"
    plugin.touch()
    process = start_process(folder, *LONG, "--plugin", str(plugin))
    kill_after(process, folder, 3, signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130, errors
    assert b"Traceback" not in errors
    (path,) = folder.iterdir()
    assert output.decode().splitlines()[-1] == str(path)
    assert RunFolder.open(path).status == "interrupted"
    told = re.fullmatch(r"fdfa: (interrupted in epoch \d+); to go on: fdfa (.*)\n", errors.decode())
    assert told, errors
    assert RunFolder.open(path).record.error == told[1]
    command = shlex.split(told[2])
    assert command == ["train", "--resume", str(path), "--plugin", str(plugin)]
    assert fdfa([*command, "--quiet"]) == 0
    assert_same_run(uninterrupted, RunFolder.open(path))


def test_a_signal_to_the_process_and_its_group_is_one_stop(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with stopping() as stop:
        assert not stop()
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
            now[0] += 0.4
            assert stop()
        with pytest.raises(Interrupted, match="twice"):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_signalled_twice_at_once_it_leaves_a_checkpoint(tmp_path, uninterrupted, first):
    """By two signals, since of one that is still pending a second is not kept."""
    process = start_process(tmp_path, *LONG)
    kill_after(process, tmp_path, 3, first)
    process.send_signal(signal.SIGTERM if first == signal.SIGINT else signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    (path,) = tmp_path.iterdir()
    assert RunFolder.open(path).record.error is not None
    assert "twice" not in RunFolder.open(path).record.error
    assert fdfa(["train", "--resume", str(path), "--quiet"]) == 0
    assert_same_run(uninterrupted, RunFolder.open(path))


def test_a_run_without_checkpoint_starts_again(tmp_path):
    options = recipe("rule=fdfa")
    run = TrainingRun.new(options, tmp_path, ["fdfa"]).run
    with pytest.raises(RuntimeError, match="power cut"), run:
        raise RuntimeError("power cut")
    assert fdfa(["train", "--resume", str(run.path), "--quiet"]) == 0
    assert_same_run(trained(tmp_path, options), RunFolder.open(run.path))


def test_divergence_is_stored_and_exits_1(tmp_path, capsys):
    arguments = ["train", "digits/mlp", "rule=bp", "optimizer=sgd", "optimizer.lr=1e30", *SMALL]
    assert fdfa([*arguments, "--results", str(tmp_path), "--quiet"]) == 1
    (path,) = tmp_path.iterdir()
    run = RunFolder.open(path)
    assert run.status == "diverged"
    assert run.metrics()[-1]["train_loss"] is None
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == str(path)
    assert err == "fdfa: the training loss is not finite in epoch 1\n"
    assert fdfa(["train", "--resume", str(path), "--quiet"]) == 1  # it diverges again
    assert capsys.readouterr().out.splitlines()[-1] == str(path)


@pytest.mark.parametrize("there", [[], ["train-images-idx3-ubyte"]], ids=["missing", "incomplete"])
def test_data_that_is_not_there_is_told_before_a_folder_is_made(tmp_path, capsys, monkeypatch, there):
    monkeypatch.setenv("FDFA_DATA", str(tmp_path / "data"))
    for file in there:
        (tmp_path / "data/MNIST/raw").mkdir(parents=True)
        (tmp_path / "data/MNIST/raw" / file).touch()
    assert fdfa(["train", "mnist/mlp", "--results", str(tmp_path / "results")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "fdfa data fetch mnist" in err
    assert not (tmp_path / "results").exists()


def test_last_line_on_stdout_is_the_run_folder(tmp_path, capsys):
    assert fdfa(["train", "digits/mlp", *over(SMALL, "training.epochs=1"), "--results", str(tmp_path)]) == 0
    path = Path(capsys.readouterr().out.strip().splitlines()[-1])
    summary = json.loads((path / "run.json").read_text())["summary"]
    assert summary["epochs"] == 1
    assert {
        "train_loss",
        "val_accuracy",
        "test_accuracy",
        "train_seconds",
        "peak_memory_bytes",
    } <= summary.keys()


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.precision=bf16", "rule=fdfa"),
        ("training.precision=tf32", "rule=fdfa"),
        ("training.drop_last=true", "rule=bp"),
        ("training.loss=mse", "rule=fdfa"),
        ("training.loss=bce", "rule=bp"),
        ("network.hidden=[]", "rule=fdfa"),
        ("optimizer={name: rmsprop, lr: 1e-3}", "rule=bp"),
        ("optimizer={name: adamw}", "rule=bp"),
        ("optimizer={name: sgd, lr: 0.1, momentum: 0.9, nesterov: true}", "rule=bp"),
    ],
    ids=" ".join,
)
def test_options_train_above_chance(tmp_path, overrides):
    """Chance is 0.1; four epochs of a small network reach far more under every option."""
    assert trained(tmp_path, recipe(*overrides)).record.summary["test_accuracy"] > 0.5


def test_resume_refuses_what_would_be_another_run(tmp_path, capsys):
    run = trained(tmp_path, recipe("training.epochs=1"))
    assert fdfa(["train", "--resume", str(run.path), "--seed", "3"]) == 2
    assert "training.seed" in capsys.readouterr().err
    assert fdfa(["train", "digits/mlp", "--resume", str(run.path)]) == 2


def test_terminal_shows_a_line_an_epoch_where_stderr_is_none(tmp_path, capsys):
    assert fdfa(["train", "digits/mlp", *SMALL, "--results", str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]


def test_environment_does_not_leak_into_the_run(tmp_path):
    run = trained(tmp_path, recipe("training.epochs=1"))
    text = (run.path / "run.json").read_text()
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(lr=0.1), partial(torch.optim.SGD, lr=0.1)),
        (
            SGD(lr=0.1, momentum=0.9, weight_decay=0.01),
            partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
        ),
        (SGD(momentum=0.8, nesterov=True), partial(torch.optim.SGD, lr=0.1, momentum=0.8, nesterov=True)),
        (Adam(lr=0.01, weight_decay=0.1), partial(torch.optim.Adam, lr=0.01, weight_decay=0.1)),
        (Adam(betas=(0.7, 0.9), eps=1e-3), partial(torch.optim.Adam, lr=1e-3, betas=(0.7, 0.9), eps=1e-3)),
        (AdamW(lr=0.01, weight_decay=0.2), partial(torch.optim.AdamW, lr=0.01, weight_decay=0.2)),
        (RMSprop(alpha=0.8, eps=1e-4), partial(torch.optim.RMSprop, lr=1e-3, alpha=0.8, eps=1e-4)),
        (
            RMSprop(lr=0.01, momentum=0.5, weight_decay=0.1),
            partial(torch.optim.RMSprop, lr=0.01, momentum=0.5, weight_decay=0.1),
        ),
    ],
    ids=lambda value: repr(value) if isinstance(value, Optimizer) else "",
)
def test_optimizer_equals_torch(ours, theirs):
    """Two tensors, one of which has no gradient at every second step: its steps are its own."""
    torch.manual_seed(0)
    tensors = {"often": torch.randn(5, 3), "seldom": torch.randn(4)}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    reference = theirs(leaves.values())
    state = OptimizerState.new(tensors, ours)
    for i in range(5):
        grads = {
            name: torch.randn_like(tensor) for name, tensor in tensors.items() if name == "often" or i % 2
        }
        for name, leaf in leaves.items():
            leaf.grad = grads.get(name)
        reference.step()
        state.apply(grads, ours, ours.lr)
    assert state.step_counts == {"often": 5, "seldom": 2}
    for name, leaf in leaves.items():
        torch.testing.assert_close(tensors[name], leaf.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_convolution_weights_follow_their_gradients(optimizer):
    """A fused optimizer pairs entries in memory order; the gradients of a CNN come channels-last."""
    options = read(
        "digits/mlp",
        ["network={name: cnn, channels: [3, 4], kernels: [3], hidden: [8]}", f"optimizer={optimizer}"],
    ).recipe
    network = options.network.build(options.data.shape(), options.data.classes())
    state = TrainState(options, network, 64, torch.device("cpu"))
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU(),
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(),
        torch.nn.Linear(8, 10),
    )  # fmt: skip
    own = list(module.parameters())
    for mine, theirs in zip(state.params.values(), own, strict=True):
        theirs.data.copy_(mine)
    reference = getattr(torch.optim, {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[optimizer])(
        own, lr=options.optimizer.lr, weight_decay=options.optimizer.weight_decay
    )
    x, y = torch.rand(3, 32, 1, 8, 8), torch.randint(10, (3, 32))
    for i in range(3):
        reference.zero_grad()
        torch.nn.functional.cross_entropy(module(x[i]), y[i]).backward()
        reference.step()
        with torch.no_grad():
            state.step(x[i], y[i])
    for (name, mine), theirs in zip(state.params.items(), own, strict=True):
        if mine.ndim < 2:  # the bias before a batch norm has no gradient but rounding, which Adam blows up
            continue
        assert (mine - theirs).abs().mean() < 1e-4, name


# --- the device --------------------------------------------------------------------------------------------


def test_gpus_are_asked_for_only_where_the_system_has_a_driver(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    (tmp_path / "null").touch()
    assert device.gpus(tmp_path) == 0
    (tmp_path / "nvidia0").touch()
    assert device.gpus(tmp_path) == 3


@pytest.mark.parametrize(
    ("wanted", "there", "found"),
    [
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda"),
        ("cpu", 1, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_device_that_is_chosen(monkeypatch, wanted, there, found):
    monkeypatch.setattr(device, "gpus", lambda: there)
    assert device.chosen(recipe(f"training.device={wanted}").training) == found


@pytest.mark.parametrize(("wanted", "there"), [("cuda", 0), ("cuda:1", 1)])
def test_device_that_is_not_there(monkeypatch, wanted, there):
    monkeypatch.setattr(device, "gpus", lambda: there)
    with pytest.raises(UsageError, match=f"'{wanted}' is not there: this machine has {there}"):
        device.chosen(recipe(f"training.device={wanted}").training)


# --- how often checkpoints are written ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch_seconds", "checkpoint_seconds", "expected"),
    [
        pytest.param(1, 1 / 16, [0, 3, 6, 9, 12], id="due 2.5 seconds after the last"),
        pytest.param(1 / 4, 1 / 16, [3, 13], id="due after the first second, being taken to need a fortieth"),
    ],
)
def test_checkpoints_take_a_fortieth_of_the_time_at_most(
    monkeypatch, epoch_seconds, checkpoint_seconds, expected
):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    interval, written = CheckpointInterval(), []
    for epoch in range(14):
        now[0] += epoch_seconds
        with interval.writing() as due:
            if due:
                written.append(epoch)
                now[0] += checkpoint_seconds
    assert written == expected
