"""The GPU path without a GPU: whole epochs on tensors that have a device and no numbers.

Under torch's `FakeTensorMode` every operation finds shapes, types and devices as CUDA would, and needs no
driver. The real loop trains on them, alone and stacked: data, augmentation, draws, the rule's step,
optimizers, sums, evaluation, the next epoch's order. What is found so:

- a tensor that was left on the CPU: an operation on two devices fails;
- a wait for the device (`item`, `tolist`, a branch on a value) anywhere but where `WAITS` says;
- something copied between host and device in the middle of an epoch.

Three things stand in for the driver: generators (which exist for real devices only), the clock and the
measure of memory. Precision tf32 is a switch inside CUDA's kernels: to everything here it is fp32.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fdfa_cli import machine, streams
from fdfa_cli.data.base import Splits, Subset
from fdfa_cli.network.layers import Linear
from fdfa_cli.optim.optimizers import OPTIMIZERS
from fdfa_cli.recipe.resolve import read
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.rules.backprop import Backprop
from fdfa_cli.rules.base import RULES
from fdfa_cli.training import checkpoint, loop, state, total, traced
from fdfa_cli.training.grouping import groups
from fdfa_cli.training.progress import Bar
from fdfa_cli.training.stack import StackedTrainState
from fdfa_cli.training.state import TrainState
from fdfa_cli.training.training_run import CheckpointInterval, TrainingRun

GPU = torch.device("cuda", 0)
#: Who may wait for the device, and what for.
WAITS = {
    "TrainingRun.row": "the sums of an epoch, at its end",
    "evaluate": "loss and accuracy of a split, at its end",
    "steps": "whether the running loss is finite, every `loop.WATCH_EVERY` steps",
    "Bar.step": "the running loss, a few times a second",
}
#: Samples of a batch, and of one that is not whole.
BATCH, REST = 8, 4

NETWORKS = {
    "mlp": "network={name: mlp, hidden: [32, 24], dropout: 0.1}",
    "cnn": "network={name: cnn, channels: [4, 6], hidden: [16], dropout: 0.1}",
    "alexnet": "network={name: alexnet, width: 0.03}",
    "resnet": "network={name: resnet, depth: 8, width: 4}",
}


#: Steps that each of the trainings took.
TAKEN: list[int] = []


class Generator(torch.Generator):
    """A CPU's that says it is the GPU's: what it draws has no numbers anyway."""

    device = GPU


class Watch(TorchDispatchMode):
    """Notes, while `noting`, every operation that brings numbers from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.transfers: list[str] = []
        self.noting = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is torch.ops.aten._fused_sgd_.default:  # for which torch has no stand-in
            tensors, grads, velocity = args
            for tensor, grad in zip(tensors, grads, strict=True):
                assert _layout(grad) == _layout(tensor)
            assert {t.device for t in (*tensors, *grads, *velocity)} == {GPU}
            return None
        result = operation(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, torch.Tensor) and part.device.type in total.NARROW:
                assert part.dtype != torch.float64, operation
        if self.noting and operation in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[-1] if operation is torch.ops.aten.copy_.default else args[0]
            if isinstance(source, torch.Tensor) and source.device != result.device:
                self.transfers.append(f"{operation}: {source.device} to {result.device}")
        return result


class Rows(list[dict[str, Any]]):
    """A run that keeps its rows in memory."""

    checkpoint = Path("nowhere")

    def metrics(self) -> list[dict[str, Any]]:
        return self


class Shown(Bar):
    """The bar's looks at the running loss, at every step, without a terminal."""

    def __init__(self) -> None:
        self._looked, self._seen, self._epochs, self._task = -1e9, 0, 1, None
        self._bar: Any = self

    def start(self, recipe: Recipe, state: TrainState) -> None:
        pass

    def step(self, state: TrainState) -> None:
        self._looked = -1e9
        super().step(state)

    def update(self, task: Any, **shown: Any) -> None:
        assert shown["figures"].startswith("loss ")

    def epoch(self, row: dict[str, Any]) -> None:
        assert row["epoch"] == 1


def _allowed(depth: int = 2) -> bool:
    return sys._getframe(depth).f_code.co_qualname in WAITS


def _item(self: FakeTensor) -> float:
    return 1.0 if _allowed() else torch.Tensor.item(self)


def _tolist(self: FakeTensor) -> Any:
    return [1.0] * len(self) if _allowed() else torch.Tensor.tolist(self)


def _bool(self: FakeTensor) -> bool:
    return True if _allowed() else torch.Tensor.__bool__(self)


def _same_view(result: Any, argument: Any) -> bool:
    """As `traced._is_same_view`, of tensors whose memory has no address."""
    both = isinstance(result, torch.Tensor) and isinstance(argument, torch.Tensor)
    return both and _place(result) == _place(argument)


def _layout(t: torch.Tensor) -> tuple[Any, ...]:
    return t.shape, t.stride(), t.dtype


def _place(t: torch.Tensor) -> tuple[Any, ...]:
    return t.untyped_storage()._cdata, t.storage_offset(), *_layout(t)


@pytest.fixture(scope="module", autouse=True)
def _covered(request) -> Iterator[None]:
    """Says at the end how many steps there were."""
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{sum(TAKEN)} steps in {len(TAKEN)} epochs on fake CUDA tensors")


@pytest.fixture
def fake(monkeypatch) -> Iterator[FakeTensorMode]:
    """A GPU without numbers. What was cached for it is forgotten: a real one may be asked for later."""
    monkeypatch.setattr(FakeTensor, "item", _item, raising=False)
    monkeypatch.setattr(FakeTensor, "tolist", _tolist, raising=False)
    monkeypatch.setattr(FakeTensor, "__bool__", _bool, raising=False)
    monkeypatch.setattr(traced, "_is_same_view", _same_view)
    monkeypatch.setattr(state, "stream", _stream)
    monkeypatch.setattr(machine, "now", lambda device: time.perf_counter())
    monkeypatch.setattr(loop, "peak_memory", lambda device: 0)
    monkeypatch.setattr(loop, "WATCH_EVERY", 2)
    monkeypatch.setattr(checkpoint, "save", lambda path, state: state.state_dict())
    _forget()
    yield FakeTensorMode(allow_non_fake_inputs=False)
    _forget()


def _stream(seed: int, purpose: str, epoch: int = 0, device: Any = "cpu") -> torch.Generator:
    if torch.device(device).type == "cpu":
        return streams.stream(seed, purpose, epoch)
    return Generator().manual_seed(0)


def _forget() -> None:
    """Empty every cache of the package."""
    for name, module in list(sys.modules.items()):
        if name.startswith("fdfa_cli."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def recipe(network: str, *overrides: str, seed: int = 0, crop: str = "crop") -> Recipe:
    data = f"data={{name: cifar10, augment: [flip, {crop}]}}"
    training = [f"training.batch_size={BATCH}", "training.epochs=1", "training.device=cuda"]
    return read(
        "cifar10/cnn", [data, NETWORKS[network], *training, f"training.seed={seed}", *overrides]
    ).recipe


def splits(one: Recipe, samples: int) -> Splits:
    images = torch.zeros(samples, 3, 32, 32, dtype=torch.uint8)
    whole = Subset.whole(images, torch.zeros(samples, dtype=torch.int64))
    train = replace(whole, transform=one.data.transform(whole))
    assert train.transform is not None
    still = replace(whole, transform=replace(train.transform, augment=()))
    return Splits(*(some.to(GPU) for some in (train, still, still)))


def train(mode: FakeTensorMode, recipes: Sequence[Recipe], rest: int = 0, steps: int | None = None) -> None:
    """An epoch of them together, or of one alone, by the real loop, to the end of the training.

    Two steps alone and three stacked, unless `steps` says otherwise: by then all constants are made, a stack
    plays its recording, and nothing may be copied between devices any more. Then another of `rest` samples.
    """
    least = 2 if len(recipes) == 1 else 3
    watch, steps = Watch(), steps or least
    samples = steps * BATCH + rest
    with mode, watch, torch.no_grad():
        sets = splits(recipes[0], samples)
        network = recipes[0].network.build(recipes[0].data.shape(), recipes[0].data.classes())
        trainings = [TrainingRun(one, Rows(), GPU) for one in recipes]  # type: ignore[arg-type]
        for training in trainings:
            training.begin(network, sets.train)
        states = [training.state for training in trainings]
        trainee = StackedTrainState(states) if len(states) > 1 else states[0]
        _note(trainee, watch, least)
        assert not loop.epoch(trainee, trainings, sets, CheckpointInterval(), Shown(), lambda: False)
    for training in trainings:
        if training.error is not None:
            raise training.error
        assert training.complete
        assert training.summary["test_accuracy"] == 1 / samples
        assert [row["train_loss"] for row in training.run.metrics()] == [1 / samples]
    assert watch.transfers == []
    for one in states:
        assert (one.position, one.epoch) == (0, 1)  # the next epoch's order is drawn
        assert left(one) == (["/loss_sum"] if GPU.type in total.NARROW else [])  # stored in float64
    TAKEN.append(len(states) * (steps + bool(rest)))


def _note(team: Any, watch: Watch, step: int) -> None:
    """Let `watch` note what happens in step number `step`, from 1."""
    advance = team.advance

    def noting(data: Subset) -> None:
        watch.noting = team.position == step - 1
        advance(data)
        watch.noting = False

    team.advance = noting


def left(one: TrainState) -> list[str]:
    """Tensors of a training that are not on the GPU."""
    content = {**one.state_dict(), "order": one.order}
    content.pop("streams")  # whose states are the CPU's on every device
    return [path for path, tensor in leaves(content) if tensor.device != GPU]


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        yield path, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}/{key}")


# --- every rule on every network ---------------------------------------------------------------------------

#: Optimizers with one kernel for all tensors take turns over the rules; see below for every one.
TURNS = ["optimizer={name: sgd, momentum: 0.9}", "optimizer=adam", "optimizer=adamw"]
#: Steps on networks of many layers, whose every operation takes half a millisecond here.
ALONE, STACKED = {"cnn": 1, "alexnet": 1, "resnet": 1}, {"alexnet": 1, "resnet": 1}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_trains_alone(fake, rule, network, precision):
    turn = TURNS[list(RULES).index(rule) % len(TURNS)]
    train(
        fake,
        [recipe(network, f"rule={rule}", turn, f"training.precision={precision}")],
        steps=ALONE.get(network),
    )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_trains_stacked(fake, rule, network):
    turn = TURNS[list(RULES).index(rule) % len(TURNS)]
    recipes = [recipe(network, f"rule={rule}", turn, seed=seed) for seed in (0, 0, 1)]
    assert len(groups(recipes)) == 1
    train(fake, recipes, steps=STACKED.get(network))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "stacked"])
def test_every_optimizer_and_loss(fake, optimizer, loss, stacked):
    options = [f"optimizer={optimizer}", f"training.loss={loss}", "rule=fdfa", "schedule=cosine"]
    train(fake, [recipe("mlp", *options, seed=seed) for seed in range(3 if stacked else 1)], REST)


# --- what is found so --------------------------------------------------------------------------------------


def test_a_resized_crop(fake):
    train(fake, [recipe("mlp", crop="resized_crop")])


def test_a_wait_in_a_rule_is_found(fake, monkeypatch):
    step = Backprop.step

    def waiting(self: Any, *given: Any) -> Any:
        update = step(self, *given)
        assert update.loss.item() > 0
        return update

    monkeypatch.setattr(Backprop, "step", waiting)
    with pytest.raises(DataDependentOutputException):
        train(fake, [recipe("mlp", "rule=bp")])


def test_a_branch_in_a_rule_is_found(fake, monkeypatch):
    step = Backprop.step

    def branching(self: Any, *given: Any) -> Any:
        update = step(self, *given)
        return update if update.loss > 0 else None

    monkeypatch.setattr(Backprop, "step", branching)
    with pytest.raises(DataDependentOutputException):
        train(fake, [recipe("mlp", "rule=bp")])


@pytest.mark.parametrize(("device", "found"), [("cpu", False), ("cuda", True)])
def test_a_tensor_left_on_the_cpu_is_found(fake, monkeypatch, device, found):
    forward = Linear.forward

    def shifted(self: Linear, *given: Any) -> Any:
        y, saved = forward(self, *given)
        return y + torch.zeros(self.outputs, device=device), saved

    monkeypatch.setattr(Linear, "forward", shifted)
    if found:
        train(fake, [recipe("mlp", "rule=bp")])
    else:
        with pytest.raises(RuntimeError, match=r"on the same device|two different devices"):
            train(fake, [recipe("mlp", "rule=bp")])


@pytest.mark.parametrize("stacked", [False, True])
def test_a_copy_from_the_host_in_a_step_is_found(fake, monkeypatch, stacked):
    batch = Subset.assemble

    def copied(self: Subset, *given: Any) -> torch.Tensor:
        return batch(self, *given) + torch.zeros(1).to(GPU)

    monkeypatch.setattr(Subset, "assemble", copied)
    with pytest.raises(AssertionError, match="cpu to cuda:0"):
        train(fake, [recipe("mlp", "rule=bp", seed=seed) for seed in range(1 + stacked)])


def test_sums_left_on_the_cpu_are_found(fake):
    one = recipe("mlp", "rule=bp")
    with fake, torch.no_grad():
        network = one.network.build(one.data.shape(), one.data.classes())
        alone = TrainState(one, network, BATCH, GPU)
        assert left(alone) == []
        alone.correct = torch.zeros((), dtype=torch.int64)
        assert left(alone) == ["/correct"]


# --- Apple's GPUs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("rule", ["bp", "fdfa", "fg-w", "ff"])
def test_a_gpu_without_float64_is_never_asked_for_it(fake, monkeypatch, rule, network, stacked):
    """As Apple's are. This one is CUDA's all the same: torch slices no fake tensor of a device it is not
    built for.
    """
    monkeypatch.setattr(total, "NARROW", {"cuda"})
    train(fake, [recipe(network, f"rule={rule}", "optimizer=adam", seed=seed) for seed in range(1 + stacked)])


def test_float64_on_a_gpu_without_it_is_found(fake, monkeypatch):
    monkeypatch.setattr(total, "NARROW", {"cuda"})
    monkeypatch.setattr(
        loop.total, "zero", lambda device, shape=(): torch.zeros(shape, device=device).double()
    )
    with pytest.raises(AssertionError, match=r"aten\._to_copy"):
        train(fake, [recipe("mlp", "rule=bp")])
