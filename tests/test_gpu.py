"""On a real GPU, where there is one: trainings, evaluation, resuming and stacks. See also test_fake_cuda."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fdfa_cli.cli import run as fdfa
from fdfa_cli.data import data_root
from fdfa_cli.errors import Interrupted
from fdfa_cli.recipe.resolve import read
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import identity
from fdfa_cli.storage import RunFolder
from fdfa_cli.training.stack import StackedTrainState
from fdfa_cli.training.state import TrainState
from fdfa_cli.trials.engines.base import Job
from fdfa_cli.trials.engines.worker import train_job, train_stack
from fdfa_cli.trials.plan import Trial

GPU = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


def recipe(*overrides: str, seed: int = 0) -> Recipe:
    few = ["data.limit=300", "training.epochs=2", f"training.device={GPU}", f"training.seed={seed}"]
    return read("digits/mlp", [*few, *overrides]).recipe


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("rule", ["bp", "dfa", "fdfa", "fg-w", "ff"])
def test_it_trains_better_than_chance(tmp_path, rule, precision):
    """Four times chance at least, after four epochs of all digits."""
    options = [f"rule={rule}", f"training.precision={precision}", "training.epochs=4", "--device", GPU]
    assert fdfa(["train", "digits/mlp", *options, "--quiet", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    record = RunFolder.open(path).record
    assert record.status == "completed"
    assert record.summary["test_accuracy"] > (0.4 if rule in ("bp", "dfa", "fdfa") else 0.15)
    assert record.summary["peak_memory_bytes"] > 0
    assert record.provenance[0]["device"] == torch.cuda.get_device_name()


def test_what_is_stopped_goes_on(tmp_path):
    """Without atomics in its kernels a perceptron comes to the same, but CUDA does not promise digits."""
    one = recipe("rule=fdfa", "training.batch_size=30")
    whole = train_job(job(one, tmp_path / "whole"), lambda: False, 1)
    asked = iter(range(10**9))
    with pytest.raises(Interrupted):
        train_job(job(one, tmp_path / "stopped"), lambda: next(asked) >= 13, 1)
    (path,) = (tmp_path / "stopped").iterdir()
    ended = train_job(replace(job(one, tmp_path / "stopped"), run=path), lambda: False, 1)
    assert (ended.status, whole.status) == ("completed", "completed")
    assert_same_figures(ended.run, whole.run)


def test_stacked_trials_come_to_what_each_comes_to_alone(tmp_path):
    """Without batch norm no bias has a gradient of nothing but rounding, which Adam would blow up."""
    steady = ("network.norm=none", "rule=fdfa", "optimizer={name: adam, lr: 1e-3, eps: 1e-4}")
    recipes = [recipe(*steady, seed=seed) for seed in range(3)]
    together = train_stack([job(one, tmp_path / "stacked") for one in recipes], lambda: False, 3)
    for outcome in together:
        single = train_job(job(outcome.job.recipe, tmp_path / "alone"), lambda: False, 1)
        assert (outcome.status, single.status) == ("completed", "completed")
        assert_same_figures(outcome.run, single.run)


def test_evaluation_counts_what_predictions_hit():
    one = recipe("rule=dfa")
    device = torch.device(GPU)
    splits = one.data.load(data_root(), device)
    network = one.network.build(one.data.shape(), one.data.classes())
    states = [TrainState(one, network, len(splits.train), device) for _ in range(2)]
    with torch.no_grad():
        for _ in range(3):
            states[0].advance(splits.train)
            states[1].advance(splits.train)
        rows = torch.arange(50, device=device)
        x, labels = splits.test.batch(rows), splits.test.labels[:50]
        _, hits = StackedTrainState(states).score(x, labels)
        predicted = network.predict(states[0].params, states[0].buffers, x).argmax(1)
    assert hits.tolist() == [int((predicted == labels).sum())] * 2


def job(one: Recipe, folder: Path) -> Job:
    return Job(Trial(one, one.training.seed, identity(one)), folder)


def assert_same_figures(one: Path | None, other: Path | None) -> None:
    """Losses to rounding over some thirty steps; an accuracy may differ by a few samples whose logits tie."""
    rows: list[list[dict[str, Any]]] = [RunFolder.open(path).metrics() for path in (one, other) if path]
    assert len(rows) == 2
    for mine, theirs in zip(*rows, strict=True):
        for key in ("train_loss", "val_loss"):
            assert mine[key] == pytest.approx(theirs[key], rel=2e-3)
        for key in ("train_accuracy", "val_accuracy"):
            assert mine[key] == pytest.approx(theirs[key], abs=0.011)
