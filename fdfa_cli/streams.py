"""Random numbers: what is drawn, and the streams it is drawn from.

Layers and rules never hold a generator. They declare `Draw`s (shape and law), and whoever runs them
samples these from a stream and hands the tensors over, so that a test can fix any of them.

One seed gives a run independent streams, one for each purpose and epoch: drawing more for one purpose
never moves another, and a resumed epoch draws what it would have drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from fdfa_cli.lazy import F, torch

Shape = tuple[int, ...]
#: How a draw lies in memory, see `Draw`.
Layout = Literal["plain", "images", "batch"]

#: Gaussian draws of so many numbers are looked up in a table on a CPU, where that is quicker.
LONG = 2**15
#: Numbers in that table.
LEVELS = 2**14


@dataclass(frozen=True, slots=True)
class Draw:
    """A tensor to be drawn: its shape, and one law for all of its entries, which are independent.

    uniform      U(−scale, scale)
    gaussian     N(0, scale²); long draws on a CPU in 2¹⁴ steps of equal probability, see `_gaussian`
    rademacher   ±scale with equal probability; a random bit an entry
    bernoulli    1 with probability `scale`, else 0
    constant     `scale` everywhere; draws nothing
    given        a copy of `value`; draws nothing

    `layout` says how the tensor lies in memory, so that it meets what the layers lay out without being
    copied; it changes no value:

    plain        in the order of its axes
    images       an image or more (…, C, H, W), with the channels adjacent
    batch        as the layers lay out a batch: images like that, and vectors (…, B, N) unit by unit
    """

    shape: Shape
    law: Literal["uniform", "gaussian", "rademacher", "bernoulli", "constant", "given"]
    scale: float = 1.0
    value: torch.Tensor | None = field(default=None, compare=False, repr=False)
    layout: Layout = "plain"

    @classmethod
    def given(cls, value: torch.Tensor) -> Draw:
        """The draw that is always `value`."""
        return cls(tuple(value.shape), "given", value=value.detach())

    def sample(self, generator: torch.Generator, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A tensor of `shape` on the generator's device.

        In `dtype`; where that is not given, in a given value's own type, else in torch's default.
        """
        memory = allocated(self, generator.device, dtype)
        self.fill(memory, generator)
        return in_axis_order(memory, self)

    def fill(self, memory: torch.Tensor, generator: torch.Generator) -> None:
        """Draw into `memory`, which `allocated` has made for a sample."""
        if self.value is not None:
            in_axis_order(memory, self).copy_(self.value)
        elif self.law == "constant":
            memory.fill_(self.scale)
        elif self.law == "rademacher":
            torch.mul(_signs(memory.shape, generator, memory.dtype), self.scale, out=memory)
        elif self.law == "uniform":
            memory.uniform_(-self.scale, self.scale, generator=generator)
        elif self.law == "gaussian":
            _gaussian(memory, self.scale, generator)
        else:
            memory.bernoulli_(self.scale, generator=generator)


def kaiming(shape: Shape) -> Draw:
    """Kaiming-uniform law of a C×N tensor, bound √(6/N): the feedback of DFA in the authors' code."""
    return Draw(shape, "uniform", math.sqrt(6 / math.prod(shape[1:])))


def sample(draws: Mapping[str, Draw], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Every draw of `draws`, in their order, from one stream."""
    return {name: draw.sample(generator) for name, draw in draws.items()}


def sample_rows(
    draws: Sequence[Mapping[str, Draw]],
    generators: Sequence[torch.Generator],
    shares: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """`sample` of several trials, each from its own stream, in the rows of one tensor a draw (K×shape).

    With `shares` (K, int64), row k of the result is what trial number `shares[k]` drew.
    """
    stacked = {
        name: allocated(draw, generators[0].device, rows=(len(draws),)) for name, draw in draws[0].items()
    }
    rows = {name: values.unbind() for name, values in stacked.items()}
    for k, (mine, generator) in enumerate(zip(draws, generators, strict=True)):
        for name, draw in mine.items():
            draw.fill(rows[name][k], generator)
    if shares is not None:
        stacked = {name: values.index_select(0, shares) for name, values in stacked.items()}
    return {name: in_axis_order(stacked[name], draw) for name, draw in draws[0].items()}


# --- how a draw lies in memory -----------------------------------------------------------------------------


def allocated(
    draw: Draw, device: torch.device, dtype: torch.dtype | None = None, rows: Shape = ()
) -> torch.Tensor:
    """Memory for a sample of `draw`, or for `rows` of them: contiguous, the axis that lies adjacent last.

    Its values are not set. `dtype` as in `Draw.sample`.
    """
    if dtype is None and draw.value is not None:
        dtype = draw.value.dtype
    shape, adjacent = [*rows, *draw.shape], _adjacent_axis(draw)
    if adjacent != -1:
        shape.append(shape.pop(adjacent))
    return torch.empty(shape, device=device, dtype=dtype)


def in_axis_order(memory: torch.Tensor, draw: Draw) -> torch.Tensor:
    """What `allocated` made, as a view with its axes in their own order (*rows, *shape)."""
    adjacent = _adjacent_axis(draw)
    if adjacent == -2:
        return memory.mT
    return memory if adjacent == -1 else memory.movedim(-1, adjacent)


def _adjacent_axis(draw: Draw) -> int:
    """The axis, counted from the last, whose entries are adjacent in memory."""
    if draw.layout == "plain" or len(draw.shape) < 2:
        return -1
    if len(draw.shape) > 3:
        return -3
    return -2 if draw.layout == "batch" else -1


# --- streams -----------------------------------------------------------------------------------------------


def stream(seed: int, purpose: str, epoch: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of (seed, purpose, epoch): independent of every other purpose and epoch."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def _gaussian(values: torch.Tensor, scale: float, generator: torch.Generator) -> None:
    """`values` filled with N(0, scale²).

    Torch's generator on a CPU takes 3 ns a number and one thread: a tenth of a convolutional network's step.
    Long draws take a third of that, random bits choosing among the middles of the normal law's 2¹⁴ quantiles.
    These are scaled so that mean and variance are exact; the fourth moment is 2.997, and no number exceeds
    4.01. (2¹⁶ would come to 2.999 and 4.33, but do not stay in a core's cache beside what else a step uses.)
    """
    count = values.numel()
    if count < LONG or values.device.type != "cpu":
        values.normal_(0.0, scale, generator=generator)
        return
    words = _words(16 * count, generator)
    words.bitwise_and_((LEVELS - 1) * 0x0001_0001_0001_0001)  # in each of its four parts
    ranks = words.view(torch.int16)[:count].int()
    torch.index_select(_normal_table(values.dtype), 0, ranks, out=values.view(-1))
    if scale != 1:
        values.mul_(scale)


def _signs(shape: Shape, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    """±1 with equal probability: eight signs are read from each random byte by a look-up table.

    On an Apple GPU, which draws no words of 64 bits, each sign is drawn by itself.
    """
    if generator.device.type == "mps":
        drawn = torch.empty(shape, dtype=dtype, device=generator.device)
        return drawn.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    count = math.prod(shape)
    octets = _words(count, generator).view(torch.uint8).int()
    return F.embedding(octets, _sign_table(generator.device, dtype)).view(-1)[:count].view(shape)


def _words(bits: int, generator: torch.Generator) -> torch.Tensor:
    """At least `bits` random bits, in words of 64."""
    words = torch.empty(-(-bits // 64), dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    return words


@cache
def _sign_table(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """256×8: the bits of each byte as ±1."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return (2 * bits - 1).to(dtype)


@cache
def _normal_table(dtype: torch.dtype) -> torch.Tensor:
    """The middles of the normal law's quantiles, `LEVELS` of them, scaled to a variance of 1."""
    middles: torch.Tensor = torch.special.ndtri((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
    return (middles / middles.square().mean().sqrt()).to(dtype)
