"""The recipes that come with the program: in `recipes/` of the repository, inside an installed package."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from fdfa_cli.errors import UnknownName, UsageError

#: A shipped recipe as people write it, with or without its folder and suffix.
_SPELLED = re.compile(r"((?:\./)?(?:recipes/)?)(.*?)(\.ya?ml)?", re.DOTALL)


def shipped() -> dict[str, Path]:
    """The shipped recipes by name (``mnist/mlp``), sorted."""
    installed = Path(__file__).parent / "shipped"
    root = installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"
    return {file.relative_to(root).with_suffix("").as_posix(): file for file in sorted(root.rglob("*.yaml"))}


def find(name: str) -> Path:
    """The recipe file that `name` means: an existing file, or else the shipped recipe of that name.

    ``mnist/mlp``, ``mnist/mlp.yaml`` and ``recipes/mnist/mlp.yaml`` all name the same shipped recipe.
    Raises `UnknownName` where there is neither, with the nearest one that exists.
    """
    file = Path(name)
    if _exists(file):
        return file
    recipes = shipped()
    spelled = _SPELLED.fullmatch(name)
    assert spelled is not None, "the pattern matches everything"
    before, short, after = spelled.groups("")
    if short in recipes:
        return recipes[short]
    siblings = [str(f) for f in file.parent.glob("*.y*ml")] if _exists(file.parent) else []
    near = difflib.get_close_matches(name, siblings, n=3)
    raise UnknownName("recipe", name, [*near, *(before + recipe + after for recipe in recipes)])


def summary(file: Path) -> str:
    """What a shipped recipe says about itself: its first line, a comment."""
    with file.open(encoding="utf-8") as stream:
        return stream.readline().lstrip("# ").rstrip()


def copy(name: str, destination: Path, *, force: bool = False) -> Path:
    """Copy the recipe `name` to `destination`, a file or a folder; returns the file written.

    Raises `UsageError` where the file exists already, unless `force`, or cannot be written.
    """
    source = find(name)
    content = source.read_bytes()
    target = destination / source.name if destination.is_dir() else destination
    try:
        with target.open("wb" if force else "xb") as stream:
            stream.write(content)
    except FileExistsError as error:
        raise UsageError(f"{target} exists: choose another name, or overwrite it with --force") from error
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error
    return target


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except (OSError, ValueError):  # a name too long, a folder that may not be entered, a zero byte
        return False
