"""Convolutions by NNPACK's Fourier transforms: the same numbers, as exact, taken where they are quicker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch.func import vmap

from fdfa_cli.network.kernels import nnpack
from fdfa_cli.network.kernels.layout import channels_last
from fdfa_cli.network.layers import Conv2d
from fdfa_cli.network.layers.base import Mode

pytestmark = pytest.mark.skipif(not torch._nnpack_available(), reason="torch without NNPACK")

LARGE = Conv2d(15, 40, 5)  # as in the FDFA authors' network


@pytest.fixture(params=[1, 2])
def threads(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def transformed(monkeypatch, fast_kernels, threads) -> list[str]:
    """What is asked of the transforms, on a processor where they are quicker."""
    asked: list[str] = []
    for name in ("conv2d", "weight_vjp"):
        function = getattr(nnpack, name)
        monkeypatch.setattr(nnpack, name, lambda *a, f=function, n=name: asked.append(n) or f(*a))
    monkeypatch.setattr(nnpack, "_direct_is_slow", lambda: True)
    return asked


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return channels_last(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def parameters(layer: Conv2d) -> dict[str, torch.Tensor]:
    return {name: images(*draw.shape, seed=1) / 20 for name, draw in layer.parameters().items()}


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest deviation over the largest number."""
    return float((found - exact).abs().max() / exact.abs().max())


#: Inputs, outputs, kernel, padding, samples, height and width.
SIZES = [
    (15, 40, 5, 0, 64, 28, 28),  # two tiles a side, full
    (15, 40, 5, 0, 19, 24, 24),  # not full, and a last few samples
    (3, 20, 5, 2, 8, 32, 32),
    (20, 3, 5, 4, 9, 17, 12),  # neither square nor even
    (6, 5, 4, 1, 8, 11, 40),
    (2, 7, 8, 7, 10, 9, 10),  # more padding than image
    (1, 1, 5, 0, 1, 5, 5),  # one position
]


@pytest.mark.parametrize(("inputs", "outputs", "kernel", "padding", "samples", "height", "width"), SIZES)
def test_they_are_the_convolution_and_its_derivatives(
    threads, inputs, outputs, kernel, padding, samples, height, width
):
    x, weight = images(samples, inputs, height, width), images(outputs, inputs, kernel, kernel, seed=1)
    bias = torch.randn(outputs, generator=torch.Generator().manual_seed(2))
    x64, weight64 = x.double().requires_grad_(), weight.double().requires_grad_()
    y = F.conv2d(x64, weight64, bias.double(), padding=padding)
    dy = images(*y.shape, seed=3)
    dx, gradient = torch.autograd.grad(y, (x64, weight64), dy.double())

    found = nnpack.conv2d(x, weight, padding, bias)
    assert error(found, y.detach()) < 2e-6
    assert channels_last(found) is found
    assert error(nnpack.weight_vjp(dy, x, padding), gradient) < 2e-6
    back = nnpack.conv2d(dy, weight.transpose(0, 1).flip(2, 3), kernel - 1 - padding)
    assert error(back, dx) < 2e-6


def test_they_round_less_than_the_direct_sums():
    x, weight = images(64, 15, 28, 28), images(40, 15, 5, 5, seed=1)
    dy = images(64, 40, 24, 24, seed=2)
    exact = F.conv2d(x.double(), weight.double())
    assert error(nnpack.conv2d(x, weight, 0), exact) < error(F.conv2d(x, weight), exact)
    gradients = [
        torch.ops.aten.convolution_backward(
            given(dy),
            given(x),
            given(weight),
            None,
            [1, 1],
            [0, 0],
            [1, 1],
            False,
            [0, 0],
            1,
            [False, True, False],
        )[1]
        for given in (torch.Tensor.double, torch.Tensor.float)
    ]
    assert error(nnpack.weight_vjp(dy, x, 0), gradients[0]) < error(gradients[1], gradients[0])


def test_digits_do_not_depend_on_the_number_of_threads():
    x, weight, dy = images(37, 15, 28, 28), images(40, 15, 5, 5, seed=1), images(37, 40, 24, 24, seed=2)
    before, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append((nnpack.conv2d(x, weight, 0), nnpack.weight_vjp(dy, x, 0)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_each_thread_computes_alone_and_torch_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with nnpack._threads.__wrapped__(3) as threads:
        assert len(threads._threads) == 3
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 3
        assert list(threads.map(lambda _: torch.get_num_threads(), range(12))) == [1] * 12
    torch.set_num_threads(before)


def test_what_goes_wrong_on_a_thread_is_raised(threads):
    def fail(some: slice) -> None:
        raise ArithmeticError(f"samples from {some.start}")

    with pytest.raises(ArithmeticError, match="samples from 0"):
        nnpack._by_samples(40, fail)


# --- which convolutions --------------------------------------------------------------------------------


def test_a_layer_s_passes_are_transformed(transformed):
    layer, x = LARGE, images(64, 15, 28, 28)
    params = parameters(layer)
    y, saved = layer.forward(params, x, Mode(training=True))
    torch.testing.assert_close(y, F.conv2d(x, *params.values()), rtol=1e-4, atol=1e-4)
    tangent = layer.jvp(params, saved, x)
    torch.testing.assert_close(tangent, F.conv2d(x, params[layer.key("weight")]), rtol=1e-4, atol=1e-4)
    assert transformed == ["conv2d", "conv2d"]
    grads, dx = layer.vjp(params, saved, y)
    assert transformed == ["conv2d", "conv2d", "weight_vjp"]  # dx has 15 channels only: directly

    wanted = [t.detach().requires_grad_() for t in (*params.values(), x)]
    expected = torch.autograd.grad(F.conv2d(wanted[2], *wanted[:2]), wanted, y)
    for found, exact in zip((*grads.values(), dx), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-2)
    assert layer.vjp(params, saved, y, need_dx=False)[1] is None


@pytest.mark.parametrize("padding", [1, 2])
def test_the_way_back_to_few_channels_is_transformed(transformed, padding):
    layer, x = Conv2d(3, 32, 5, padding=padding), images(16, 3, 32, 32)
    params = parameters(layer)
    y, saved = layer.forward(params, x, Mode(training=True))
    assert transformed == []
    _, dx = layer.vjp(params, saved, y)
    assert transformed == ["conv2d"]
    expected = torch.nn.grad.conv2d_input(x.shape, params[layer.key("weight")], y, padding=padding)
    torch.testing.assert_close(dx, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "sides", "taken"),
    [
        (LARGE, (28, 28), True),
        (LARGE, (24, 24), True),
        (Conv2d(32, 32, 7, padding=3), (16, 16), True),
        (Conv2d(64, 100, 5), (28, 28), True),
        (Conv2d(3, 15, 5), (32, 32), False),  # few channels to share a transform
        (
            Conv2d(16, 32, 5, padding=2),
            (32, 32),
            False,
        ),  # channels fill vectors, and images do not fill tiles
        (Conv2d(64, 192, 5, padding=2), (15, 15), False),
        (Conv2d(100, 33, 3), (58, 58), False),
        (Conv2d(15, 40, 9), (28, 28), False),
        (Conv2d(15, 40, 5, stride=2), (51, 51), False),
        (Conv2d(30, 80, 5, groups=2), (28, 28), False),
    ],
)
def test_which_shapes_are_transformed(transformed, layer, sides, taken):
    layer.forward(parameters(layer), images(8, layer.inputs, *sides), Mode(training=True))
    assert transformed == ["conv2d"] * taken


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(LARGE, (8, 14, 28, 28)), (LARGE, (8, 15, 4, 28)), (Conv2d(15, 40, 8), (8, 15, 1, 1))],
)
def test_inputs_that_do_not_fit_are_refused_as_ever(transformed, layer, shape):
    """NNPACK would compute something."""
    with pytest.raises(RuntimeError):
        layer.forward(parameters(layer), images(*shape), Mode(training=True))
    assert transformed == []


@pytest.mark.parametrize("layer", [Conv2d(6, 64, 5, groups=2), Conv2d(24, 24, 5, padding=5)])
def test_groups_and_wide_padding_are_left_alone(transformed, layer):
    params, x = parameters(layer), images(8, layer.inputs, 32, 32)
    y, saved = layer.forward(params, x, Mode(training=True))
    grads, dx = layer.vjp(params, saved, y)
    assert transformed == []
    wanted = [t.detach().requires_grad_() for t in (*params.values(), x)]
    again = F.conv2d(wanted[2], *wanted[:2], padding=layer.padding, groups=layer.groups)
    expected = torch.autograd.grad(again, wanted, y)
    for found, exact in zip((*grads.values(), dx), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-2)


def test_few_samples_are_convolved_directly(transformed):
    LARGE.forward(parameters(LARGE), images(7, 15, 28, 28), Mode(training=True))
    assert transformed == []


def test_on_more_threads_than_tried_directly(transformed):
    torch.set_num_threads(nnpack.THREADS + 1)
    LARGE.forward(parameters(LARGE), images(8, 15, 28, 28), Mode(training=True))
    assert transformed == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_convolved_directly(transformed, dtype):
    x = images(8, 15, 28, 28).to(dtype)
    assert LARGE.forward(parameters(LARGE), x, Mode(training=True))[0].dtype == dtype
    assert transformed == []


def test_what_autograd_records_is_convolved_directly(transformed):
    params, x = parameters(LARGE), images(8, 15, 28, 28)
    for recorded in (x, params[LARGE.key("weight")]):
        recorded.requires_grad_()
        LARGE.forward(params, x, Mode(training=True))[0].sum().backward()
        assert recorded.grad is not None
        recorded.requires_grad_(False)
    assert transformed == []


def test_what_is_stacked_is_convolved_directly(transformed):
    params, x = parameters(LARGE), images(16, 15, 28, 28)
    both = vmap(lambda dx: LARGE.jvp(params, x[:8], dx))(x.view(2, 8, 15, 28, 28))
    saved = vmap(lambda dy: LARGE.vjp(params, x[:8], dy)[0])(both)
    assert transformed == []
    single = LARGE.vjp(params, x[:8], both[0])[0]
    assert transformed == ["weight_vjp"]
    for name, value in single.items():
        torch.testing.assert_close(saved[name][0], value, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("width", "maker", "slow"),
    [
        ("AVX2", ("GenuineIntel", 6), True),
        ("AVX2", ("AuthenticAMD", 25), True),
        ("AVX512", ("AuthenticAMD", 25), True),
        ("AVX512", ("AuthenticAMD", 26), False),
        ("AVX512", ("GenuineIntel", 6), False),
        ("DEFAULT", ("", 0), False),
    ],
)
def test_where_direct_convolutions_are_slow(monkeypatch, width, maker, slow):
    monkeypatch.setattr(nnpack, "vector_extension", lambda: width)
    monkeypatch.setattr(nnpack, "vendor_and_family", lambda: maker)
    assert nnpack._direct_is_slow.__wrapped__() is slow


# --- torch's idle threads ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "expected"), [(None, "10000"), ("77", "77")])
def test_torch_s_idle_threads_sleep_soon_unless_told_otherwise(monkeypatch, given, expected):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if given:
        monkeypatch.setenv("GOMP_SPINCOUNT", given)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    code = "from fdfa_cli.__main__ import prepare; prepare(); import torch; torch.ones(1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch with another library of threads")
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr
