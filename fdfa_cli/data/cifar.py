"""CIFAR-10 and CIFAR-100: colour images of 32×32 pixels."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.data.base import DATA, Amount, Counts, Subset
from fdfa_cli.data.images import DownloadedImages
from fdfa_cli.lazy import torch, torchvision


class CifarImages(DownloadedImages):
    """32×32 colour images in pickled batches, 50 000 to train and 10 000 to test."""

    stored: ClassVar[tuple[int, int]] = (3, 32)
    #: The key of the labels in a batch, and the batches of the test file; the others are for training.
    labels: ClassVar[str]
    test_file: ClassVar[str]

    validation: Annotated[
        Amount, Field(description="samples, or fraction, cut from the 50 000 of the training file")
    ] = 5000

    @override
    def counts(self) -> Counts:
        return Counts(50_000, 10_000)

    @override
    def read(self, root: Path) -> tuple[Subset, Subset]:
        train = [file for file in self.checksums if file != self.test_file]
        return self._read(root, train), self._read(root, [self.test_file])

    def _read(self, root: Path, files: Iterable[str]) -> Subset:
        images, labels = [], []
        for file in files:
            # A pickle can run code: it is opened only after its checksum proved it to be the published one.
            batch = pickle.loads(self.open(root, file), encoding="latin1")
            images.append(torch.from_numpy(batch["data"]))
            labels.append(torch.tensor(batch[self.labels]))
        return Subset.whole(torch.cat(images).view(-1, 3, 32, 32), torch.cat(labels))


@DATA.register
class Cifar10(CifarImages):
    """CIFAR-10, objects and animals, 32×32 colour, 10 classes, 50 000 + 10 000.

    Krizhevsky 2009, labelled from the 80 Million Tiny Images; no licence stated, free for research.
    """

    name: Literal["cifar10"] = "cifar10"

    folder: ClassVar[str] = "cifar-10-batches-py"
    labels: ClassVar[str] = "labels"
    test_file: ClassVar[str] = "test_batch"
    checksums: ClassVar[dict[str, str]] = {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    }
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)

    @classmethod
    @override
    def download(cls, root: Path) -> None:
        torchvision.datasets.CIFAR10(root, download=True)

    @override
    def classes(self) -> int:
        return 10


@DATA.register
class Cifar100(CifarImages):
    """CIFAR-100, objects and animals, 32×32 colour, 100 classes, 50 000 + 10 000.

    Krizhevsky 2009, labelled from the 80 Million Tiny Images; no licence stated, free for research.
    """

    name: Literal["cifar100"] = "cifar100"

    folder: ClassVar[str] = "cifar-100-python"
    labels: ClassVar[str] = "fine_labels"
    test_file: ClassVar[str] = "test"
    checksums: ClassVar[dict[str, str]] = {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    }
    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4865, 0.4409)
    std: ClassVar[tuple[float, ...]] = (0.2673, 0.2564, 0.2762)

    @classmethod
    @override
    def download(cls, root: Path) -> None:
        torchvision.datasets.CIFAR100(root, download=True)

    @override
    def classes(self) -> int:
        return 100
