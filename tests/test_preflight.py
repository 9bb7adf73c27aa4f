"""What a training needs is looked at before it starts; see also test_memory_estimate.py."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from fdfa_cli.cli import run
from fdfa_cli.data.digits import Digits
from fdfa_cli.network.kernels import VARIABLE
from fdfa_cli.recipe.resolve import read
from fdfa_cli.registry import LARGEST

QUICK = ["training.epochs=1", "network.hidden=[4]", "training.threads=1"]


def refused(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """What `fdfa` says of a command that it must refuse: one sentence, exit 2."""
    assert run(shlex.split(command)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


# --- batches, sizes, numbers: known to `recipe check` --------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            "training.drop_last=true training.batch_size=1198",
            ["override 'training.batch_size=1198'", "1197 training samples", "the most is 1197"],
        ),
        ("training.drop_last=true data.limit=1", ["1 training samples do not make a batch of 32"]),
        ("data.limit=1", ["one sample", "network.norm=layer"]),
        ("training.batch_size=1", ["override 'training.batch_size=1'", "one sample", "network.norm=layer"]),
        ("data.validation=1397", ["data.validation: 1397 of the 1397", "the most is 1396"]),
        ("'data={name: synthetic, samples: 50, test: 50}'", ["data.test: 50 of 50 samples leaves none"]),
        (
            "'data={name: synthetic, samples: 50, validation: 45}'",
            ["data.validation: 45 of the 40", "the most is 39"],
        ),
        ("training.threads=1025", ["training.threads must be at most 1024, not 1025"]),
        ("'optimizer={name: rmsprop, weight_decay: 1e39}'", ["optimizer.weight_decay: ", "1e+30"]),
        ("'rule={name: pepita, feedback_scale: 1e39}'", ["rule.feedback_scale: ", "1e+30"]),
        ("optimizer.lr=1e31", ["optimizer.lr: ", "1e+30", "not 1e+31"]),
        ("rule=ff training.loss=mse", ["rule 'ff'", "goodness", "training.loss=cross_entropy"]),
        ("rule=ff training.loss=bce", ["rule 'ff'", "goodness", "training.loss=cross_entropy"]),
    ],
)
@pytest.mark.parametrize("command", ["recipe check", "train"])
def test_what_cannot_work_is_said_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, overrides: str, words: list[str]
) -> None:
    results = f" --results {tmp_path / 'results'}" if command == "train" else ""
    said = refused(capsys, f"fdfa {command} digits/mlp {overrides}{results}".removeprefix("fdfa "))
    assert all(word in said for word in words), said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.batch_size=1", "network.norm=layer"],
        ["training.batch_size=1", "network.norm=none"],
        ["training.batch_size=4", "data.limit=5"],  # a last batch of one
        ["training.drop_last=true", "training.batch_size=1197"],
        ["data.validation=1395", "training.batch_size=2"],
        ["rule=ff", "training.loss=cross_entropy"],
        [f"optimizer.lr={LARGEST:.0f}."],
        ["training.threads=1024"],
        # every batch norm sees 64 positions, then 16, then 4 of a sample
        ["network=resnet", "training.batch_size=1"],
    ],
)
def test_what_works_is_not_refused(overrides: list[str]) -> None:
    read("digits/mlp", overrides)


def test_batch_norm_of_one_sample_is_refused_where_torch_refuses_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torch.nn.functional.batch_norm(torch.ones(1, 3), None, None, training=True)
    torch.nn.functional.batch_norm(torch.ones(1, 3, 2, 1), None, None, training=True)
    # The dense block of a convolutional network, and a ResNet whose last stage sees one position.
    assert "one sample" in refused(capsys, "recipe check mnist/cnn training.batch_size=1")
    small = "recipe check digits/mlp network=resnet training.batch_size=1 data.resize=4"
    assert "one sample" in refused(capsys, small)


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_sizes_known_without_the_files_are_those_of_the_files(name: str) -> None:
    from fdfa_cli.data import data_root
    from fdfa_cli.errors import DataNotFound

    data = read("digits/mlp", [f"data={name}"]).recipe.data
    try:
        train, test = data.read(data_root())
    except DataNotFound:
        pytest.skip(f"{name} is not on this machine")
    assert data.counts() == (len(train), len(test), 0)
    assert data.sample_bytes() == train.images[0].nbytes


@pytest.mark.parametrize(("limit", "validation"), [(None, 200), (None, 0.3), (50, 200), (300, 0), (250, 200)])
def test_sizes_of_the_sets_are_those_that_are_loaded(limit: int | None, validation: float) -> None:
    import torch

    data = Digits(limit=limit, validation=validation)
    splits = data.load(Path(), torch.device("cpu"))
    assert data.sizes(data.counts()) == (len(splits.train), len(splits.test), len(splits.validation))


# --- trainings without a test or a validation set -----------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"), [("test: 0", "no test set"), ("validation: 0", "test accuracy")]
)
def test_a_training_without_a_test_or_a_validation_set(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: str, told: str
) -> None:
    data = f"data={{name: synthetic, samples: 100, {options}}}"
    assert run(["train", "digits/mlp", *QUICK, data, "--results", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert told in captured.err
    summary = json.loads((Path(captured.out.strip()) / "run.json").read_text())
    assert summary["status"] == "completed"
    assert ("test_accuracy" in summary["summary"]) == (options != "test: 0")


def test_a_sweep_without_a_test_set_has_a_winner_without_a_test_accuracy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = "data={name: synthetic, samples: 100, test: 0}"
    grid = ["sweep.parameters={optimizer.lr: {values: [0.01, 0.1]}}", "sweep.seeds=1"]
    assert run(["sweep", "digits/sweep", *QUICK, data, *grid, "--quiet", "--results", str(tmp_path)]) == 0
    assert "no test set" in capsys.readouterr().out


def test_a_comparison_needs_a_test_or_a_validation_set(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = "data={name: synthetic, samples: 100, test: 0%s}"
    words = [
        "compare",
        "digits/mlp",
        *QUICK,
        "--rules",
        "bp",
        "--seeds",
        "1",
        "-q",
        "--results",
        str(tmp_path),
    ]
    said = refused(capsys, shlex.join([*words, data % ", validation: 0"]))
    assert "leave neither" in said
    assert not list(tmp_path.iterdir())
    assert run([*words, data % ""]) == 0
    assert "validation accuracy" in capsys.readouterr().out


# --- the environment -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train digits/mlp", "sweep digits/sweep"])
def test_kernels_that_there_are_not(fast_kernels, monkeypatch, tmp_path, capsys, command):
    """They are refused before a run is made, not trial by trial."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "slow")
    assert "FDFA_KERNELS must be fast or reference, not 'slow'" in refused(capsys, command)
    assert not [*Path("results").rglob("run.json")]
