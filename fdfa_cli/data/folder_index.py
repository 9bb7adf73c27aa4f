"""Which images a folder of class folders holds, and what class each is of."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fdfa_cli.data.files import is_file, is_folder, reading, shown
from fdfa_cli.door import read_regular
from fdfa_cli.errors import DataCorrupt, DataNotFound, UsageError

#: The extensions torchvision's ImageFolder reads.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
#: Tiny ImageNet's list of the classes of its validation images, and the most bytes that such a list may have.
ANNOTATIONS, LONGEST = "val_annotations.txt", 2**26

Labelled = tuple[os.DirEntry[str], int]


@dataclass(frozen=True, slots=True)
class Entry:
    """An image file and the number of its class."""

    path: str
    label: int


@dataclass(frozen=True)
class FolderIndex:
    """The images of a folder; `test` is empty where the folder has no test part.

    `fingerprint` changes with the name, size, time of change or class of any file.
    """

    train: tuple[Entry, ...]
    test: tuple[Entry, ...]
    fingerprint: str


def class_names(folder: Path) -> list[str]:
    """The classes of `folder`, in the order of their numbers.

    Raises `DataNotFound` where it has none, and `UsageError` where it has one only or may not be read.
    """
    training = _training_part(folder)
    names = _folders(training)
    if not names:
        raise DataNotFound(
            f"{shown(training)} has no folders: it must hold a folder of images for each class"
        )
    if len(names) == 1:
        raise UsageError(
            f"{shown(training)} has one class, {names[0]!r}, so there is nothing to tell apart: "
            "it must hold a folder of images for each class, and at least two"
        )
    return names


def first_image(folder: Path) -> str:
    """The path of the first training image; raises `DataNotFound` where there is none."""
    training = _training_part(folder)
    name = class_names(folder)[0]
    for image in _images(training / name):
        return image.path
    raise DataNotFound(_no_image(training / name))


def index_images(folder: Path) -> FolderIndex:
    """What `folder` holds, in one of the layouts that `image_folder.ImageFolder` describes.

    Raises `DataNotFound` where it has no class folders; `UsageError` where it has one only, or something in
    it may not be read; and `DataCorrupt` where a class has no image to train on, where the test part has a
    class that the training part has not, no image, or lacks a file it names, and for what `walk` refuses.
    """
    training = _training_part(folder)
    numbers = {name: number for number, name in enumerate(class_names(folder))}
    train = list(_in_class_folders(training, numbers))
    for number in sorted(set(numbers.values()) - {label for _, label in train}):
        raise DataCorrupt(_no_image(training / list(numbers)[number]))
    test = [] if training == folder else _test_part(folder, numbers)
    digest = hashlib.sha256()
    for file, label in (*train, *test):
        status = _status(file)
        name = file.path.removeprefix(str(folder))
        # A zero byte is in no file's name, so no name can look like the end of one.
        digest.update(os.fsencode(f"{name}\0{status.st_size}\t{status.st_mtime_ns}\t{label}\n"))
    return FolderIndex(_entries(train), _entries(test), digest.hexdigest())


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file below `folder`, by name, folder by folder; hidden ones are left out, links are followed.

    Raises `UsageError` for a folder that may not be read, and `DataCorrupt` for a link to nothing and for one
    to a folder that the walk has been in: it would not end there, or see the same files twice.
    """
    seen = {_identity(folder)}
    open_folders = [iter(_visible(folder))]  # not recursive: folders may be nested deeper than Python's calls
    while open_folders:
        for entry in open_folders[-1]:
            if not _is_folder(entry):
                yield entry
                continue
            if _identity(entry) in seen:
                raise DataCorrupt(f"{shown(entry.path)} is a link to a folder that is read already")
            seen.add(_identity(entry))
            open_folders.append(iter(_visible(entry)))
            break
        else:
            open_folders.pop()


def _training_part(folder: Path) -> Path:
    """``train/`` where it has folders in it (it may be the class of the trains), else `folder`."""
    train = folder / "train"
    return train if is_folder(train) and _folders(train) else folder


def _test_part(folder: Path, numbers: dict[str, int]) -> list[Labelled]:
    """The test images of a folder that has ``train/``: those in ``test/`` if labelled, else in ``val/``."""
    test, val = folder / "test", folder / "val"
    if is_folder(test) and numbers.keys() & set(_folders(test)):
        found = list(_in_class_folders(test, numbers))
    elif is_file(val / ANNOTATIONS):
        test, found = val / ANNOTATIONS, list(_annotated(val, numbers))
    elif is_folder(val):
        test, found = val, list(_in_class_folders(val, numbers))
    else:
        return []
    if not found:
        raise DataCorrupt(f"{shown(test)} gives no image to test on; without it, train/ would give data.test")
    return found


def _in_class_folders(folder: Path, numbers: dict[str, int]) -> Iterator[Labelled]:
    """Every image below the class folders of `folder`, and its class."""
    for name in _folders(folder):
        if name not in numbers:
            raise DataCorrupt(f"{shown(folder / name)}: the training part has no class of this name")
        for file in _images(folder / name):
            yield file, numbers[name]


def _annotated(folder: Path, numbers: dict[str, int]) -> Iterator[Labelled]:
    """The images of Tiny ImageNet's ``val/`` and their classes; a line holds file, class and box, tabbed."""
    annotations = folder / ANNOTATIONS
    files = {file.name: file for file in _images(folder / "images")}
    for line, content in enumerate(_text(annotations).splitlines(), 1):
        name, _, rest = content.partition("\t")
        label = rest.partition("\t")[0]
        if name not in files:
            raise DataCorrupt(f"{shown(annotations)}:{line}: there is no {shown(folder / 'images' / name)}")
        if label not in numbers:
            raise DataCorrupt(f"{shown(annotations)}:{line}: the training part has no class {label!r}")
        yield files[name], numbers[label]


def _text(path: Path) -> str:
    try:
        with reading(path):
            return read_regular(path, LONGEST).decode()
    except UnicodeDecodeError as error:
        raise DataCorrupt(f"{shown(path)} is not text in UTF-8: {error}") from error


def _no_image(folder: Path) -> str:
    return f"{shown(folder)} holds no image (a file that ends in {', '.join(EXTENSIONS)})"


def _entries(images: list[Labelled]) -> tuple[Entry, ...]:
    return tuple(Entry(file.path, label) for file, label in images)


def _images(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The images among what `walk` gives, by their names alone."""
    return (entry for entry in walk(folder) if entry.name.lower().endswith(EXTENSIONS))


def _folders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, hidden ones left out."""
    return [entry.name for entry in _visible(folder) if _is_folder(entry)]


def _visible(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """What is in `folder`, by name, hidden entries left out."""
    with reading(folder), os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return stat.S_ISDIR(_status(entry).st_mode)
    with reading(entry.path):
        return entry.is_dir()  # which the folder itself says, of most


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    """The status of what `entry` is or links to; raises `DataCorrupt` where that is nothing."""
    try:
        with reading(entry.path):
            return entry.stat()
    except DataCorrupt as error:
        if entry.is_symlink():
            raise DataCorrupt(f"{shown(entry.path)} is a link to nothing that can be read") from error
        raise


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    """What tells a folder from all others, however it is reached."""
    with reading(folder):
        status = os.stat(folder)  # noqa: PTH116 - of an entry as of a path
    return status.st_dev, status.st_ino
