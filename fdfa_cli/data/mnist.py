"""MNIST and Fashion-MNIST: the same files with other pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.data.base import DATA, Amount, Counts, Subset
from fdfa_cli.data.images import DownloadedImages
from fdfa_cli.lazy import torch, torchvision


class IdxImages(DownloadedImages):
    """28×28 grey images in four files of the IDX format, 60 000 to train and 10 000 to test."""

    stored: ClassVar[tuple[int, int]] = (1, 28)

    validation: Annotated[
        Amount, Field(description="samples, or fraction, cut from the 60 000 of the training file")
    ] = 5000

    @override
    def classes(self) -> int:
        return 10

    @override
    def counts(self) -> Counts:
        return Counts(60_000, 10_000)

    @override
    def read(self, root: Path) -> tuple[Subset, Subset]:
        return self._read(root, "train"), self._read(root, "t10k")

    def _read(self, root: Path, part: str) -> Subset:
        # Headers: 4 bytes of type, then 4 for each dimension. The checksum has vouched for them.
        images = torch.frombuffer(self.open(root, f"{part}-images-idx3-ubyte"), dtype=torch.uint8, offset=16)
        labels = torch.frombuffer(self.open(root, f"{part}-labels-idx1-ubyte"), dtype=torch.uint8, offset=8)
        return Subset.whole(images.view(-1, 1, 28, 28), labels.long())


@DATA.register
class Mnist(IdxImages):
    """MNIST handwritten digits, 28×28 grey, 10 classes, 60 000 + 10 000.

    LeCun, Cortes and Burges 1998, from images of NIST; CC BY-SA 3.0.
    """

    name: Literal["mnist"] = "mnist"

    folder: ClassVar[str] = "MNIST/raw"
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    mean: ClassVar[tuple[float, ...]] = (0.1307,)
    std: ClassVar[tuple[float, ...]] = (0.3081,)

    @classmethod
    @override
    def download(cls, root: Path) -> None:
        torchvision.datasets.MNIST(root, download=True)


@DATA.register
class FashionMnist(IdxImages):
    """Fashion-MNIST, pictures of clothing, 28×28 grey, 10 classes, 60 000 + 10 000.

    Xiao, Rasul and Vollgraf 2017, Zalando Research; MIT licence.
    """

    name: Literal["fashion_mnist"] = "fashion_mnist"

    folder: ClassVar[str] = "FashionMNIST/raw"
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }
    mean: ClassVar[tuple[float, ...]] = (0.2860,)
    std: ClassVar[tuple[float, ...]] = (0.3530,)

    @classmethod
    @override
    def download(cls, root: Path) -> None:
        torchvision.datasets.FashionMNIST(root, download=True)
