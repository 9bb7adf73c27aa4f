"""A network: hidden blocks and an output layer, and the options that build one."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from fdfa_cli.lazy import torch
from fdfa_cli.network.layers import Activation, BatchNorm, Chain, Layer, Mode, Tensors
from fdfa_cli.registry import Named, Registry
from fdfa_cli.streams import Draw, Shape


@dataclass(frozen=True)
class Network:
    """Hidden blocks 0 … L−1 and the output layer. A rule acts at the blocks' outputs `H_l`.

    shape    a sample's shape, (N,) for vectors and (C, H, W) for images
    classes  number of outputs C
    blocks   the hidden blocks, named ``1``, ``2`` …
    output   the output layer, named ``out``, which gives the logits (B×C)

    A network holds no tensor: parameters, running statistics and noise are declared here by name and shape,
    and handed over at every pass. It is frozen, hashes by its layers, and needs no torch to be made.
    """

    shape: Shape
    classes: int
    blocks: tuple[Chain, ...]
    output: Chain

    @classmethod
    def of(
        cls, shape: Shape, classes: int, blocks: Sequence[Sequence[Layer]], output: Sequence[Layer]
    ) -> Network:
        """A network of these layers, its blocks named ``1``, ``2`` … and ``out``.

        Raises `UsageError` where a layer does not fit what comes before it.
        """
        named = tuple(Chain(tuple(block)).named(str(i)) for i, block in enumerate(blocks, 1))
        network = cls(shape, classes, named, Chain(tuple(output)).named("out"))
        assert network.output.out_shape(network.block_shapes[-1] if named else shape) == (classes,)
        return network

    @cached_property
    def block_shapes(self) -> tuple[Shape, ...]:
        """Shape of every block's output, without the batch axis."""
        shapes, shape = [], self.shape
        for block in self.blocks:
            shape = block.out_shape(shape)
            shapes.append(shape)
        return tuple(shapes)

    @cached_property
    def chain(self) -> Chain:
        """The whole network as one chain."""
        return Chain((*self.blocks, self.output))

    def parameters(self) -> dict[str, Draw]:
        """Trainable tensors by full name, and the law of their initial value."""
        return self.chain.parameters()

    def buffers(self) -> dict[str, Draw]:
        """Running statistics by full name, with their initial value."""
        return self.chain.buffers()

    def noise(self, batch_size: int) -> dict[str, Draw]:
        """Random tensors a training pass over `batch_size` samples needs (dropout masks)."""
        return self.chain.noise((batch_size, *self.shape))

    def leaves(self) -> Iterator[tuple[Layer, Shape]]:
        """Every elementary layer in the order of computation, with the shape of its input."""
        return self.chain.leaves(self.shape)

    @cached_property
    def normalises_single_values(self) -> bool:
        """Whether a batch norm has one value of each channel in a sample: of vectors, or of 1×1 images."""
        return any(
            isinstance(layer, BatchNorm) and math.prod(shape[1:]) == 1 for layer, shape in self.leaves()
        )

    def predict(self, params: Tensors, buffers: Tensors, x: torch.Tensor) -> torch.Tensor:
        """Logits (B×C) in evaluation mode; a block's activations are freed before the next one runs."""
        mode = Mode(training=False, buffers=buffers)
        for block in (*self.blocks, self.output):
            x = block.forward(params, x, mode)[0]
        return x

    @cached_property
    def at_activations(self) -> Network:
        """The same network with each block ending at its last activation.

        What followed it there (a pool) now opens the next block.
        """
        return self._regrouped(lambda layers: _last_activation(layers) + 1)

    @cached_property
    def at_preactivations(self) -> Network:
        """The same network with each block ending before its last activation, which opens the next."""
        return self._regrouped(_last_activation)

    def _regrouped(self, end: Callable[[Sequence[Layer]], int]) -> Network:
        """Move each block's boundary to `end` of its layers, carrying the rest to the next block."""
        blocks: list[Chain] = []
        carried: tuple[Layer, ...] = ()
        for block in self.blocks:
            layers = carried + block.layers
            cut = len(carried) + end(block.layers)
            blocks.append(Chain(layers[:cut], name=block.name))
            carried = layers[cut:]
        output = Chain(carried + self.output.layers, name=self.output.name)
        return Network(self.shape, self.classes, tuple(blocks), output)


def split_at_activation(block: Chain) -> tuple[Chain, Activation, Chain]:
    """A block as what leads to its pre-activation, its (last) activation, and what follows."""
    cut = _last_activation(block.layers)
    if cut == len(block.layers):
        return block, Activation("identity"), Chain(())
    activation = block.layers[cut]
    assert isinstance(activation, Activation)
    return Chain(block.layers[:cut]), activation, Chain(block.layers[cut + 1 :])


def _last_activation(layers: Sequence[Layer]) -> int:
    """Index of the last activation among `layers`; their number when there is none."""
    found = [i for i, layer in enumerate(layers) if isinstance(layer, Activation)]
    return found[-1] if found else len(layers)


class NetworkOptions(Named):
    """An architecture, by its options."""

    @abstractmethod
    def build(self, shape: Shape, classes: int) -> Network:
        """The network for samples of `shape` and `classes` outputs; needs no torch.

        Raises `UsageError` where the samples do not fit the architecture.
        """


NETWORKS: Registry[NetworkOptions] = Registry("network", "fdfa_cli.network.zoo")
