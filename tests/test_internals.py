"""Private parts of torch: without each the results are the same up to rounding, and it is said once."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fdfa_cli.cli import run as fdfa
from fdfa_cli.data import data_root
from fdfa_cli.diagnostics.meters import MemoryMeter
from fdfa_cli.internals import private, recording_mode, transformed
from fdfa_cli.network.kernels import matmul, nnpack
from fdfa_cli.network.kernels.layout import channels_last
from fdfa_cli.network.kernels.matmul import LARGE, inner
from fdfa_cli.network.layers import AdaptiveAvgPool2d, Mode
from fdfa_cli.optim.optimizers import OPTIMIZERS
from fdfa_cli.optim.state import OptimizerState
from fdfa_cli.recipe.resolve import read
from fdfa_cli.training import traced
from fdfa_cli.training.stack import StackedTrainState
from fdfa_cli.training.state import TrainState

CPU = torch.device("cpu")
EPS = torch.finfo(torch.float32).eps
#: What remembers whether torch has something.
CACHES = (
    private,
    recording_mode,
    traced._recordable,
    matmul._onednn_is_quicker,
    nnpack._direct_is_slow,
)


class Lacking:
    """`whole` without its attribute `name`."""

    def __init__(self, whole: Any, name: str) -> None:
        self._whole, self._name = whole, name

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            raise AttributeError(name)
        return getattr(self._whole, name)


@pytest.fixture
def lose(monkeypatch) -> Iterator[Callable[[str], None]]:
    """Takes what is at a path away from torch."""

    def forget() -> None:
        for cached in CACHES:
            cached.cache_clear()

    def taken(path: str) -> None:
        *folder, name = path.split(".")
        if folder:
            above: Any = torch
            for part in folder[:-1]:
                above = getattr(above, part)
            monkeypatch.setattr(above, folder[-1], Lacking(getattr(above, folder[-1]), name))
        else:
            monkeypatch.delattr(torch, name)
        forget()

    forget()
    yield taken
    monkeypatch.undo()
    forget()


def test_what_torch_lacks_is_said_once(lose, caplog):
    lose("_fused_sgd_")
    with caplog.at_level(logging.DEBUG, "fdfa_cli"):
        assert private("_fused_sgd_") is None
        assert private("_fused_sgd_") is None
        assert private("_fused_adam_") is torch._fused_adam_
    (said,) = caplog.messages
    assert said == f"this torch ({torch.__version__}) has no torch._fused_sgd_: done without it"


@pytest.mark.parametrize("debug", [True, False])
def test_what_torch_lacks_is_told_under_debug_only(lose, tmp_path, capsys, debug):
    lose("_fused_sgd_")
    options = ["digits/mlp", "optimizer=sgd", "training.epochs=1", "data.limit=64", "--device", "cpu"]
    assert fdfa([*(["--debug"] if debug else []), "train", *options, "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().err.count("has no torch._fused_sgd_") == debug


# --- optimizers --------------------------------------------------------------------------------------------

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        {},
        {"momentum": 0.9, "weight_decay": 0.01},
        {"momentum": 0.8, "nesterov": True},
    ],
    "adam": [{}, {"weight_decay": 0.1, "betas": (0.8, 0.99)}],
    "adamw": [{}, {"eps": 1e-4}],
}
STEPS = 5
#: Roundings of an entry in a step at most: Adam's two averages take 3 and 4, its update 7, decay 2.
ROUNDINGS = 16


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, several in SETTINGS.items() for options in several]
)
def test_optimizers_come_to_the_same_without_fused_kernels(lose, name, options):
    """Gradients and tensors are positive and rates small, so that nothing cancels: each rounding is relative.

    After S steps of R roundings the two ways differ by 2·S·R·ε at most, in tensors and slots.
    """
    optimizer = OPTIMIZERS.get(name)(lr=1e-2, **options)

    def moved() -> OptimizerState:
        generator = torch.Generator().manual_seed(0)
        tensors = {key: 1 + torch.rand(size, generator=generator) for key, size in {"a": 37, "b": 16}.items()}
        state = OptimizerState.new(tensors, optimizer)
        for _ in range(STEPS):
            grads = {key: 0.5 + torch.rand(t.shape, generator=generator) for key, t in tensors.items()}
            state.apply(grads, optimizer, optimizer.lr)
        return state

    with_kernel = moved()
    lose(f"_fused_{name}_")
    without = moved()
    bound = 2 * STEPS * ROUNDINGS * EPS
    torch.testing.assert_close(without.tensors, with_kernel.tensors, rtol=bound, atol=0)
    torch.testing.assert_close(without.slots, with_kernel.slots, rtol=bound, atol=0)
    assert any((t - 1).abs().max() > 0.01 for t in without.tensors.values())


# --- layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "height", "width"), [(1, 7, 5), (2, 7, 5), (3, 8, 9), (4, 4, 4)])
@pytest.mark.parametrize("stacked", [False, True])
def test_adaptive_pools_come_to_the_same_without_their_kernels(
    lose, fast_kernels, side, height, width, stacked
):
    """All numbers are positive: a mean of n, or the n windows of an entry, in n + 1 roundings each."""
    layer = AdaptiveAvgPool2d(side)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 4, height, width, generator=generator)
    dy = torch.rand(2, 3, 4, side, side, generator=generator)

    def both(x: torch.Tensor, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, saved = layer.forward({}, channels_last(x), Mode(training=True))
        dx = layer.vjp({}, saved, channels_last(dy))[1]
        assert dx is not None
        return y, dx

    apply: Any = torch.func.vmap(both) if stacked else lambda x, dy: both(x[0], dy[0])
    with_kernels = apply(x, dy)
    lose("ops.aten._adaptive_avg_pool2d")
    lose("ops.aten._adaptive_avg_pool2d_backward")
    bound = 2 * (height * width + 1) * EPS
    torch.testing.assert_close(apply(x, dy), with_kernels, rtol=bound, atol=0)


def test_wrappers_are_known_without_being_told(lose):
    lose("_C._functorch.is_functorch_wrapped_tensor")
    seen: list[bool] = []

    def look(t: torch.Tensor) -> torch.Tensor:
        seen.append(transformed(t))
        return 2 * t

    x = torch.ones(2, 3)
    look(x)
    assert seen == [False]
    torch.func.vmap(look)(x)
    torch.func.vjp(look, x)
    assert seen == [False, True, True]


def test_products_do_without_onednn(lose, monkeypatch):
    monkeypatch.setattr(matmul, "vector_extension", lambda: "AVX512")
    monkeypatch.setattr(matmul, "vendor_and_family", lambda: ("AuthenticAMD", 26))
    lose("ops.mkldnn._linear_pointwise")
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(128, 512, generator=generator), torch.rand(64, 512, generator=generator)
    assert a.numel() * len(b) >= LARGE
    torch.testing.assert_close(inner(a, b), F.linear(a, b), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["_nnpack_spatial_convolution", "_nnpack_available"])
def test_convolutions_do_without_nnpack(lose, monkeypatch, name):
    monkeypatch.setattr(nnpack, "vector_extension", lambda: "AVX2")
    lose(name)
    assert not nnpack._direct_is_slow()


# --- what is recorded --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["utils._pytree", "utils._python_dispatch", "ops.aten.add.Tensor"],
)
def test_stacked_steps_come_to_the_same_digits_unrecorded(lose, monkeypatch, path):
    """A recording plays the very operations."""

    def trained() -> list[TrainState]:
        recipes = [
            read(
                "digits/mlp", ["rule=fdfa", "data.limit=128", "training.device=cpu", f"training.seed={k}"]
            ).recipe
            for k in range(2)
        ]
        splits = recipes[0].data.load(data_root(), CPU)
        network = recipes[0].network.build(recipes[0].data.shape(), recipes[0].data.classes())
        states = [TrainState(one, network, len(splits.train), CPU) for one in recipes]
        stack = StackedTrainState(states)
        with torch.no_grad():
            for _ in range(4):
                stack.advance(splits.train)
        assert bool(stack._step._recordings) == traced._recordable()
        return states

    recorded = trained()
    if path == "utils._pytree":  # torch itself does not run without it
        monkeypatch.setattr(traced, "private", lambda name: None if name.startswith(path) else private(name))
        traced._recordable.cache_clear()
    else:
        lose(path)
    assert not traced._recordable()
    for one, other in zip(recorded, trained(), strict=True):
        for name, value in one.params.items():
            assert torch.equal(value, other.params[name]), name


def test_a_probe_measures_no_memory_where_torch_shows_nothing(lose):
    from fdfa_cli.diagnostics import meters

    lose("utils._python_dispatch")
    meters._dispatch_mode.cache_clear()
    with MemoryMeter().tracking() as tracked:
        assert not tracked
    meters._dispatch_mode.cache_clear()


# --- torch's compiler --------------------------------------------------------------------------------------

TRAINING = """
import sys
from fdfa_cli.cli import run
assert run(sys.argv[1:]) == 0
heavy = {"torch._dynamo", "torch._inductor", "triton"}
print(*heavy & set(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "options",
    [
        ["train", "digits/fdfa", "diagnostics={}"],
        ["train", "digits/fdfa"],
        ["train", "digits/mlp", "rule=bp", "optimizer=rmsprop", "training.loss=mse"],
        ["train", "digits/mlp", "rule=fg-w", "optimizer=adamw", "training.precision=bf16"],
        ["sweep", "digits/sweep", "--engine", "batched", "--jobs", "64"],
    ],
    ids=["diagnostics", "fdfa", "rmsprop", "bf16", "batched"],
)
def test_no_training_loads_torch_s_compiler(tmp_path, options):
    """It takes a second or more, and says at the end what it leaks."""
    few = ["training.epochs=1", "data.limit=64", "training.device=cpu"]
    command = [sys.executable, "-c", TRAINING, *options, *few, "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *_, loaded = done.stderr.splitlines()
    assert loaded == ""
    assert "nanobind" not in done.stderr
