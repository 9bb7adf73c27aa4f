"""What a training needs, looked at before it starts and before its folder is made.

Batches, the number of classes, memory and the room for checkpoints: what could otherwise end it after hours,
or take the machine with it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fdfa_cli.data.base import Counts
from fdfa_cli.errors import DataNotFound, UsageError
from fdfa_cli.network.kernels import kernels
from fdfa_cli.recipe.resolve import check_batches
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.storage.run import is_folder
from fdfa_cli.training.device import chosen, free_memory
from fdfa_cli.training.footprint import IMPORT, Footprint, footprint, size

log = logging.getLogger(__name__)

#: Checkpoints of this many bytes are mentioned.
LARGE = 10**9
#: Bytes of an epoch in metrics.jsonl, and of the other files of a run together.
LINE, FILES = 1000, 100_000
#: Bytes that no machine can address.
IMPOSSIBLE = 2**63
#: The option that starts a training in spite of what is said here.
ANYWAY = "--ignore-limits"


class Need(NamedTuple):
    """A training and what it takes."""

    recipe: Recipe
    footprint: Footprint


def require(
    recipes: Sequence[Recipe], root: Path, results: Path, at_once: int = 1, ignore: bool = False
) -> None:
    """Look at what trainings of `recipes` need, and log what is odd.

    `at_once` of them run at a time, each in a process of its own; one alone runs in this process, which has
    torch. With `ignore`, memory and room that are too small are no reason to stop.
    Raises `UsageError` where a batch cannot be made, where memory or room are too small, and where the
    environment names kernels that there are not.
    """
    kernels()
    counts: dict[str, Counts | None] = {}
    found: dict[object, Footprint] = {}
    needs = []
    for recipe in recipes:
        data = recipe.data.model_dump_json()
        if data not in counts:
            counts[data] = recipe.data.counted(root)
            _mention_classes(recipe)
        key = data, _deciding(recipe)
        if key not in found:
            require_batches(recipe, counts[data])
            found[key] = footprint(recipe, counts[data])
        needs.append(Need(recipe, found[key]))
    require_memory(needs, at_once, ignore)
    _require_room(needs, results, at_once, ignore)


def _deciding(recipe: Recipe) -> object:
    """What its footprint depends on, beside the data: trials that differ in a rate have one in common."""
    return (
        recipe.network.model_dump_json(),
        recipe.rule.model_dump_json(),
        recipe.optimizer.slot_count,
        recipe.training.model_dump_json(include={"batch_size", "precision", "drop_last"}),
        recipe.diagnostics is None,
    )


def require_batches(recipe: Recipe, counts: Counts | None) -> None:
    """Raise `UsageError` where no step could be taken on files of so many samples."""
    if counts is None:
        return
    network = recipe.network.build(recipe.data.shape(), recipe.data.classes())
    check_batches(recipe.training, network, recipe.data.sizes(counts).train)


def require_possible(recipe: Recipe) -> None:
    """Raise `UsageError` where no machine could train `recipe`, as far as that is known without its data."""
    with suppress(DataNotFound):  # a folder of images says how many classes it has once it is there
        _require_possible(footprint(recipe))


def _require_possible(need: Footprint) -> None:
    if need.peak >= IMPOSSIBLE:
        raise UsageError(f"the training needs {size(need.peak)} of memory, which no machine can address")


def require_memory(needs: Sequence[Need], at_once: int = 1, ignore: bool = False) -> None:
    """Raise `UsageError` where the largest `at_once` of these trainings need more memory than is free."""
    by_device: dict[str, list[int]] = {}
    for recipe, need in needs:
        _require_possible(need)
        device = chosen(recipe.training)
        torch_itself = IMPORT if at_once > 1 else 0
        taken = need.peak + torch_itself if not device.startswith("cuda") else need.on_device
        by_device.setdefault(device, []).append(taken)
    for device, all_taken in by_device.items():
        together = sorted(all_taken, reverse=True)[:at_once]
        free = free_memory(device)
        if sum(together) <= free or ignore:
            continue
        what = "the training needs" if len(together) == 1 else f"{len(together)} trainings at a time need"
        fewer = "" if len(together) == 1 else "fewer --jobs, "
        raise UsageError(
            f"{what} about {size(sum(together))} of memory, and {size(free)} are free: take {fewer}a smaller "
            f"network, batch or image, or {ANYWAY} to start nevertheless"
        )


def _require_room(needs: Sequence[Need], results: Path, at_once: int, ignore: bool) -> None:
    """Raise `UsageError` where checkpoints do not fit into `results`; mention those that are large.

    Each training leaves one; while it is replaced there are two.
    """
    largest = max((need.checkpoint for _, need in needs), default=0)
    if largest >= LARGE:
        log.info("a checkpoint takes %s in %s", size(largest), results)
    longest = max((recipe.training.epochs for recipe, _ in needs), default=0)
    needed = min(at_once, len(needs)) * (2 * largest + longest * LINE + FILES)
    free = shutil.disk_usage(_nearest(results)).free
    if needed > free and not ignore:
        raise UsageError(
            f"{results}: checkpoints and metrics need about {size(needed)} there, and {size(free)} are free: "
            f"give another folder by --results, or {ANYWAY} to start nevertheless"
        )


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next((path for path in (folder, *folder.parents) if is_folder(path)), Path("/"))


def _mention_classes(recipe: Recipe) -> None:
    classes = recipe.data.classes()
    if classes < 2:
        log.warning(
            "%s has %s class: every answer is right, and an accuracy of 100 %% means nothing",
            recipe.data.name,
            classes,
        )
