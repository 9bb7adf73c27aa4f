"""The recipes that come with the program: in `recipes/` of the repository, inside an installed package."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fdfa_cli.document.load import MAX_BYTES
from fdfa_cli.door import read_regular
from fdfa_cli.errors import UnknownName, UsageError, did_you_mean
from fdfa_cli.storage.files import atomic_write, room

#: A shipped recipe as people write it, with or without its folder and suffix.
_SPELLED = re.compile(r"((?:\./)?(?:recipes/)?)(.*?)(\.ya?ml)?", re.DOTALL)


def shipped_recipes() -> dict[str, Path]:
    """The shipped recipes by name (``mnist/mlp``), sorted."""
    installed = Path(__file__).parent / "shipped"
    root = installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"
    return {file.relative_to(root).with_suffix("").as_posix(): file for file in sorted(root.rglob("*.yaml"))}


def split(items: Sequence[str]) -> tuple[list[str], list[str]]:
    """The recipes among `items`, and the overrides: whatever holds a `=` and is no file."""

    def override(item: str) -> bool:
        return "=" in item and (not _exists(Path(item)) or Path(item).is_dir())

    return [item for item in items if not override(item)], [item for item in items if override(item)]


def find(name: str) -> Path:
    """The recipe file that `name` means: an existing file, or else the shipped recipe of that name.

    ``mnist/mlp``, ``mnist/mlp.yaml`` and ``recipes/mnist/mlp.yaml`` all name the same shipped recipe.
    Raises `UnknownName` where there is neither, with the nearest one that exists.
    """
    file = Path(name)
    if _exists(file):
        return file
    recipes = shipped_recipes()
    spelled = _SPELLED.fullmatch(name)
    assert spelled is not None, "the pattern matches everything"
    before, short, after = spelled.groups("")
    if short in recipes:
        return recipes[short]
    if _exists(file, denied=True):
        return file  # whoever opens it says that it may not be read
    if near := _siblings(file):
        raise UsageError(f"there is no file {name}{did_you_mean(name, near)}")
    meant = difflib.get_close_matches(short, recipes, n=1)
    if (before or after) and not meant:
        raise UsageError(f"there is no file {name}, and no recipe of that name (see `fdfa recipe list`)")
    raise UnknownName("recipe", name, [before + recipe + after for recipe in recipes])


def summary(file: Path) -> str:
    """What a shipped recipe says about itself: its first line, a comment."""
    with file.open(encoding="utf-8") as stream:
        return stream.readline().lstrip("# ").rstrip()


def copy(name: str, destination: Path, *, force: bool = False) -> Path:
    """Copy the recipe `name` to `destination`, a file or a folder; returns the file written.

    Readers see the whole file or the one before it. Raises `UsageError` where the file exists already, unless
    `force`, or cannot be written, and where the recipe cannot be read; `DiskFull` where there is no room for
    it, with nothing written.
    """
    source = find(name)
    try:
        content = read_regular(source, MAX_BYTES)
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from error
    target = destination
    try:
        if destination.is_dir():
            target = destination / source.name
        if target.exists() and not target.is_file():
            raise UsageError(f"{target} is not a file, so it cannot be overwritten")
        with _reserved(target, force):
            atomic_write(target, content)
    except FileExistsError as error:
        raise UsageError(f"{target} exists: choose another name, or overwrite it with --force") from error
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error
    return target


@contextmanager
def _reserved(target: Path, force: bool) -> Iterator[None]:
    """Holds the name `target` by an empty file, removed on failure; unless `force`, nobody may have it."""
    new = not force or not target.exists()
    if new:
        with room(target):
            target.open("xb").close()
    try:
        yield
    except BaseException:
        if new:
            target.unlink()
        raise


def _siblings(file: Path) -> list[str]:
    """The recipe files in the folder of `file` whose names are like its own."""
    try:
        names = [f.name for f in file.parent.iterdir() if f.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):  # there is no such folder, or it may not be entered
        return []
    stems = [Path(name).stem for name in names]
    near = difflib.get_close_matches(file.stem, stems)
    return [str(file.parent / name) for stem in near for name in names if Path(name).stem == stem]


def _exists(file: Path, denied: bool = False) -> bool:
    """Whether there is such a file; `denied` where its folder may not be entered."""
    try:
        file.lstat()
    except PermissionError:
        return denied
    except (OSError, ValueError):  # none of that name, a name too long, a zero byte
        return False
    return True
