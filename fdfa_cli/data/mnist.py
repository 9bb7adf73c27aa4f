"""MNIST and Fashion-MNIST: the same files with other pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fdfa_cli.data.base import Amount, Counts, Subset
from fdfa_cli.data.download import Archive
from fdfa_cli.data.images import DownloadedImages
from fdfa_cli.lazy import torch
from fdfa_cli.registry import DATA


class IdxImages(DownloadedImages):
    """28×28 grey images in four files of the IDX format, 60 000 to train and 10 000 to test."""

    stored: ClassVar[tuple[int, int]] = (1, 28)

    validation: Annotated[
        Amount, Field(description="samples, or fraction, cut from the 60 000 of the training file")
    ] = 5000

    def classes(self) -> int:
        """Ten."""
        return 10

    def counts(self) -> Counts:
        """See `Data.counts`."""
        return Counts(60_000, 10_000)

    def read(self, root: Path) -> tuple[Subset, Subset]:
        """See `Data.read`."""
        return self._read(root, "train"), self._read(root, "t10k")

    def _read(self, root: Path, part: str) -> Subset:
        # Headers: 4 bytes of type, then 4 for each dimension. The checksum has vouched for them.
        images = torch.frombuffer(self.open(root, f"{part}-images-idx3-ubyte"), dtype=torch.uint8, offset=16)
        labels = torch.frombuffer(self.open(root, f"{part}-labels-idx1-ubyte"), dtype=torch.uint8, offset=8)
        return Subset.whole(images.view(-1, 1, 28, 28), labels.long())


def _archives(mirrors: tuple[str, ...], checksums: dict[str, str]) -> tuple[Archive, ...]:
    """The four packed files at any of `mirrors`, by their MD5 `checksums`."""
    return tuple(
        Archive(tuple(f"{mirror}{file}.gz" for mirror in mirrors), md5) for file, md5 in checksums.items()
    )


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
    archives: ClassVar[tuple[Archive, ...]] = _archives(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        {
            "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    )
    mean: ClassVar[tuple[float, ...]] = (0.1307,)
    std: ClassVar[tuple[float, ...]] = (0.3081,)


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
    archives: ClassVar[tuple[Archive, ...]] = _archives(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        {
            "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    )
    mean: ClassVar[tuple[float, ...]] = (0.2860,)
    std: ClassVar[tuple[float, ...]] = (0.3530,)
