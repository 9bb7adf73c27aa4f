"""Decoded images kept on disk: an uncompressed zip of pieces, so that memory holds only what is asked for.

A piece is read whole, and zip's checksum vouches for it. `About` says what the file was made of; a file that
says anything else, or has not exactly the pieces that follow from it, is never used.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from fdfa_cli.data.base import Subset
from fdfa_cli.data.files import reading, shown, staging, unreadable, writing
from fdfa_cli.door import open_regular
from fdfa_cli.errors import DataCorrupt, FdfaError
from fdfa_cli.lazy import numpy, torch

#: The folder of decoded images under the data root, the member that holds `About`, and the bytes of a piece.
FOLDER, ABOUT, PIECE = "image_folder", "about.json", 2**24
#: What reading a damaged zip file raises, the system's errors aside.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError)


@dataclass(frozen=True)
class About:
    """What a file of decoded images was made of: the images of `folder`, as `fingerprint` knows them.

    `count` images of `channels` × `side` × `side` pixels; `size` is the option they were stored by.
    """

    folder: str
    fingerprint: str
    size: int | None
    channels: int
    side: int
    count: int
    format: int = 2

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape C×S×S of an image."""
        return self.channels, self.side, self.side

    @property
    def image_bytes(self) -> int:
        """The bytes of one image."""
        return self.channels * self.side**2

    @property
    def per_piece(self) -> int:
        """Images in a piece; the last one may hold fewer."""
        return max(1, PIECE // self.image_bytes)

    @cached_property
    def text(self) -> bytes:
        """These fields as JSON, as the member `ABOUT` holds them."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @cached_property
    def members(self) -> list[tuple[str, int]]:
        """Name and bytes of every member of the file, in order."""
        sizes = [min(self.per_piece, self.count - first) for first in range(0, self.count, self.per_piece)]
        return [*((str(i), size * self.image_bytes) for i, size in enumerate(sizes)), (ABOUT, len(self.text))]


@dataclass(frozen=True)
class Store:
    """The file `path` of the decoded images that `about` describes."""

    path: Path
    about: About

    def trouble(self) -> str | None:
        """Why the file cannot be used, None where it can; "missing" where there is none.

        Raises `UsageError` where it may not be read.
        """
        try:
            with self._archive():
                return None
        except FileNotFoundError:
            return "missing"
        except PermissionError as error:
            raise unreadable(self.path, error) from error
        except OSError as error:
            return error.strerror or str(error)
        except (DataCorrupt, *DAMAGED) as error:
            return str(error) or type(error).__name__

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """The images at the positions `rows` (n), n×C×S×S uint8; memory holds them and one piece.

        Raises `DataCorrupt` where the file is damaged.
        """
        images = numpy.empty((len(rows), *self.about.shape), dtype=numpy.uint8)
        at, per_piece = rows.numpy(), self.about.per_piece
        with reading(self.path), self._checked(), self._archive() as archive:
            for number in numpy.unique(at // per_piece):
                piece = numpy.frombuffer(archive.read(str(number)), dtype=numpy.uint8)
                here = numpy.flatnonzero(at // per_piece == number)
                images[here] = piece.reshape(-1, *self.about.shape)[at[here] - number * per_piece]
        return torch.from_numpy(images)

    def save(self, images: Iterable[numpy.ndarray]) -> None:
        """Write the file, whole or not at all, and remove what it supersedes.

        `images` are C×S×S uint8 each, in order; memory holds a piece of them. Raises `UsageError` where
        the data root cannot be written.
        """
        with staging(self.path.parent, ".decoded-") as folder, writing(self.path):
            draft = folder / "images"
            with zipfile.ZipFile(draft, "w") as archive:
                for number, piece in enumerate(self._pieces(images)):
                    with archive.open(zipfile.ZipInfo(str(number)), "w") as member:
                        member.write(piece.data.cast("B"))
                archive.writestr(zipfile.ZipInfo(ABOUT), self.about.text)
            draft.replace(self.path)
        _remove_superseded(self)

    def _pieces(self, images: Iterable[numpy.ndarray]) -> Iterator[numpy.ndarray]:
        """`images` piece by piece, each in the same memory as the one before."""
        memory = numpy.empty((min(self.about.per_piece, self.about.count), *self.about.shape), numpy.uint8)
        filled = 0
        for image in images:
            memory[filled] = image
            filled += 1
            if filled == len(memory):
                yield memory
                filled = 0
        if filled:
            yield memory[:filled]

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except DAMAGED as error:
            raise DataCorrupt(
                f"{shown(self.path)} is damaged ({error}); delete it, it is made again from the images"
            ) from error

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        """The open file, which is `about`'s: raises `DataCorrupt`, OSError or one of `DAMAGED` otherwise."""
        with open_regular(self.path) as file, zipfile.ZipFile(file) as archive:
            found = archive.infolist()
            stored = all(info.compress_type == zipfile.ZIP_STORED for info in found)
            same = [(info.filename, info.file_size) for info in found] == self.about.members
            if not (stored and same and archive.read(ABOUT) == self.about.text):
                raise DataCorrupt("it holds other images")
            yield archive


@dataclass(frozen=True)
class StoredImages:
    """One part of a `Store`, as a `Samples`: read only when some of it is taken.

    Its samples begin at the position `first` of the store; `labels` n int64, `index` the position of each in
    its part.
    """

    store: Store
    first: int
    labels: torch.Tensor
    index: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: torch.Tensor) -> Subset:
        """The samples at the positions `rows`."""
        index = self.index[rows]
        return Subset(self.store.take(self.first + index), self.labels[rows], index)

    def only(self, rows: torch.Tensor) -> StoredImages:
        """The samples at the positions `rows`, none of them read yet."""
        return replace(self, labels=self.labels[rows], index=self.index[rows])


@dataclass(frozen=True)
class Kept:
    """A file of decoded images: its bytes, and the folder that it was made of (None: it does not say)."""

    path: Path
    bytes: int
    folder: str | None


def kept(root: Path) -> list[Kept]:
    """Every file of decoded images under `root`, by name; reads neither images nor torch.

    Raises `UsageError` where their folder may not be read.
    """
    with reading(root / FOLDER):
        try:
            found = sorted(path for path in (root / FOLDER).iterdir() if not path.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [Kept(p, p.lstat().st_size, _said(p).get("folder")) for p in found if p.is_file()]


def _said(path: Path) -> dict[str, str]:
    """What the file at `path` says of the folder it was made of and its fingerprint; empty if nothing."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            if archive.getinfo(ABOUT).file_size > 2**16:
                return {}
            said = json.loads(archive.read(ABOUT))
    except (OSError, FdfaError, *DAMAGED):  # of an earlier version, damaged or not ours
        return {}
    fields = said.items() if isinstance(said, dict) else ()
    return {key: value for key, value in fields if isinstance(value, str)}


def _remove_superseded(store: Store) -> None:
    """Remove what is kept of the same folder as it was before, and by earlier versions of this program."""
    place = store.path.stem.rpartition("-")[-1]
    for other in kept(store.path.parent.parent):
        said, now = _said(other.path), store.about
        stale = said.get("folder") == now.folder and said.get("fingerprint") != now.fingerprint
        if stale or other.path.name.endswith(f"-{place}.pt"):
            with suppress(OSError):  # another process was faster, or it is another user's
                other.path.unlink()
