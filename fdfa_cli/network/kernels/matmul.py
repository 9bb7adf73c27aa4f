"""Matrix products.

On a CPU torch's own are MKL's, which keeps to half the width of an AMD processor's vectors (AVX2 where there
is AVX-512). oneDNN, which torch has for convolutions and for compiled modules, does not: 800×800 times 800×64
takes 0.34 ms in place of 0.79 on one thread, 10×64 times 64×11760 0.10 in place of 0.22. It takes some
microseconds more to begin, so small products are left to MKL, as all are on Intel's processors, whose whole
width MKL uses.
"""

from __future__ import annotations

from functools import cache

from fdfa_cli.internals import private
from fdfa_cli.lazy import F, torch
from fdfa_cli.network.kernels.cpu_info import AMD, vector_extension, vendor_and_family
from fdfa_cli.network.kernels.layout import is_plain_float32

#: Multiplications from which oneDNN's products are quicker, on one thread and on two.
LARGE = 1 << 22
#: The same where A has no more entries than B has rows, as an error has beside feedback.
LARGE_BESIDE_FEW = 1 << 21


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A Bᵀ (M×N) for A (M×K) and B (N×K), by oneDNN where that is quicker and by MKL elsewhere."""
    few = a.numel() <= len(b)
    large = LARGE_BESIDE_FEW if few else LARGE
    if (
        a.numel() * len(b) < large
        or not (is_plain_float32(a) and is_plain_float32(b))
        or not _onednn_is_quicker()
    ):
        return F.linear(a, b)
    if few or a.is_contiguous():
        return _onednn(a, b)
    if 4 * len(b) <= a.shape[1]:  # it would copy A, far larger than B and the result
        return _onednn(b, a).t().contiguous()
    return F.linear(a, b)


def _onednn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A Bᵀ by oneDNN, which knows neither autograd nor `torch.func`."""
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(a, b, None, "none", [], "")
    return product


@cache
def _onednn_is_quicker() -> bool:
    """Whether this processor has vectors of 512 bits that MKL does not use."""
    if vendor_and_family()[0] != AMD or vector_extension() != "AVX512":
        return False
    return private("ops.mkldnn._linear_pointwise") is not None
