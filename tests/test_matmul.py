"""Matrix products: the same numbers whichever library computes them, and the quicker one where it may."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.func import vmap

from fdfa_cli.network.kernels import CPU, cpu_info, matmul
from fdfa_cli.network.kernels.matmul import LARGE, LARGE_BESIDE_FEW, inner

M, K, N = 128, 512, 64  # whose product is as large as it must be
assert M * K * N == LARGE

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


@pytest.fixture
def by_onednn(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of the products that oneDNN is asked for, on a processor where it is the quicker."""
    asked, onednn = [], matmul._onednn
    monkeypatch.setattr(matmul, "_onednn_is_quicker", lambda: True)
    monkeypatch.setattr(matmul, "_onednn", lambda a, b: asked.append((*a.shape, len(b))) or onednn(a, b))
    return asked


def rows(count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count))


#: How a matrix may lie in memory.
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rows": lambda t: t,
    "columns": lambda t: t.t().contiguous().t(),
    "every other column": lambda t: t.repeat_interleave(2, 1)[:, ::2],
    "one row": lambda t: t[:1].expand(t.shape),
}


@needs_onednn
@pytest.mark.parametrize("a", LAYOUTS)
@pytest.mark.parametrize("b", LAYOUTS)
@pytest.mark.parametrize("count", [N, 4 * N])
def test_a_product_is_the_same_by_either(by_onednn, a, b, count):
    one, other = LAYOUTS[a](rows(M, K)), LAYOUTS[b](rows(count, K))
    found = inner(one, other)
    exact = (one.double() @ other.double().t()).float()
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
    assert found.is_contiguous()
    # Where A does not lie row by row, B Aᵀ in its place if B is the smaller by far, and else MKL.
    expected = {("rows", N): (M, K, N), ("rows", 4 * N): (M, K, 4 * N)}
    by_exchange = [(N, K, M)] if count == N else []
    assert by_onednn == ([expected[a, count]] if a == "rows" else by_exchange)


@needs_onednn
@pytest.mark.parametrize("a", LAYOUTS)
@pytest.mark.parametrize("b", LAYOUTS)
def test_few_numbers_beside_many_are_large_sooner(by_onednn, a, b):
    """An error of 64 samples and 8 classes, however it lies, and feedback to as many units as it takes."""
    units = LARGE_BESIDE_FEW // (64 * 8)
    one, other = LAYOUTS[a](rows(64, 8)), LAYOUTS[b](rows(units, 8))
    found = inner(one, other)
    torch.testing.assert_close(found, (one.double() @ other.double().t()).float(), rtol=1e-4, atol=1e-4)
    assert found.is_contiguous()
    inner(one, other[:-1])
    assert by_onednn == [(64, 8, units)]


def test_a_small_product_is_left_to_mkl(by_onednn):
    assert inner(rows(M, K), rows(N - 1, K)).shape == (M, N - 1)
    assert by_onednn == []


def test_doubles_are_left_to_mkl(by_onednn):
    one, other = rows(M, K).double(), rows(N, K).double()
    torch.testing.assert_close(inner(one, other), one @ other.t())
    assert by_onednn == []


@pytest.mark.parametrize("which", [0, 1])
def test_what_autograd_records_is_left_to_mkl(by_onednn, which):
    both = [rows(M, K), rows(N, K)]
    both[which].requires_grad_()
    inner(*both).sum().backward()
    assert both[which].grad is not None
    torch.testing.assert_close(both[which].grad, both[1 - which].detach().sum(0).expand(both[which].shape))
    assert by_onednn == []


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_what_is_stacked_is_left_to_mkl(by_onednn, axes):
    given = [
        torch.stack((t, 2 * t)) if axis == 0 else t
        for t, axis in zip((rows(M, K), rows(N, K)), axes, strict=True)
    ]
    found = vmap(inner, axes)(*given)
    torch.testing.assert_close(found, given[0] @ given[1].mT)
    assert by_onednn == []


@needs_onednn
def test_a_layer_s_product_lies_unit_by_unit(by_onednn):
    weight, x = rows(M, K), rows(N, K)
    y = CPU().linear(x, weight)
    torch.testing.assert_close(y, x @ weight.t(), rtol=1e-4, atol=1e-4)
    assert y.t().is_contiguous()
    assert by_onednn == [(M, K, N)]


@pytest.mark.parametrize(
    ("width", "vendor", "quicker"),
    [
        ("AVX512", "AuthenticAMD", torch.backends.mkldnn.is_available()),
        ("AVX512", "GenuineIntel", False),
        ("AVX2", "AuthenticAMD", False),
        ("AVX512", "", False),
    ],
)
def test_onednn_is_taken_where_mkl_leaves_half_the_vectors_empty(monkeypatch, width, vendor, quicker):
    monkeypatch.setattr(matmul, "vector_extension", lambda: width)
    monkeypatch.setattr(matmul, "vendor_and_family", lambda: (vendor, 26))
    assert matmul._onednn_is_quicker.__wrapped__() is quicker


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t: 17\n\n" * 2, ("AuthenticAMD", 25)),
        ("CPU implementer\t: 0x41\n", ("", 0)),  # Linux on ARM
        (None, ("", 0)),  # another system
    ],
)
def test_the_processor_is_known_by_what_linux_tells(monkeypatch, tmp_path, facts, expected):
    file = tmp_path / "cpuinfo"
    if facts:
        file.write_text(facts)
    monkeypatch.setattr(cpu_info, "Path", lambda name: file)
    assert cpu_info.vendor_and_family.__wrapped__() == expected
