"""Convolutions with large kernels by Fourier transforms of tiles, which NNPACK computes.

    y  = W ∗ x     at each frequency the product of W's transform with x's
    dx = Wᵀ ∗ dy   that again, with the kernel turned by 180°
    ∇W = dy ∗ x    and again: samples take the place of input channels, dy that of the kernel

A 5×5 kernel takes 25 multiplications for each output and pair of channels; by transforms of 16×16 tiles,
each of which gives 12×12 outputs, there are 3.6, and a third of the rounding error. NNPACK does that; torch
contains it and does not use it where there is oneDNN. Of 64 images of 15×28×28, to 40 channels, on one
thread of an AMD EPYC of family 25: y 13.7 → 6.2 ms, ∇W 13.0 → 6.8.

NNPACK's threads and those of torch's other kernels would each, idle, spin on the other's cores. So its calls
are shared out by sample among threads on each of which torch computes alone (see also `lazy`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain
from threading import Barrier
from typing import TypeVar

from fdfa_cli.internals import private
from fdfa_cli.lazy import F, torch
from fdfa_cli.network.kernels.cpu_info import AMD, vector_extension, vendor_and_family
from fdfa_cli.network.kernels.layout import is_plain_float32
from fdfa_cli.streams import Shape

Found = TypeVar("Found")

#: Samples taken at a time: what comes of them stays in a core's cache.
SAMPLES = 8
#: Side of a tile.
TILE = 16
#: Kernels' sides. For smaller ones NNPACK has Winograd's transforms, of ten times the rounding error.
KERNELS = range(4, TILE // 2 + 1)
#: Costs of a tile's transform and of the product of two, counted in multiplications of a direct convolution.
TRANSFORM, PRODUCT = 12_000, 540
#: A direct convolution computes so many output channels at once; it takes a quarter longer where the
#: channels do not fill these lanes.
LANES, UNFILLED = 16, 1.25
#: Transforms are taken where they cost less than a direct convolution by this factor, in that count.
MARGIN = 1.7
#: The most threads for which transforms were compared with direct convolutions.
THREADS = 2


def is_quicker(x: torch.Tensor, weight: torch.Tensor, padding: int) -> bool:
    """Whether W ∗ x, without stride or groups, and ∇W are quicker by transforms than directly."""
    if torch.get_num_threads() > THREADS or not _direct_is_slow():
        return False
    return (
        _costs_less(tuple(x.shape), tuple(weight.shape), padding)
        and is_plain_float32(x)
        and is_plain_float32(weight)
    )


@cache
def _costs_less(images: Shape, weights: Shape, padding: int) -> bool:
    """Whether it takes fewer multiplications, by far, for `images` (B, C_in, H, W)."""
    samples, channels, *sides = images
    outputs, inputs, kernel, _ = weights
    sides = [side + 2 * padding - kernel + 1 for side in sides]
    fits = channels == inputs and min(sides) > 0 and 0 <= padding < kernel  # what NNPACK does not look at
    if not fits or kernel not in KERNELS or samples < SAMPLES:
        return False
    tiles, pairs = math.prod(math.ceil(side / (TILE + 1 - kernel)) for side in sides), inputs * outputs
    transforms = TRANSFORM * (tiles * (inputs + outputs) + pairs / SAMPLES) + PRODUCT * tiles * pairs
    direct = kernel**2 * math.prod(sides) * inputs * LANES * math.ceil(outputs / LANES)
    return MARGIN * transforms < direct * (UNFILLED if outputs % LANES else 1)


def conv2d(
    x: torch.Tensor, weight: torch.Tensor, padding: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """W ∗ x + b (B×C_out×H'×W', channels last) for x (B×C_in×H×W) and W (C_out×C_in×k×k)."""
    outputs, _, kernel, _ = weight.shape
    height, width = (side + 2 * padding - kernel + 1 for side in x.shape[2:])
    y = x.new_empty(len(x), height, width, outputs).permute(0, 3, 1, 2)
    _by_samples(len(x), lambda some: y[some].copy_(_nnpack(x[some], weight, bias, padding)))
    return y


def weight_vjp(dy: torch.Tensor, x: torch.Tensor, padding: int) -> torch.Tensor:
    """∇W (C_out×C_in×k×k) for dy (B×C_out×H'×W') and x (B×C_in×H×W).

    dy is cut into tiles, each a kernel for the tile of x that has met it.
    """
    sides = dy.shape[2:]
    kernel = x.shape[2] + 2 * padding - sides[0] + 1
    counts = [math.ceil(side / (TILE + 1 - kernel)) for side in sides]
    tile = [math.ceil(side / count) for side, count in zip(sides, counts, strict=True)]
    below, right = (t * count - side for t, count, side in zip(tile, counts, sides, strict=True))

    def gradient(some: slice) -> torch.Tensor:
        seen = _tiles(_padded(x[some], padding, below, right), tile, kernel - 1)
        return _nnpack(seen, _tiles(_padded(dy[some], 0, below, right), tile, 0), None, 0)

    return torch.stack(_by_samples(len(x), gradient)).sum(0).transpose(0, 1)


def _padded(images: torch.Tensor, around: int, below: int, right: int) -> torch.Tensor:
    """`images` with zeros `around` them, and more of them `below` and on the `right`."""
    if not (around or below or right):
        return images
    return F.pad(images, (around, around + right, around, around + below))


def _tiles(images: torch.Tensor, tile: list[int], overlap: int) -> torch.Tensor:
    """The tiles of each channel of `images` (B×C×H×W) as C×(B·tiles)×height×width."""
    for axis, side in zip((2, 3), tile, strict=True):
        images = images.unfold(axis, side + overlap, side)
    return images.transpose(0, 1).flatten(1, 3)


def _nnpack(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: int) -> torch.Tensor:
    return torch._nnpack_spatial_convolution(x.contiguous(), weight, bias, padding)


def _by_samples(samples: int, work: Callable[[slice], Found]) -> list[Found]:
    """Call `work` on slices of `SAMPLES` samples each, and return the results in the order of the slices.

    The slices are shared out among as many threads as torch computes on. The results are the same to the last
    digit, whatever the number of threads.
    """
    parts = [slice(first, first + SAMPLES) for first in range(0, samples, SAMPLES)]
    count = torch.get_num_threads()
    if count == 1:
        return [work(part) for part in parts]
    share = math.ceil(len(parts) / count)
    shares = [parts[first : first + share] for first in range(0, len(parts), share)]
    done = _threads(count).map(lambda share: [work(part) for part in share], shares)
    return list(chain.from_iterable(done))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """A pool of `count` threads; on each of them torch computes with one thread."""
    threads = ThreadPoolExecutor(count, "fourier", _alone)
    barrier = Barrier(count)
    list(threads.map(lambda _: barrier.wait(), range(count)))  # each of them has begun
    torch.set_num_threads(count)  # for threads that are begun later: they take over what was set last
    return threads


def _alone() -> None:
    """Let torch compute without helpers where this thread calls it."""
    torch.set_num_threads(1)
    torch.get_num_threads()  # else it would still take over what another one sets


@cache
def _direct_is_slow() -> bool:
    """Whether this processor multiplies eight numbers at a time: AVX2, or AVX-512 in two halves (Zen 4).

    At sixteen, oneDNN's direct convolutions take no longer.
    """
    width = vector_extension()
    halves = width == "AVX2" or (width == "AVX512" and vendor_and_family() == (AMD, 25))
    if not halves or private("_nnpack_spatial_convolution") is None:
        return False
    available = private("_nnpack_available")
    return available is not None and bool(available())
