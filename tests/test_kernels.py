"""The kernels of a CPU come to what the reference comes to, and ``FDFA_KERNELS`` chooses between them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from fdfa_cli.errors import UsageError
from fdfa_cli.network.kernels import CPU, VARIABLE, Reference, batch_norm, cpu, kernels, matmul, nnpack
from fdfa_cli.network.kernels.layout import laid_out
from fdfa_cli.network.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm,
    Chain,
    Conv2d,
    Layer,
    LayerNorm,
    Linear,
    MaxPool2d,
    Mode,
    Residual,
)
from fdfa_cli.streams import Shape, stream

K = 2  # trials

# --- which kernels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "chosen"), [("reference", Reference), ("fast", CPU), (None, CPU)])
def test_the_environment_chooses_kernels(fast_kernels, monkeypatch, value, chosen):
    if value is None:
        monkeypatch.delenv(VARIABLE)
    else:
        monkeypatch.setenv(VARIABLE, value)
    assert type(kernels()) is chosen
    assert kernels() is kernels()  # decided once


def test_what_the_environment_may_say(fast_kernels, monkeypatch):
    monkeypatch.setenv(VARIABLE, "slow")
    with pytest.raises(UsageError, match="FDFA_KERNELS must be fast or reference, not 'slow'"):
        kernels()


def test_a_setting_that_is_not_known_is_named():
    script = Path(__file__).with_name("processors.py")
    command = [sys.executable, str(script), "OMP_NUM_THREADS=3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown setting OMP_NUM_THREADS=3; known: ATEN_CPU_CAPABILITY=default" in done.stderr


# --- the same numbers --------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A layer on so many samples of a shape, and the quick way that a CPU may take there; "" for none."""

    layer: Layer
    batch: int
    shape: Shape
    way: str = ""


CASES = {
    "linear": Case(Linear(512, 128), 64, (512,), "product"),
    "small linear": Case(Linear(7, 5), 9, (7,)),
    "conv 5×5": Case(Conv2d(15, 40, 5), 16, (15, 28, 28), "transforms"),
    "conv 3×3": Case(Conv2d(4, 6, 3, stride=2, padding=1), 9, (4, 11, 9)),
    "conv 1×1 of stride 2": Case(Conv2d(4, 6, 1, stride=2), 9, (4, 11, 9)),
    "conv in groups": Case(Conv2d(4, 6, 3, groups=2, bias=False), 9, (4, 11, 9)),
    "batch norm of vectors": Case(BatchNorm(24), 32, (24,), "group norm"),
    "batch norm of images": Case(BatchNorm(12), 8, (12, 8, 8), "rows"),
    "batch norm of many channels": Case(BatchNorm(200), 4, (200, 3, 3)),
    "layer norm of vectors": Case(LayerNorm(24), 32, (24,)),
    "layer norm of images": Case(LayerNorm(12), 8, (12, 8, 8)),
    "max pool": Case(MaxPool2d(3, 2, 1), 8, (5, 9, 7)),
    "average pool": Case(AvgPool2d(3, 2, 1), 8, (5, 9, 7)),
    "global average pool": Case(AdaptiveAvgPool2d(), 8, (5, 9, 7), "pool"),
    "adaptive average pool": Case(AdaptiveAvgPool2d(2), 8, (5, 9, 7), "pool"),
    "residual": Case(
        Residual(  # without biases, whose gradients before a batch norm are zero, and all rounding
            Chain((Conv2d(4, 6, 3, 2, 1, bias=False), BatchNorm(6))),
            Chain((Conv2d(4, 6, 1, stride=2, bias=False), BatchNorm(6))),
        ),
        8,
        (4, 8, 8),
        "rows",
    ),
}


@pytest.fixture
def taken(fast_kernels, monkeypatch) -> set[str]:
    """The quick ways that are taken, on a processor where all of them are quicker."""
    ways: set[str] = set()

    def told(module: Any, name: str, way: str) -> None:
        function: Callable[..., Any] = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: ways.add(way) or function(*given))

    if torch.backends.mkldnn.is_available():
        monkeypatch.setattr(matmul, "_onednn_is_quicker", lambda: True)
    if torch._nnpack_available():
        monkeypatch.setattr(nnpack, "_direct_is_slow", lambda: True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    told(matmul, "_onednn", "product")
    told(nnpack, "conv2d", "transforms")
    told(nnpack, "weight_vjp", "transforms")
    told(batch_norm, "of_vectors", "group norm")
    told(batch_norm, "folded", "rows")
    told(batch_norm, "folded_vjp", "rows")
    told(cpu, "private", "pool")
    yield ways
    torch.set_num_threads(threads)


def tensors(case: Case, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    """Parameters and buffers in float32, input, tangent and cotangent in `dtype`, as layers lay them out."""
    generator = stream(seed, "kernels")

    def normal(shape: Shape) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    layer = case.layer.named("layer")
    batch, out = (case.batch, *case.shape), (case.batch, *layer.out_shape(case.shape))
    return {
        "params": {name: normal(draw.shape) for name, draw in layer.parameters().items()},
        "buffers": {name: normal(draw.shape).abs() + 0.5 for name, draw in layer.buffers().items()},
        **{
            name: laid_out(normal(shape)).to(dtype)
            for name, shape in (("x", batch), ("dx", batch), ("dy", out))
        },
    }


def computed(case: Case, training: bool, stacked: bool, given: dict[str, Any]) -> dict[str, Any]:
    """All that a layer computes."""
    layer = case.layer.named("layer")
    mode = Mode(training=training, buffers=given["buffers"], stacked=stacked)
    y, dy, saved = layer.dual(given["params"], given["x"], given["dx"], mode)
    grads, dx = layer.vjp(given["params"], saved, given["dy"])
    return {"y": y, "dy": dy, "dx": dx, "grads": grads, "updates": mode.updates}


def test_every_operation_is_compared(fast_kernels, monkeypatch):
    """The table above asks for all operations that the reference has."""
    asked: set[str] = set()
    operations = [name for name in vars(Reference) if not name.startswith("_")]
    for name in operations:
        function = getattr(CPU, name)
        told = lambda *given, f=function, n=name: asked.add(n) or f(*given)  # noqa: E731
        monkeypatch.setattr(CPU, name, told)
    for case in CASES.values():
        for training in (True, False):
            computed(case, training, False, tensors(case, torch.float32, 0))
    assert asked == {*operations}


def strides(t: torch.Tensor) -> list[int]:
    """Strides of the axes along which there is a step."""
    return [stride for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("stacked", "dtype"),
    [(False, torch.float32), (True, torch.float32), (False, torch.bfloat16)],
    ids=["alone in fp32", "stacked in fp32", "alone in bf16"],  # trainings in bf16 are never stacked
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_both_kernels_come_to_the_same(taken, monkeypatch, case, stacked, dtype, training):
    """To a thousandth of the norm of each result in float32: sums of some thousand products, in two orders.

    In bfloat16 to four of its roundings, for a sum may be rounded on its way. Types and layouts are the same.
    """
    given = tensors(case, dtype, 0)
    step = lambda given: computed(case, training, stacked, given)  # noqa: E731
    if stacked:
        given = tree_map(lambda *some: torch.stack(some), given, tensors(case, dtype, 1))
        step = vmap(step)
    with torch.no_grad():
        fast = step(given)
        wide, batch_statistics = not stacked and dtype == torch.float32, training
        open_ways = {
            "product": wide,
            "transforms": wide,
            "rows": batch_statistics and not stacked,  # in bf16 for the jvp, which is in the norm's type
            "group norm": batch_statistics,
            "pool": True,
        }
        assert taken == {way for way, is_open in open_ways.items() if is_open and way == case.way}
        monkeypatch.setenv(VARIABLE, "reference")
        kernels.cache_clear()
        taken.clear()
        reference = step(given)
    assert not taken
    tolerance = 1e-3 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    for one, other in zip(tree_leaves(fast), tree_leaves(reference), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert (one.double() - other.double()).norm() <= tolerance * other.double().norm()
    for name in ("y", "dy", "dx"):
        assert strides(fast[name]) == strides(reference[name]), name
