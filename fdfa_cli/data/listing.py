"""Which images a folder of class folders holds, and what class each is of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fdfa_cli.errors import DataCorrupt, DataNotFound

#: The extensions torchvision's ImageFolder reads.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
#: Tiny ImageNet's list of the classes of its validation images.
ANNOTATIONS = "val_annotations.txt"

Labelled = tuple[os.DirEntry[str], int]


@dataclass(frozen=True, slots=True)
class Entry:
    """An image file and the number of its class."""

    path: str
    label: int


@dataclass(frozen=True)
class Listing:
    """The images of a folder; `test` is empty where the folder has no test part.

    `fingerprint` changes with the name, size, time of change or class of any file.
    """

    train: tuple[Entry, ...]
    test: tuple[Entry, ...]
    fingerprint: str


def class_names(folder: Path) -> list[str]:
    """The classes of `folder`, in the order of their numbers; raises `DataNotFound` where it has none."""
    training = _training_part(folder)
    names = _folders(training)
    if not names:
        raise DataNotFound(f"{training} has no folders: it must hold a folder of images for each class")
    return names


def list_images(folder: Path) -> Listing:
    """What `folder` holds, in one of the layouts that `image_folder.ImageFolder` describes.

    Raises `DataNotFound` where it has no class folders, and `DataCorrupt` where a class has no image to
    train on, or the test part has a class that the training part has not, or lacks a file it names.
    """
    training = _training_part(folder)
    numbers = {name: number for number, name in enumerate(class_names(folder))}
    train = list(_in_class_folders(training, numbers))
    for number in sorted(set(numbers.values()) - {label for _, label in train}):
        raise DataCorrupt(
            f"{training / list(numbers)[number]} holds no image (a file that ends in {', '.join(EXTENSIONS)})"
        )
    test = [] if training == folder else list(_test_part(folder, numbers))
    digest = hashlib.sha256()
    for file, label in (*train, *test):
        stat = file.stat()
        name = file.path.removeprefix(str(folder))
        digest.update(
            f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}\t{label}\n".encode(errors="surrogateescape")
        )
    return Listing(_entries(train), _entries(test), digest.hexdigest())


def _training_part(folder: Path) -> Path:
    """``train/`` where it has folders in it (it may be the class of the trains), else `folder`."""
    train = folder / "train"
    return train if train.is_dir() and _folders(train) else folder


def _test_part(folder: Path, numbers: dict[str, int]) -> Iterator[Labelled]:
    """The test images of a folder that has ``train/``: those in ``test/`` if labelled, else in ``val/``."""
    test, val = folder / "test", folder / "val"
    if test.is_dir() and numbers.keys() & set(_folders(test)):
        return _in_class_folders(test, numbers)
    if (val / ANNOTATIONS).is_file():
        return _annotated(val, numbers)
    return _in_class_folders(val, numbers) if val.is_dir() else iter(())


def _in_class_folders(folder: Path, numbers: dict[str, int]) -> Iterator[Labelled]:
    """Every image below the class folders of `folder`, and its class."""
    for name in _folders(folder):
        if name not in numbers:
            raise DataCorrupt(f"{folder / name}: the training part has no class of this name")
        for file in _files(folder / name):
            yield file, numbers[name]


def _annotated(folder: Path, numbers: dict[str, int]) -> Iterator[Labelled]:
    """The images of Tiny ImageNet's ``val/`` and their classes; a line holds file, class and box, tabbed."""
    annotations = folder / ANNOTATIONS
    files = {file.name: file for file in _files(folder / "images")}
    for line, content in enumerate(annotations.read_text(encoding="utf-8").splitlines(), 1):
        name, _, rest = content.partition("\t")
        label = rest.partition("\t")[0]
        if name not in files:
            raise DataCorrupt(f"{annotations}:{line}: there is no {folder / 'images' / name}")
        if label not in numbers:
            raise DataCorrupt(f"{annotations}:{line}: the training part has no class {label!r}")
        yield files[name], numbers[label]


def _entries(images: list[Labelled]) -> tuple[Entry, ...]:
    return tuple(Entry(file.path, label) for file, label in images)


def _folders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, hidden ones left out."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _files(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Every image below `folder`, by name, hidden ones left out."""
    with os.scandir(folder) as entries:
        found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in found:
        if entry.is_dir():
            yield from _files(entry.path)
        elif entry.name.lower().endswith(EXTENSIONS):
            yield entry
