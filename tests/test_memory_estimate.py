"""The estimate of a training's memory, and what is done with it.

The estimate is a formula over what layers and rules declare. It is held here against the tensors themselves:
a step on torch's meta device, where tensors have sizes and no contents, and a mode follows those alive.
`benchmarks/memory.py --trainings` compares it with what processes take.
"""

from __future__ import annotations

import resource
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fdfa_cli import machine
from fdfa_cli.cli import run
from fdfa_cli.data.base import Counts
from fdfa_cli.errors import FdfaError, UsageError
from fdfa_cli.network.layers import Mode
from fdfa_cli.network.losses import LOSSES, Batch
from fdfa_cli.optim.optimizers import OPTIMIZERS
from fdfa_cli.optim.state import OptimizerState
from fdfa_cli.recipe.resolve import read
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.rules.base import RULES
from fdfa_cli.rules.step import Step
from fdfa_cli.streams import Draw, allocated, in_axis_order
from fdfa_cli.training import footprint as footprints
from fdfa_cli.training import preflight
from fdfa_cli.training.footprint import EVALUATION_BATCH, footprint, memory_in_words, size

#: What an estimate may be off.
LEAST, MOST = 0.67, 1.5

NETWORKS = {
    "mlp": ("mnist/mlp", []),
    "cnn": ("cifar10/cnn", []),
    "alexnet": ("cifar100/alexnet", ["data.resize=64"]),
    "resnet": ("cifar10/cnn", ["network={name: resnet, depth: 8}"]),
}


class Alive(TorchDispatchMode):
    """Follows the bytes of all storages that operations make until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to tell the compiler so, torch would import all of it

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, count = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self.now += count
        self.peak = max(self.peak, self.now)

        def freed(_: object) -> None:
            self.now -= count
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, freed)


def made(draws: dict[str, Draw]) -> dict[str, torch.Tensor]:
    return {name: in_axis_order(allocated(draw, torch.device("meta")), draw) for name, draw in draws.items()}


def alive(recipe: Recipe) -> tuple[int, int]:
    """Bytes at the peak of a step and of a batch of evaluation, parameters and optimizer state included."""
    rule, count, meta = recipe.rule, recipe.training.batch_size, torch.device("meta")
    network = recipe.network.build(recipe.data.shape(), recipe.data.classes())
    with torch.no_grad(), Alive() as mode:
        params, buffers, state = (
            made(network.parameters()),
            made(network.buffers()),
            made(rule.state(network)),
        )
        kept = [
            OptimizerState.new(tensors, optimizer)
            for tensors, (optimizer, _) in (
                (params, rule.weight_training(recipe.optimizer, recipe.schedule)),
                (state, rule.feedback_training(recipe.optimizer, recipe.schedule)),
            )
        ]
        x = torch.empty(count, *network.shape, device=meta)
        x = x.bfloat16() if recipe.training.precision == "bf16" else x
        labels = torch.empty(count, dtype=torch.int64, device=meta)
        noise, perturbations = made(network.noise(count)), made(rule.perturbations(network, count, 0))
        how = Mode(training=True, buffers=buffers, noise=noise)
        mode.peak = mode.now
        rule.step(
            Step(network, params, state, Batch(x, labels, how, LOSSES[recipe.training.loss]), perturbations)
        )
        step = mode.peak
        del x, labels, noise, perturbations, how
        mode.peak = mode.now
        rule.predict(network, params, buffers, torch.empty(EVALUATION_BATCH, *network.shape, device=meta))
        assert len(kept) == 2
        return step, mode.peak


#: The operations that every processor runs.
pytestmark = pytest.mark.usefixtures("reference_kernels")


def recipe(network: str, *overrides: str) -> Recipe:
    name, own = NETWORKS[network]
    return read(name, [*own, *overrides]).recipe


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rule", list(RULES))
def test_the_estimate_is_near_what_is_alive(rule: str, network: str, precision: str) -> None:
    some = recipe(network, f"rule={rule}", f"training.precision={precision}")
    estimate, (step, evaluation) = footprint(some), alive(some)
    assert LEAST <= (estimate.model + estimate.step) / step <= MOST
    assert LEAST <= (estimate.model + estimate.evaluation) / evaluation <= MOST


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_slots_are_counted_without_torch_as_they_are_made(optimizer: str, momentum: float) -> None:
    model = OPTIMIZERS.get(optimizer)
    if "momentum" not in model.model_fields and momentum:
        pytest.skip("has no momentum")
    made = model(**({"momentum": momentum} if momentum else {}))
    assert made.slot_count == len(made.init_slots(torch.zeros(3)))


def test_the_data_counts_as_it_is_read_and_as_it_stays() -> None:
    whole = footprint(recipe("mlp"))
    assert whole.data == 784 * 70_000
    assert whole.reading == 784 * (2 * 60_000 + 10_000)
    some = footprint(recipe("mlp", "data.limit=600"))
    assert some.data == 784 * (600 + 600 + 10_000)
    assert some.reading == whole.reading


def test_a_folder_of_images_counts_once_its_files_are_listed(tmp_path: Path) -> None:
    pixels = torch.arange(12, dtype=torch.uint8).reshape(2, 2, 3).numpy()
    image = pytest.importorskip("PIL.Image")
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for i in range(5):
            image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    data = read("digits/mlp", [f"data={{name: image_folder, folder: {tmp_path}, size: 8}}"]).recipe.data
    assert data.counts() is None
    counts = data.counted(tmp_path)
    assert counts == Counts(8, 2)
    assert data.sample_bytes() == 3 * 8 * 8


# --- what is done with it -----------------------------------------------------------------------------


def say(capsys: pytest.CaptureFixture[str], code: int, *command: str) -> str:
    assert run([*command]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def free(count: int) -> Callable[[str], int]:
    return lambda device: count


QUICK = ["training.epochs=1", "training.threads=1", "network.hidden=[4]"]
GRID = ["sweep.parameters={optimizer.lr: {values: [0.01, 0.1]}}", "sweep.seeds=1"]
COMMANDS = {
    "train": ["train", "digits/mlp", *QUICK],
    "sweep": ["sweep", "digits/sweep", *QUICK, *GRID, "--engine", "serial", "-q"],
    "compare": ["compare", "digits/mlp", *QUICK, "--rules", "bp", "--seeds", "1", "-q"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_more_memory_than_is_free_is_refused_before_anything_is_made(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "free_memory", free(2**20))
    words = [*COMMANDS[command], "--results", str(tmp_path)]
    said = say(capsys, 2, *words)
    assert "of memory, and 1 MiB are free" in said
    assert not list(tmp_path.rglob("run.json"))
    assert "free" not in say(capsys, 0, *words, "--ignore-limits")
    assert list(tmp_path.rglob("run.json"))


def test_trainings_at_a_time_need_their_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    some = [preflight.Need(one, footprint(one)) for one in (recipe("mlp"), recipe("cnn"), recipe("mlp"))]
    peaks = sorted((need.footprint.peak + footprints.IMPORT for need in some), reverse=True)
    monkeypatch.setattr(preflight, "free_memory", free(peaks[0] + peaks[1]))
    preflight.require_memory(some, at_once=2)
    monkeypatch.setattr(preflight, "free_memory", free(peaks[0] + peaks[1] - 1))
    with pytest.raises(UsageError, match=r"2 trainings at a time need about .* fewer --jobs"):
        preflight.require_memory(some, at_once=2)
    preflight.require_memory(some, at_once=1)


@pytest.mark.parametrize(
    "override",
    [
        "network.hidden=[1000000000000]",
        "data.resize=100000",
        "data={name: synthetic, samples: 1000000000000}",
    ],
)
def test_what_no_machine_at_hand_has_is_refused(
    override: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = say(capsys, 2, "train", "digits/mlp", override, "--results", str(tmp_path))
    assert "of memory, and" in said
    assert "--ignore-limits" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "override",
    [
        f"network.hidden=[{2**63 - 1}]",
        f"data.resize={2**63 - 1}",
        f"data={{name: synthetic, samples: {2**63 - 1}}}",
        f"data={{name: synthetic, hidden: {2**63 - 1}}}",
        f"rule={{name: fg-w, tangents: {2**63 - 1}}}",
        f"network={{name: resnet, width: {2**63 - 1}}}",
    ],
)
@pytest.mark.parametrize("command", [["recipe", "check"], ["train", "--ignore-limits"]])
def test_what_no_machine_has_is_refused_in_any_case(
    command: list[str], override: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = ["--results", str(tmp_path)] if command[0] == "train" else []
    assert "no machine can address" in say(capsys, 2, *command, "digits/mlp", override, *where)
    assert not list(tmp_path.iterdir())


def test_a_limit_on_the_address_space_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (unlimited, unlimited))
    assert machine._address_space() > 2**60
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**50, unlimited))
    assert 0 < machine._address_space() < 2**50
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**20, unlimited))
    assert machine.free_memory() == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("std::bad_alloc"),
        RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. Error code 12"
        ),
        RuntimeError("Storage size calculation overflowed with sizes=[9223372036854775807]"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    ],
)
def test_exhausted_memory_is_a_sentence(error: Exception) -> None:
    with (
        pytest.raises(FdfaError, match=r"ran out of memory.* a smaller") as raised,
        memory_in_words(),
    ):
        raise error
    assert ("4096 bytes" in str(error)) == ("4096 bytes" in str(raised.value))


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), memory_in_words():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_training_that_runs_out_of_memory_has_failed_and_says_so(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes.")

    monkeypatch.setattr("fdfa_cli.training.state.TrainState.step", exhausted)
    said = say(capsys, 1, *COMMANDS[command], "--results", str(tmp_path))
    (stored, *_) = tmp_path.rglob("run.json")
    assert '"failed"' in stored.read_text()
    assert "ran out of memory when it asked for 4096 bytes more" in said + stored.read_text()


# --- disk, classes ------------------------------------------------------------------------------------


def test_checkpoints_that_do_not_fit_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = preflight.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    results = tmp_path / "not" / "yet"
    words = [*COMMANDS["train"], "--results", str(results)]
    said = say(capsys, 2, *words)
    assert "checkpoints and metrics need about" in said
    assert "97.7 KiB are free" in said
    assert not list(tmp_path.iterdir())
    say(capsys, 0, *words, "--ignore-limits")


def test_a_checkpoint_is_as_large_as_was_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wide = ["network.hidden=[500, 500]", "training.epochs=1", "training.threads=1"]
    for rule in ("bp", "fa", "fdfa", "kp"):
        some = read("digits/mlp", [*wide, f"rule={rule}"]).recipe
        results = tmp_path / rule
        say(capsys, 0, "train", "digits/mlp", *wide, f"rule={rule}", "--results", str(results))
        (stored,) = results.glob("*/checkpoint.pt")
        assert footprint(some).checkpoint == pytest.approx(stored.stat().st_size, rel=0.02)


def test_a_large_checkpoint_is_mentioned(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    some = recipe("mlp", "network.hidden=[110000]")
    need = preflight.Need(some, footprint(some))
    assert need.footprint.checkpoint > preflight.LARGE
    preflight._require_room([need], tmp_path, 1, ignore=True)
    assert f"a checkpoint takes {size(need.footprint.checkpoint)} in {tmp_path}" in capsys.readouterr().err
    small = recipe("mlp")
    preflight._require_room([preflight.Need(small, footprint(small))], tmp_path, 1, ignore=True)
    assert capsys.readouterr().err == ""


def test_one_class_is_mentioned(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    some = read("digits/mlp", []).recipe
    preflight.require([some], Path(), Path())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(type(some.data), "classes", lambda self: 1)
    preflight.require([some], Path(), Path())
    assert "digits has 1 class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 KiB"),
        (2**20, "1 MiB"),
        (38 * 2**30, "38 GiB"),
        (5 * 2**39, "2.5 TiB"),
        (2**63, "more than 8 EiB"),
    ],
)
def test_sizes_are_said_in_words(count: int, words: str) -> None:
    assert size(count) == words
