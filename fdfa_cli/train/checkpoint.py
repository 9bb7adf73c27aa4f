"""Checkpoints: everything a training needs to go on, as plain tensors and scalars.

Written to a temporary file and renamed, so a run killed at any moment keeps its last whole checkpoint;
read with `weights_only=True`, so a checkpoint cannot run code.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdfa_cli.errors import RunDamaged
from fdfa_cli.lazy import torch
from fdfa_cli.runs import atomic_write

if TYPE_CHECKING:
    from fdfa_cli.train.session import Session

FORMAT = 3


def save(path: Path, session: Session) -> None:
    """Write `session` to `path` atomically."""
    buffer = io.BytesIO()
    torch.save(_compact({"format": FORMAT, **session.state_dict()}), buffer)
    atomic_write(path, buffer.getvalue())


def load(path: Path, session: Session) -> None:
    """Put what `path` holds into `session`.

    Raises `RunDamaged` where the file is unreadable or of another format.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise RunDamaged(f"{path}: not a checkpoint: {error}") from error
    if content.pop("format", None) != FORMAT:
        raise RunDamaged(f"{path}: a checkpoint of another format than {FORMAT}")
    session.load_state_dict(content)


def _compact(tree: Any) -> Any:
    """`tree` with every tensor alone in its memory: a row of a stack would be stored with the whole stack."""
    if isinstance(tree, dict):
        return {key: _compact(value) for key, value in tree.items()}
    if isinstance(tree, torch.Tensor) and tree.untyped_storage().nbytes() > tree.nbytes:
        return tree.clone()
    return tree
