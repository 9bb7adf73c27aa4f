"""Base classes of data sets.

Options (a recipe's ``data`` section) become `Splits`: three disjoint `Subset`s that live on the device,
images as uint8; `Subset.batch` gathers, augments and normalises a whole batch with tensor operations.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Protocol, Self

from pydantic import AfterValidator, Field

from fdfa_cli.data.split import cut, stratified
from fdfa_cli.errors import UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.registry import Named, Registry
from fdfa_cli.streams import Shape

if TYPE_CHECKING:
    from fdfa_cli.data.transform import Transform


def _number_or_fraction(amount: int | float) -> int | float:
    """Refuse what is neither a number of samples nor a proper fraction."""
    if isinstance(amount, float) and not 0 < amount < 1:
        raise ValueError("must be a whole number of samples, or a fraction between 0 and 1")
    return amount


#: A number of samples (an integer, 0 for none) or a fraction of them (0 < f < 1).
Amount = Annotated[int | float, Field(ge=0), AfterValidator(_number_or_fraction)]

#: Seed of the test cut of sets that come in one piece: never an option, so that what no run may select on
#: stays the same whatever a recipe says.
TEST_SEED = 0


class Counts(NamedTuple):
    """Numbers of samples: of the training and the test file, or of the sets that are made of them."""

    train: int
    test: int
    validation: int = 0


class Data(Named):
    """A data set, by its options. The class docstring says where it comes from and its licence.

    The validation set is cut from the training file, each class in its share, by `split_seed` alone: runs
    of different seeds select on the same samples, and the test file is never part of it.
    """

    validation: Annotated[
        Amount, Field(description="samples, or fraction, cut from the training file for validation")
    ] = 0.1
    split_seed: Annotated[int, Field(ge=0, lt=2**32, description="of the cut; not the run's seed")] = 0
    limit: Annotated[
        int | None,
        Field(
            ge=1,
            description="train on at most this many samples and validate on at most as many, each class in "
            "its share; for trials. The test set stays whole, so that test accuracies compare",
        ),
    ] = None

    #: How many copies of the training file's samples are in memory at most, while they are read and cut.
    copies: ClassVar[float] = 2.0

    @abstractmethod
    def shape(self) -> Shape:
        """Shape of one sample as the network sees it, known without torch.

        Raises `DataNotFound` where only the files could tell and they are not there.
        """

    @abstractmethod
    def classes(self) -> int:
        """Number of classes `C`, known without torch.

        Raises `DataNotFound` where only the files could tell and they are not there.
        """

    @abstractmethod
    def read(self, root: Path) -> tuple[Subset, Subset]:
        """The training file and the test file under `root`, whole and on the CPU.

        Raises `DataNotFound` and `DataCorrupt` as `load` does.
        """

    def counts(self) -> Counts | None:
        """How many samples the files hold, where that is known without them; else None.

        Raises `UsageError` where the options leave none to train on.
        """
        return None

    def counted(self, root: Path) -> Counts | None:
        """As `counts`, but the names of the files under `root` may be looked up; they are not read."""
        return self.counts()

    def sizes(self, counts: Counts) -> Counts:
        """How many samples of files that hold so many are for training, validation and testing.

        Raises `UsageError` where `validation` leaves nothing to train on.
        """
        validation = count_of(self.validation, counts.train)
        if validation >= counts.train:
            raise UsageError(
                f"data.validation: {validation} of the {counts.train} training samples of {self.name!r} "
                f"leaves none to train on; the most is {counts.train - 1}"
            )
        limit = counts.train if self.limit is None else self.limit
        return Counts(min(counts.train - validation, limit), counts.test, min(validation, limit))

    def sample_bytes(self) -> int:
        """Bytes that a stored sample takes in memory, without its label."""
        return 4 * math.prod(self.shape())

    def reading_bytes(self, counts: Counts) -> int:
        """Bytes that `load` takes at the most, of files that hold so many samples."""
        return round(self.sample_bytes() * (self.copies * counts.train + counts.test))

    def parts(self, root: Path) -> tuple[Samples, Samples]:
        """The training file and the test file; `load` takes from them only the samples it needs."""
        return self.read(root)

    def files(self, root: Path) -> dict[str, Path]:
        """Every file that `read` reads, by the path it has under a root; none for a set that needs none.

        A machine that lacks them is sent these. Raises `DataNotFound` where one is missing, and `UsageError`
        where the folder may not be entered.
        """
        return {}

    def require(self, root: Path) -> None:
        """Raise what `files` raises where the set is not under `root`; reads no file and needs no torch."""
        if self.status(root).state in ("missing", "incomplete", "unreadable"):
            self.files(root)

    def movable(self) -> Self:
        """Options for the same samples that do not depend on where the `files` are on this machine."""
        return self

    def beside(self, folder: Path) -> Self:
        """Options that name files of `folder`, which is that of the recipe, by their full path.

        Raises `UsageError` where the folder may not be looked into.
        """
        return self

    def transform(self, train: Samples) -> Transform | None:
        """How stored samples become inputs, given the training file; None where they are inputs already."""
        return None

    def load(self, root: Path, device: torch.device) -> Splits:
        """Read the set under `root` onto `device` and cut the validation set.

        Raises `DataNotFound` where it is not on disk (naming the folder and the command that fetches
        it), `DataCorrupt` where a file is damaged (naming it), and `UsageError` where `validation`
        leaves nothing to train on. Never downloads.
        """
        file, test = self.parts(root)
        sizes = self.sizes(Counts(len(file), len(test)))
        validation, train = cut(file.labels, count_of(self.validation, len(file)), self.split_seed)
        if sizes.train < len(train):
            train = train[stratified(file.labels[train], sizes.train, self.split_seed)]
        if sizes.validation < len(validation):
            validation = validation[stratified(file.labels[validation], sizes.validation, self.split_seed)]
        transform = self.transform(file)
        still = transform and replace(transform, augment=())
        return Splits(
            replace(file.take(train), transform=transform).to(device),
            replace(file.take(validation), transform=still).to(device),
            replace(test.take(torch.arange(len(test))), transform=still).to(device),
        )

    @classmethod
    def set_name(cls) -> str:
        """The name a recipe asks for the set by."""
        return str(cls.model_fields["name"].default)

    @classmethod
    def status(cls, root: Path) -> Status:
        """Whether the set is under `root`, told without torch and without reading its files."""
        return Status(cls.set_name(), cls.summary(), "built in", None, 0)

    @classmethod
    def fetch(cls, root: Path) -> None:
        """Make the set complete under `root`, downloading what is missing or damaged; else do nothing.

        A failed or interrupted download leaves nothing half-written.
        """


DATA: Registry[Data] = Registry("data set", "fdfa_cli.data")


@dataclass(frozen=True)
class Status:
    """Where a data set stands: its folder (None where it needs none) and the bytes it takes there."""

    name: str
    summary: str
    state: Literal["built in", "present", "incomplete", "missing", "unreadable", "yours"]
    location: Path | None
    bytes: int


def status(root: Path) -> list[Status]:
    """The `Status` of every registered data set, by name; imports no torch and hashes no file."""
    return [model.status(root) for model in DATA.models().values()]


@dataclass(frozen=True)
class Splits:
    """Disjoint training, validation and test sets; validation is cut from the training file."""

    train: Subset
    validation: Subset
    test: Subset


class Samples(Protocol):
    """Labelled samples, in memory (`Subset`) or on disk."""

    @property
    def labels(self) -> torch.Tensor:
        """The class of each, n int64."""

    def __len__(self) -> int: ...

    def take(self, rows: torch.Tensor) -> Subset:
        """The samples at the positions `rows`, in memory."""


@dataclass(frozen=True)
class Subset:
    """Samples of one split, all on one device.

    `images` n×C×H×W uint8 (or n×N float32 for vectors that are not images), `labels` n int64, `index` the
    position of each sample in its file, by which tests prove splits disjoint, `transform` how images
    become inputs (None: they are inputs already).
    """

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    transform: Transform | None = None

    @classmethod
    def whole(cls, images: torch.Tensor, labels: torch.Tensor) -> Subset:
        """All samples of a file, in its order."""
        return cls(images, labels, torch.arange(len(labels)))

    def __len__(self) -> int:
        return len(self.labels)

    def cut(self, count: int, seed: int) -> tuple[Subset, Subset]:
        """`count` samples drawn by `seed`, each class in its share, and all the others."""
        drawn, others = cut(self.labels, count, seed)
        return self.take(drawn), self.take(others)

    def take(self, rows: torch.Tensor) -> Subset:
        """The samples at the positions `rows`."""
        return replace(
            self,
            images=self.images.index_select(0, rows),
            labels=self.labels.index_select(0, rows),
            index=self.index.index_select(0, rows),
        )

    def to(self, device: torch.device) -> Subset:
        """The same samples on `device`."""
        return Subset(
            self.images.to(device),
            self.labels.to(device),
            self.index.to(device),
            self.transform and self.transform.to(device),
        )

    def batch(self, rows: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Inputs (B, *shape) float32 of `rows` (B), normalised; augmented from `generator` when given.

        `rows` and `generator` are on the subset's device. Nothing waits for the device.
        """
        return self.assemble(rows, None if generator is None else self.draw(len(rows), generator))

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor | None:
        """Random numbers for augmenting `count` samples: count×D in U[0,1); None without augmentation."""
        if self.transform is None or not self.transform.draws:
            return None
        return torch.rand(count, self.transform.draws, generator=generator, device=generator.device)

    def assemble(self, rows: torch.Tensor, uniforms: torch.Tensor | None = None) -> torch.Tensor:
        """Inputs (…, B, *shape) of `rows` (…, B), augmented by `uniforms` (…, B, D): a pure function.

        K stacked trials stack their rows and draws (K, B, …); each gets what it would get alone.
        """
        x = self.images.index_select(0, rows.flatten())
        if self.transform is not None:
            x = self.transform(x, None if uniforms is None else uniforms.flatten(0, -2))
        return x.view(*rows.shape, *x.shape[1:])


def count_of(amount: int | float, of: int) -> int:
    """The number of samples that an `Amount` of `of` samples is."""
    return amount if isinstance(amount, int) else round(amount * of)
