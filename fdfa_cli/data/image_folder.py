"""Your own images: a folder of class folders, decoded once."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field
from typing_extensions import override

from fdfa_cli.data.base import DATA, TEST_SEED, Amount, Counts, Samples, Status, Subset, count_of
from fdfa_cli.data.decoded import FOLDER, PIECE, About, Store, StoredImages, kept
from fdfa_cli.data.files import is_file, is_folder, shown
from fdfa_cli.data.folder_index import Entry, FolderIndex, class_names, first_image, index_images, walk
from fdfa_cli.data.images import ImageData
from fdfa_cli.data.picture import Fit, decode, sides
from fdfa_cli.data.root import data_root
from fdfa_cli.data.split import cut
from fdfa_cli.errors import DataNotFound, FdfaError, UsageError
from fdfa_cli.lazy import numpy, torch

_log = logging.getLogger(__name__)

#: Images that the mean and the standard deviation are taken over, evenly spaced through the training file.
STATISTICS = 10000


@DATA.register
class ImageFolder(ImageData):
    """Your images: a folder with a folder for each class, or with train/ and test/ (or val/) of such folders.

    These layouts are read:

    - ``folder/<class>/**``: `test` of the images are held out for testing.
    - ``folder/train/<class>/**`` and ``folder/test/<class>/**``, or else ``folder/val/<class>/**``, which is
      then the test set: the validation set is always cut from train/. Without either, `test` is held out.
    - Tiny ImageNet: ``folder/train/<class>/images/*`` and ``folder/val/val_annotations.txt``.

    Classes are numbered in the order of their names. The first use decodes every image into one file under
    the data root: turned upright, at `size`×`size` pixels (shorter side resized, centre cut out), the first
    picture of an animation, without its transparency. Grey levels of 16 bits are scaled to 8, floating-point
    ones are refused. The file is made anew when a file of the folder is added, removed or changed.
    """

    name: Literal["image_folder"] = "image_folder"

    folder: Annotated[
        str,
        Field(
            min_length=1,
            description="the folder: an absolute path, or one that is looked up beside the recipe's file and "
            "then under the data root",
        ),
    ]
    size: Annotated[
        int | None,
        Field(
            ge=1,
            le=8192,
            description="pixels a side at which images are stored; when absent, their own, which must be one",
        ),
    ] = None
    channels: Annotated[Literal[1, 3], Field(description="3 for colour, 1 for grey")] = 3
    test: Annotated[
        Amount, Field(description="images, or fraction, held out where there is neither test/ nor val/")
    ] = 0.2

    @override
    def stored_shape(self) -> tuple[int, int]:
        """`size` pixels a side, or else as many as the shorter side of the first image has."""
        return self.channels, self.size or sides(first_image(self._folder(data_root())))[0]

    def classes(self) -> int:
        """The number of class folders; raises `DataNotFound` where the folder is not there."""
        return len(class_names(self._folder(data_root())))

    @override
    def read(self, root: Path) -> tuple[Subset, Subset]:
        train, test = self.parts(root)
        return train.take(torch.arange(len(train))), test.take(torch.arange(len(test)))

    @override
    def counted(self, root: Path) -> Counts:
        """Counts files without reading them; raises what `parts` raises where the folder is inconsistent."""
        index = index_images(self._folder(root))
        if index.test:
            return Counts(len(index.train), len(index.test))
        held_out = self._held_out(len(index.train))
        return Counts(len(index.train) - held_out, held_out)

    @override
    def reading_bytes(self, counts: Counts) -> int:
        """Counts the images that are kept, and the pieces of the file in which they are read."""
        return self.sample_bytes() * sum(self.sizes(counts)) + 3 * PIECE

    @override
    def parts(self, root: Path) -> tuple[Samples, Samples]:
        """Raises `DataCorrupt` naming an image that cannot be decoded."""
        folder = self._folder(root)
        index = index_images(folder)
        store = self._decoded(root, folder, index)
        train = _part(store, 0, index.train)
        if index.test:
            return train, _part(store, len(train), index.test)
        held_out, others = cut(train.labels, self._held_out(len(train)), TEST_SEED)
        return train.only(others), train.only(held_out)

    def _held_out(self, images: int) -> int:
        """How many of `images` are for testing, where the folder has no test part."""
        count = count_of(self.test, images)
        if count >= images:
            raise UsageError(f"data.test: {count} of {images} images leaves none to train on")
        return count

    @override
    def require(self, root: Path) -> None:
        """Raises `UsageError` where there are fewer than two classes."""
        class_names(self._folder(root))

    @override
    def files(self, root: Path) -> dict[str, Path]:
        """Every file in the folder that is not hidden."""
        folder = self._folder(root)
        paths = [Path(entry.path) for entry in walk(folder) if is_file(entry.path)]
        return {f"{self.movable().folder}/{path.relative_to(folder).as_posix()}": path for path in paths}

    @override
    def movable(self) -> Self:
        """Keeps of the folder's path its last name, or takes "images" where that could lead elsewhere."""
        name = Path(self.folder).name
        return self.model_copy(update={"folder": "images" if name in ("", "..") or name[0] == "~" else name})

    @override
    def beside(self, folder: Path) -> Self:
        place = folder / self.folder
        if self.folder.startswith("~") or Path(self.folder).is_absolute() or not is_folder(place):
            return self
        return self.model_copy(update={"folder": str(place.absolute())})

    @override
    def statistics(self, train: Samples) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Measures both over at most `STATISTICS` of the training images."""
        rows = torch.arange(0, len(train), -(-len(train) // STATISTICS))
        values = torch.zeros(self.channels, 256, dtype=torch.float64)
        together = max(1, PIECE // train.take(rows[:1]).images.numel())
        for some in torch.split(rows, together):
            for total, channel in zip(values, train.take(some).images.transpose(0, 1), strict=True):
                total += torch.bincount(channel.flatten(), minlength=256)
        shares, grey = values / values.sum(1, keepdim=True), torch.arange(256, dtype=torch.float64) / 255
        mean = shares @ grey
        # A set of one colour has no variance: a grey level is then the unit.
        std = (shares @ grey**2 - mean**2).clamp(min=255.0**-2).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())

    @classmethod
    @override
    def status(cls, root: Path) -> Status:
        """Says where a user's folder is looked up, and how many bytes all decoded images take."""
        place = root / "<data.folder>"
        try:
            return Status(cls.set_name(), cls.summary(), "yours", place, sum(k.bytes for k in kept(root)))
        except FdfaError:
            return Status(cls.set_name(), cls.summary(), "unreadable", place, 0)

    @classmethod
    def fetch(cls, root: Path) -> None:
        """Raises `UsageError`: there is nothing to download."""
        raise UsageError(
            "image_folder reads a folder of yours and downloads nothing: put it under "
            f"{root} or beside the recipe, or name it by its full path in data.folder"
        )

    def _folder(self, root: Path) -> Path:
        folder = root / self.folder
        try:
            folder = root / Path(self.folder).expanduser()
        except RuntimeError:  # ~ of a user that does not exist
            found = False
        else:
            found = is_folder(folder)
        if not found:
            raise DataNotFound(
                f"data.folder: there is no folder {shown(folder)}\n"
                "nor one of that name beside the recipe's file; "
                f"put the images there, give their full path, or set FDFA_DATA (now {root})"
            )
        return folder

    def _decoded(self, root: Path, folder: Path, index: FolderIndex) -> Store:
        """The decoded images of `index`, training images first; made now where they are not kept."""
        entries = (*index.train, *index.test)
        only = None if self.size else sides(entries[0].path)
        fit = Fit(self.channels, self.size or (only or (1,))[0], only)
        real = str(folder.resolve())
        about = About(real, index.fingerprint, self.size, self.channels, fit.side, len(entries))
        # A file's name has 255 bytes, and the rest must fit in, too.
        name = re.sub(r"[^\w.-]", "_", folder.name)[:40]
        place = hashlib.sha256(os.fsencode(real)).hexdigest()[:12]
        store = Store(root / FOLDER / f"{name}-{self.size or 'own'}x{self.channels}-{place}.zip", about)
        if trouble := store.trouble():
            why = "" if trouble == "missing" else f" (what is there cannot be used: {trouble})"
            _log.info("decoding %d images of %s, once: %s%s", len(entries), shown(folder), store.path, why)
            with warnings.catch_warnings():
                # Pillow's are of odd metadata, which say nothing of the pixels, and of images that are large.
                warnings.simplefilter("ignore")
                store.save(_pictures(entries, fit, about.per_piece))
        return store


def _pictures(entries: tuple[Entry, ...], fit: Fit, most: int) -> Iterator[numpy.ndarray]:
    """Every image, C×S×S uint8, at most `most` at a time; Pillow lets the threads run side by side."""
    workers = os.cpu_count() or 1
    most = min(most, 16 * workers)
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(entries), most):
            yield from pool.map(lambda entry: decode(entry.path, fit), entries[first : first + most])


def _part(store: Store, first: int, entries: tuple[Entry, ...]) -> StoredImages:
    labels = torch.tensor([entry.label for entry in entries])
    return StoredImages(store, first, labels, torch.arange(len(labels)))
