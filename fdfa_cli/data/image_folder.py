"""Your own images: a folder of class folders, decoded once."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from fdfa_cli.data.base import TEST_SEED, Amount, Status, Subset, count_of
from fdfa_cli.data.images import ImageData
from fdfa_cli.data.listing import Entry, Listing, class_names, list_images
from fdfa_cli.data.root import data_root
from fdfa_cli.errors import DataCorrupt, DataNotFound, UsageError
from fdfa_cli.lazy import numpy, torch
from fdfa_cli.registry import DATA

#: Images that the mean and the standard deviation are taken over, evenly spaced through the training file.
STATISTICS = 10000


@DATA.register
class ImageFolder(ImageData):
    """Any folder of class folders, or of train/ and val/ or test/ with them; Tiny ImageNet's layout too.

    - ``folder/<class>/**``: `test` of the images are held out for testing.
    - ``folder/train/<class>/**`` and ``folder/test/<class>/**``, or else ``folder/val/<class>/**``, which is
      then the test set: the validation set is always cut from train/. Without either, `test` is held out.
    - Tiny ImageNet: ``folder/train/<class>/images/*`` and ``folder/val/val_annotations.txt``.

    Classes are numbered in the order of their names. The first use decodes every image to `size`×`size`
    pixels (shorter side resized, centre cut out) into one file under the data root; it is made anew when a
    file of the folder is added, removed or changed.
    """

    name: Literal["image_folder"] = "image_folder"

    folder: Annotated[
        str, Field(min_length=1, description="the folder; looked up under the data root unless absolute")
    ]
    size: Annotated[int, Field(ge=1, description="pixels a side at which images are stored")] = 64
    channels: Annotated[Literal[1, 3], Field(description="3 for colour, 1 for grey")] = 3
    test: Annotated[
        Amount, Field(description="images, or fraction, held out where there is neither test/ nor val/")
    ] = 0.2

    def stored_shape(self) -> tuple[int, int]:
        """See `ImageData.stored_shape`."""
        return self.channels, self.size

    def classes(self) -> int:
        """As many as there are class folders; raises `DataNotFound` where the folder is not there."""
        return len(class_names(self._folder(data_root())))

    def read(self, root: Path) -> tuple[Subset, Subset]:
        """See `Data.read`. Raises `DataCorrupt` naming an image that cannot be decoded."""
        folder = self._folder(root)
        listing = list_images(folder)
        place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        cache = root / "image_folder" / f"{folder.name}-{self.size}x{self.channels}-{place}.pt"
        train, test = self._decoded(listing, cache)
        if test is None:
            count = count_of(self.test, len(train))
            if count >= len(train):
                raise UsageError(f"data.test: {count} of {len(train)} images leaves none to train on")
            test, train = train.cut(count, TEST_SEED)
        return train, test

    def files(self, root: Path) -> dict[str, Path]:
        """See `Data.files`: all that is in the folder, but hidden files."""
        folder = self._folder(root)
        paths = (path for path in folder.rglob("*") if path.is_file())
        names = {path.relative_to(folder): path for path in paths}
        hidden = {name for name in names if any(part.startswith(".") for part in name.parts)}
        return {f"{folder.name}/{name}": path for name, path in names.items() if name not in hidden}

    def movable(self) -> Self:
        """See `Data.movable`: by the folder's name alone."""
        return self.model_copy(update={"folder": Path(self.folder).name})

    def statistics(self, train: Subset) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See `ImageData.statistics`; measured, over at most `STATISTICS` of the training images."""
        some = train.images[:: -(-len(train) // STATISTICS)].transpose(0, 1).flatten(1)
        values = torch.stack([torch.bincount(channel, minlength=256) for channel in some]).double()
        shares, grey = values / values.sum(1, keepdim=True), torch.arange(256, dtype=torch.float64) / 255
        mean = shares @ grey
        # A set of one colour has no variance: a grey level is then the unit.
        std = (shares @ grey**2 - mean**2).clamp(min=255.0**-2).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())

    @classmethod
    def status(cls, root: Path) -> Status:
        """See `Data.status`: the folder is the user's, and what was decoded is kept under `root`."""
        cache = root / "image_folder"
        return Status(
            cls.set_name(), cls.summary(), "yours", cache, sum(f.stat().st_size for f in cache.glob("*.pt"))
        )

    @classmethod
    def fetch(cls, root: Path) -> None:
        """Raises `UsageError`: there is nothing to download."""
        raise UsageError(
            "image_folder reads a folder of yours and downloads nothing: put it under "
            f"{root} or name it by its full path in data.folder"
        )

    def _folder(self, root: Path) -> Path:
        folder = root / self.folder
        try:
            folder = root / Path(self.folder).expanduser()
            found = folder.is_dir()
        except (OSError, RuntimeError):  # a name too long for a folder, or ~ of a user there is not
            found = False
        if not found:
            raise DataNotFound(
                f"data.folder: there is no folder {folder}\n"
                f"put the images there, give their full path, or set FDFA_DATA (now {root})"
            )
        return folder

    def _decoded(self, listing: Listing, cache: Path) -> tuple[Subset, Subset | None]:
        """Training and test images of `listing`, from `cache` where that was made from the same files."""
        stored = _load(cache) if cache.exists() else None
        if stored is None or stored["fingerprint"] != listing.fingerprint:
            count = len(listing.train) + len(listing.test)
            print(f"decoding {count} images of {self.folder}, once: {cache}", file=sys.stderr)
            stored = {"fingerprint": listing.fingerprint}
            for part, entries in (("train", listing.train), ("test", listing.test)):
                stored[part] = self._decode(entries)
                stored[f"{part}_labels"] = torch.tensor([entry.label for entry in entries])
            _save(stored, cache)
        train = Subset.whole(stored["train"], stored["train_labels"])
        return train, Subset.whole(stored["test"], stored["test_labels"]) if listing.test else None

    def _decode(self, entries: tuple[Entry, ...]) -> torch.Tensor:
        """Every image, n×C×S×S uint8; Pillow lets the threads run side by side."""
        images = numpy.empty((len(entries), self.channels, self.size, self.size), dtype=numpy.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for i, image in enumerate(pool.map(self._decode_one, entries)):
                images[i] = image
        return torch.from_numpy(images)

    def _decode_one(self, entry: Entry) -> numpy.ndarray:
        """One image, C×S×S uint8."""
        from PIL import Image, ImageOps

        try:
            with Image.open(entry.path) as image:
                colours = image.convert("RGB" if self.channels == 3 else "L")
                fitted = ImageOps.fit(colours, (self.size, self.size), Image.Resampling.BILINEAR)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataCorrupt(f"{entry.path} cannot be decoded: {error}") from error
        return numpy.asarray(fitted).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)


def _load(cache: Path) -> dict[str, Any]:
    """The decoded images in `cache`, mapped into memory."""
    try:
        return dict(torch.load(cache, weights_only=True, mmap=True))
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise DataCorrupt(
            f"{cache} is damaged; delete it, it is made again from the images: {error}"
        ) from error


def _save(content: dict[str, Any], cache: Path) -> None:
    """Write `cache` whole or not at all."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".decoded-", dir=cache.parent) as staging:
        torch.save(content, staged := Path(staging) / cache.name)
        staged.replace(cache)
