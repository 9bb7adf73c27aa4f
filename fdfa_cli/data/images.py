"""Options that all image sets share, and the verified files of those that are downloaded."""

from __future__ import annotations

import hashlib
import os
import sys
from abc import abstractmethod
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from typing_extensions import override

from fdfa_cli.data.base import Data, Samples, Status
from fdfa_cli.data.files import is_file, staging, unreadable, writing
from fdfa_cli.data.root import not_found
from fdfa_cli.data.transform import Augmentation, Crop, Flip, ResizedCrop, Transform
from fdfa_cli.door import open_regular
from fdfa_cli.errors import DataCorrupt, FdfaError
from fdfa_cli.lazy import numpy, torch
from fdfa_cli.streams import Shape

#: Bytes that a file of a published set may have: one that is larger is another file, and not read.
LARGEST = 2**30


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse an augmentation named twice, and two kinds of crop."""
    if len(set(names)) < len(names):
        raise ValueError(f"names an augmentation twice ({', '.join(names)})")
    if {"crop", "resized_crop"} <= set(names):
        raise ValueError("takes one of crop and resized_crop, not both")
    return names


class ImageData(Data):
    """Images, kept as uint8 on the device and normalised, resized and augmented batch by batch."""

    #: Channels and pixels a side of the stored images (None: options say), and the value that is white.
    stored: ClassVar[tuple[int, int] | None] = None
    white: ClassVar[int] = 255
    #: Mean and standard deviation of each channel over the training file, black 0 and white 1.
    mean: ClassVar[tuple[float, ...]] = ()
    std: ClassVar[tuple[float, ...]] = ()

    normalize: Annotated[
        Literal["standard", "symmetric", "unit"],
        Field(
            description="standard: mean 0, variance 1 over the training set; symmetric: [-1, 1]; unit: [0, 1]"
        ),
    ] = "standard"
    augment: Annotated[
        tuple[Literal["flip", "crop", "resized_crop"], ...],
        Field(description="random changes of each training sample, in this order"),
        AfterValidator(_once),
    ] = ()
    crop_padding: Annotated[int, Field(ge=1, description="crop: most pixels an image is shifted by")] = 4
    min_area: Annotated[
        float, Field(gt=0, le=1, description="resized_crop: least share of the image's area that is kept")
    ] = 0.08
    resize: Annotated[
        int | None, Field(ge=1, description="pixels a side of the network's input; as stored when absent")
    ] = None

    @override
    def sample_bytes(self) -> int:
        """One byte for each pixel and channel of the stored image; resizing comes later."""
        channels, side = self.stored_shape()
        return channels * side**2

    def stored_shape(self) -> tuple[int, int]:
        """Channels and pixels a side of the stored images."""
        assert self.stored is not None, "a set whose options decide overrides this"
        return self.stored

    @override
    def shape(self) -> Shape:
        channels, side = self.stored_shape()
        return channels, self.resize or side, self.resize or side

    def statistics(self, train: Samples) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, black 0 and white 1."""
        return self.mean, self.std

    def transform(self, train: Samples) -> Transform:
        """Augmentation, size and normalisation, as the options say."""
        _, channels, stored, _ = train.take(torch.arange(1)).images.shape
        side = self.resize or stored
        if self.normalize == "standard":
            mean, std = self.statistics(train)
        else:
            centre = 0.5 if self.normalize == "symmetric" else 0.0
            mean, std = (centre,) * channels, (1 - centre,) * channels
        steps: dict[str, Augmentation] = {
            "flip": Flip(),
            "crop": Crop(self.crop_padding),
            "resized_crop": ResizedCrop(side, self.min_area),
        }
        return Transform.normalising(mean, std, self.white, side, tuple(steps[name] for name in self.augment))


class DownloadedImages(ImageData):
    """A published set of images, its files known by their checksums."""

    #: The folder under the data root, and the MD5 of every file in it that is read.
    folder: ClassVar[str]
    checksums: ClassVar[dict[str, str]]

    @override
    def files(self, root: Path) -> dict[str, Path]:
        found = {f"{self.folder}/{file}": root / self.folder / file for file in self.checksums}
        for path in found.values():
            if not is_file(path):
                raise not_found(self.set_name(), root, path)
        return found

    @classmethod
    @abstractmethod
    def download(cls, root: Path) -> None:
        """Let torchvision download the set and unpack it into `root`; raises OSError or RuntimeError."""

    @classmethod
    def open(cls, root: Path, file: str) -> memoryview:
        """The verified bytes of one file of the set.

        Verified at every start, before anything is made of them: 55 MB (MNIST) take 0.08 s, 186 MB
        (CIFAR-10) 0.3 s, a tenth of the time that importing torch takes.
        Raises `DataNotFound`, `DataCorrupt`, and `UsageError` where it may not be read.
        """
        path = root / cls.folder / file
        try:
            with open_regular(path) as opened:
                size = os.fstat(opened.fileno()).st_size
                content = numpy.fromfile(opened, numpy.uint8).data if size <= LARGEST else memoryview(b"")
        except (FileNotFoundError, NotADirectoryError):
            raise not_found(cls.set_name(), root, path) from None
        except OSError as error:
            raise unreadable(path, error) from error
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != cls.checksums[file]:
            wrong = f"have the MD5 checksum {found}, not {cls.checksums[file]}"
            raise DataCorrupt(
                f"{path} is damaged: its {size} bytes {'are too many' if size > LARGEST else wrong}; "
                f"`fdfa data fetch {cls.set_name()}` replaces it"
            )
        return content

    @classmethod
    @override
    def status(cls, root: Path) -> Status:
        folder = root / cls.folder
        try:
            sizes = [(folder / file).stat().st_size for file in cls.checksums if is_file(folder / file)]
        except FdfaError:
            return Status(cls.set_name(), cls.summary(), "unreadable", folder, 0)
        state: Literal["present", "incomplete", "missing"] = (
            "present" if len(sizes) == len(cls.checksums) else "incomplete" if sizes else "missing"
        )
        return Status(cls.set_name(), cls.summary(), state, folder, sum(sizes))

    @classmethod
    @override
    def fetch(cls, root: Path) -> None:
        """Downloads into a folder beside the final place, and moves only verified files there."""
        if cls._intact(root):
            return
        with staging(root, f".fetch-{cls.set_name()}-") as folder:
            try:
                with redirect_stdout(sys.stderr):  # where torchvision tells how it goes
                    cls.download(folder)
            except (OSError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise FdfaError(
                    f"downloading {cls.set_name()} failed, nothing was stored: {reason}"
                ) from error
            for file in cls.checksums:
                cls.open(folder, file)
            with writing(root / cls.folder):
                (root / cls.folder).mkdir(parents=True, exist_ok=True)
                for file in cls.checksums:
                    (folder / cls.folder / file).replace(root / cls.folder / file)

    @classmethod
    def _intact(cls, root: Path) -> bool:
        if cls.status(root).state != "present":
            return False
        try:
            for file in cls.checksums:
                cls.open(root, file)
        except DataCorrupt:
            return False
        return True
