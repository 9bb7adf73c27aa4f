"""A computed data set: a random network labels random vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.data.base import DATA, Amount, Counts, Data, Subset, count_of
from fdfa_cli.errors import UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.streams import Shape


@DATA.register
class Synthetic(Data):
    """Gaussian vectors labelled by a random network, the teacher; computed when needed, never stored.

    The teacher is one hidden layer of ReLUs with Gaussian weights. Its logits are centred and scaled over
    the samples, so that the classes are of similar size. It depends on `seed` alone, not on the run's.
    """

    name: Literal["synthetic"] = "synthetic"

    inputs: Annotated[int, Field(ge=1, description="length of a vector")] = 32
    n_classes: Annotated[int, Field(ge=2, description="number of classes")] = 10
    samples: Annotated[int, Field(ge=2, description="vectors, those for testing included")] = 10000
    test: Annotated[Amount, Field(description="vectors, or fraction of them, for testing")] = 0.2
    hidden: Annotated[int, Field(ge=1, description="hidden units of the teacher")] = 64
    noise: Annotated[
        float, Field(ge=0, le=1, description="fraction of labels replaced by a class drawn at random")
    ] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**63, description="of the teacher, the vectors and the noise")] = 0

    @override
    def shape(self) -> Shape:
        return (self.inputs,)

    @override
    def classes(self) -> int:
        return self.n_classes

    @override
    def reading_bytes(self, counts: Counts) -> int:
        """Counts the teacher's hidden units too, which exist while the samples are made."""
        return super().reading_bytes(counts) + 2 * 4 * self.hidden * self.samples

    @override
    def counts(self) -> Counts:
        held_out = count_of(self.test, self.samples)
        if held_out >= self.samples:
            raise UsageError(f"data.test: {held_out} of {self.samples} samples leaves none to train on")
        return Counts(self.samples - held_out, held_out)

    @override
    def read(self, root: Path) -> tuple[Subset, Subset]:
        """Ignores `root`. The test vectors are the last ones."""
        train, _, _ = self.counts()
        chance = torch.Generator().manual_seed(self.seed)
        first = torch.randn(self.inputs, self.hidden, generator=chance) / self.inputs**0.5
        second = torch.randn(self.hidden, self.n_classes, generator=chance)
        vectors = torch.randn(self.samples, self.inputs, generator=chance)
        logits = (vectors @ first).relu() @ second
        labels = ((logits - logits.mean(0)) / logits.std(0)).argmax(1)
        replaced = torch.rand(self.samples, generator=chance) < self.noise
        anything = torch.randint(self.n_classes, (self.samples,), generator=chance)
        file = Subset.whole(vectors, torch.where(replaced, anything, labels))
        return file.take(torch.arange(train)), file.take(torch.arange(train, self.samples))
