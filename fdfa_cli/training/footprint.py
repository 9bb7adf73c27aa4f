"""How much memory a training takes, known from its recipe and without torch.

    peak   process + max(reading, training) + half of the lesser of the two
    training   data + model + max( step × fragments, evaluation × fragments, saving )

    reading      the data: the training file twice, as it is read and as it is cut
    model        parameters, running statistics, the rule's state, and what optimizers keep of each
    step         activations that derivatives read, those in passing, gradients, perturbations, masks: in what
                 proportions, the layers (`Layer.keeps`) and the rule (`Rule.holding`) say
    evaluation   a block's activations of a batch of 500
    saving       a checkpoint, put together in memory

Half of the lesser: of what reading has freed, about that much lies in pieces that the training's tensors do
not fit into. Tensors are counted; the constants are measured. `python benchmarks/memory.py --trainings` sets
the estimate beside the peak of trainings of every rule on four networks. It knows nothing of what happens
inside a wrapped `torch.nn.Module` (`ModuleLayer`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from fdfa_cli.data.base import Counts
from fdfa_cli.errors import FdfaError
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Layer
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.rules.base import Holding
from fdfa_cli.streams import LONG, Draw, Shape

#: Samples a forward pass in evaluation.
EVALUATION_BATCH = 500
#: Bytes of a number, but for activations in bfloat16.
WIDTH = 4
#: Bytes that any training adds to a process: code and tables that are loaded at their first use.
PROCESS = 16 * 2**20
#: Bytes that torch takes in a process of its own, without what processes share.
IMPORT = 300 * 2**20
#: What the C library's heap holds over what is in use: freed blocks between others that none fits into.
FRAGMENTS = 1.2
#: A checkpoint's bytes, and the room in which they grow.
GROWTH = 1.125
#: Bytes of random bits and of table positions that a long Gaussian draw takes for each of its numbers.
DRAWING = 6


class Activations(NamedTuple):
    """What a pass holds of one sample: numbers that derivatives read, bytes beside them, the widest layer."""

    kept: int
    beside: int
    widest: int

    def bytes(self, samples: int, width: int, passes: float, passing: float) -> float:
        """Bytes of a pass of so many `samples`; `width` is that of the numbers kept.

        Where those are narrow, half of what is in passing is wide: norms compute in float32.
        """
        in_passing = (width + WIDTH) / 2 * passing * self.widest
        return samples * (passes * (width * self.kept + self.beside) + in_passing)


@dataclass(frozen=True)
class Footprint:
    """Bytes that a training takes at different moments; see above."""

    reading: int
    data: int
    model: int
    step: int
    evaluation: int
    checkpoint: int

    @property
    def on_device(self) -> int:
        """The peak of what lies on the device that computes, where that is another."""
        return self.data + self.model + round(FRAGMENTS * max(self.step, self.evaluation))

    @property
    def peak(self) -> int:
        """The peak of what a training on a CPU adds to a process that has loaded torch."""
        training = max(self.on_device, self.data + self.model + round(GROWTH * self.checkpoint))
        return PROCESS + max(self.reading, training) + min(self.reading, training) // 2

    @property
    def stacked(self) -> int:
        """What each of several stacked trainings takes, which share the data.

        The model twice, for both are there while a stack is made of it.
        """
        return 2 * self.model + self.step + self.evaluation


def footprint(recipe: Recipe, counts: Counts | None = None) -> Footprint:
    """The estimate for `recipe`, of whose data set the files hold `counts` samples.

    Without them, and where they are not known without the files, the data itself counts as nothing.
    """
    data, rule = recipe.data, recipe.rule
    network = recipe.network.build(data.shape(), data.classes())
    counts = counts or data.counts()
    sizes = None if counts is None else data.sizes(counts)
    size = recipe.training.batch_size if sizes is None else min(recipe.training.batch_size, sizes.train)
    weights, feedback = _numbers(network.parameters()), _numbers(rule.state(network))
    slots = rule.weight_training(recipe.optimizer, recipe.schedule)[0].slot_count * weights
    slots += rule.feedback_training(recipe.optimizer, recipe.schedule)[0].slot_count * feedback
    checkpoint = WIDTH * (weights + feedback + slots + _numbers(network.buffers()))
    step, model = _step(recipe, network, size), checkpoint
    if recipe.diagnostics is not None:  # a twin of the training, and the true gradient beside the rule's
        step, model = step + _pass(network, size, WIDTH, Holding(weights=2)), 2 * model
    whole = max(sizes.test, sizes.validation) if sizes is not None else EVALUATION_BATCH
    return Footprint(
        reading=data.reading_bytes(counts) if counts is not None else 0,
        data=data.sample_bytes() * sum(sizes) if sizes is not None else 0,
        model=model,
        step=step,
        evaluation=_pass(
            network, min(EVALUATION_BATCH, whole), WIDTH, Holding(in_turn=True, passing=0.5, weights=0)
        ),
        checkpoint=checkpoint,
    )


def bytes_of(recipe: Recipe) -> int:
    """Bytes that one training of a stack takes beside the data, which all share."""
    return footprint(recipe).stacked


def _step(recipe: Recipe, network: Network, size: int) -> int:
    """Bytes of one step on `size` samples, beside data and model."""
    rule, holding = recipe.rule, recipe.rule.holding()
    width = 2 if recipe.training.precision == "bf16" else WIDTH
    drawn = rule.perturbations(network, size, 0)
    longest = max((math.prod(d.shape) for d in drawn.values() if d.law == "gaussian"), default=0)
    drawing = WIDTH * _numbers(drawn) + (DRAWING * longest if longest >= LONG else 0)
    masks = WIDTH * _numbers(network.noise(size))
    taken = _pass(network, size, width, holding) + round(holding.perturbations * WIDTH * _numbers(drawn))
    return masks + max(drawing, taken)


def _pass(network: Network, samples: int, width: int, holding: Holding) -> int:
    """Bytes of the activations and gradients of one step, as the rule is `holding` them."""
    if not holding.in_turn:
        whole = activations(network.chain, network.shape)
        taken = whole.bytes(samples, width, holding.passes, holding.passing)
        return round(taken + holding.weights * WIDTH * _numbers(network.parameters()))
    peak, learned, shape = 0.0, 0, network.shape
    for block in (*network.blocks, network.output):
        learned += _numbers(block.parameters())
        taken = activations(block, shape).bytes(samples, width, holding.passes, holding.passing)
        peak = max(peak, taken + holding.weights * WIDTH * learned)
        shape = block.out_shape(shape)
    return round(peak)


def activations(layer: Layer, shape: Shape) -> Activations:
    """What a pass through `layer`, of samples of `shape`, holds of each sample."""
    kept = beside = widest = 0
    counted = False  # whether the input of this layer is the output of one that keeps it
    for part, entering in layer.leaves(shape):
        ends = math.prod(entering), math.prod(part.out_shape(entering))
        if part.keeps == "input" and not counted:
            kept += ends[0]
        counted = part.keeps == "output"
        kept += ends[1] if counted else 0
        beside += part.kept_beside(entering)
        widest = max(widest, sum(ends))
    return Activations(kept, beside, widest)


def _numbers(draws: dict[str, Draw]) -> int:
    return sum(math.prod(draw.shape) for draw in draws.values())


def size(count: int) -> str:
    """So many bytes, in words."""
    if count >= 2**63:
        return "more than 8 EiB"
    for unit, power in (("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20)):
        if count >= 2**power:
            return f"{count / 2**power:.3g} {unit}"
    return f"{count / 2**10:.3g} KiB"


#: What torch and its allocators say where there is no more.
_EXHAUSTED = (
    "allocate memory",
    "out of memory",
    "bad_alloc",
    "size calculation overflowed",
    "not enough memory",
)


@contextmanager
def memory_in_words() -> Iterator[None]:
    """Raises `FdfaError` in the place of what is raised where memory is exhausted."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        if not isinstance(error, MemoryError) and not any(words in said.lower() for words in _EXHAUSTED):
            raise
        wanted = re.search(r"tried to allocate ([\d.]+ ?\w+)", said)
        more = f" when it asked for {wanted[1]} more" if wanted else ""
        raise FdfaError(
            f"the training ran out of memory{more}: take a smaller network, batch or image"
        ) from error
