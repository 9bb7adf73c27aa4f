"""Checkpoints: everything a training needs to go on, as plain tensors and scalars.

Written to a temporary file and renamed, so a run killed at any moment keeps its last whole checkpoint;
read with `weights_only=True`, so a checkpoint cannot run code. A checkpoint is a ZIP archive whose parts have
checksums, which torch writes and does not look at; here they are verified, and then every entry is compared
with what the training has there: nothing is taken over from a file of which any part does not fit.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fdfa_cli.door import open_regular
from fdfa_cli.errors import RunDamaged
from fdfa_cli.lazy import torch
from fdfa_cli.storage import atomic_write
from fdfa_cli.storage.fields import LARGEST, MOST_EPOCHS, check_probes, is_finite, shown
from fdfa_cli.storage.files import finite

if TYPE_CHECKING:
    from fdfa_cli.training.state import TrainState

FORMAT = 3
#: Bytes that a checkpoint may have beside its tensors: their names, and an epoch's diagnostics.
BESIDE = 64 * 2**20


def save(path: Path, state: TrainState) -> None:
    """Write `state` to `path` atomically."""
    buffer = io.BytesIO()
    torch.save(_compact({"format": FORMAT, **state.state_dict()}), buffer)
    atomic_write(path, buffer.getvalue())


def load(path: Path, state: TrainState) -> None:
    """Put what `path` holds into `state`.

    Raises `RunDamaged` where the file is unreadable, of another format, or of another training; `state` is
    then as before.
    """
    with _damage_named(path):
        content = _verified(path, state)
        if content["position"] > state.steps:
            raise ValueError(f"position cannot be {content['position']} of {state.steps} steps")
        for stream in content["streams"].values():
            torch.Generator(state.device).set_state(stream)
    state.load_state_dict(content)


def load_weights(path: Path, state: TrainState) -> None:
    """Put the parameters and running statistics that `path` holds into `state`, which will not train on.

    How many samples there were to train on need not be known for that. Raises as `load` does.
    """
    with _damage_named(path):
        content = _verified(path, state)
    for mine, stored in ((state.params, content["params"]), (state.buffers, content["buffers"])):
        for name, value in stored.items():
            mine[name].copy_(value)


def _verified(path: Path, state: TrainState) -> dict[str, Any]:
    """What `path` holds, every entry of the type and shape that it has in `state`."""
    mine = state.state_dict()
    with open_regular(path, _bytes(mine) + BESIDE) as file:
        content = _read(file)
    _check(content, mine)
    return content


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Raises `RunDamaged`, with file and reason, in the place of what is wrong with `path`."""
    try:
        yield
    except OSError as error:
        raise RunDamaged(f"{path}: {error.strerror or error}") from error
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise RunDamaged(f"{path}: damaged: {reason}; if you remove it, the run starts again") from error


def _read(file: BinaryIO) -> dict[str, Any]:
    """What `save` wrote to the file; raises `ValueError` where the file is not what it was."""
    try:
        with zipfile.ZipFile(file) as archive:
            # Not compressed, so no part is larger than the file.
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("not a checkpoint")
            if (part := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {shown(part)} is wrong")
        file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except ValueError:
        raise
    except pickle.UnpicklingError as error:  # whose message advises to load it all the same
        raise ValueError("not a checkpoint: it holds other things than plain tensors and numbers") from error
    except Exception as error:
        raise ValueError(f"not a checkpoint: {str(error) or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ValueError("not a checkpoint")
    if content.pop("format", None) != FORMAT:
        raise ValueError(f"of another format than {FORMAT}")
    return content


def _check(content: dict[str, Any], mine: dict[str, Any]) -> None:
    """Raise `ValueError` where `content` has not the entries, types and shapes of the state `mine`."""
    for where, stored, own in _pairs(content, mine, ""):
        if isinstance(own, torch.Tensor):
            _check_tensor(stored, own, where)
        elif isinstance(own, list):
            check_probes(finite(stored, LARGEST))
        elif isinstance(own, float):
            if not is_finite(stored) or stored < 0:
                raise ValueError(f"{where} cannot be {shown(stored)}")
        elif type(stored) is not int or not 0 <= stored < MOST_EPOCHS:
            raise ValueError(f"{where} cannot be {shown(stored)}")


def _pairs(stored: Any, own: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Every entry that is no mapping, beside the own one, with its dotted name."""
    if not isinstance(own, dict):
        yield where, stored, own
        return
    if not isinstance(stored, dict) or stored.keys() != own.keys():
        raise ValueError(f"the entries of {where or 'the checkpoint'} are not those of this training")
    for key, value in own.items():
        yield from _pairs(stored[key], value, f"{where}.{key}" if where else str(key))


def _check_tensor(stored: Any, own: torch.Tensor, where: str) -> None:
    if not isinstance(stored, torch.Tensor) or stored.layout is not torch.strided:
        raise ValueError(f"{where} is no tensor")
    if stored.dtype != own.dtype or stored.shape != own.shape or stored.device.type != "cpu":
        raise ValueError(
            f"{where} is {_kind(stored)}, not {_kind(own)}: of another training, or another kind of device"
        )


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _bytes(tree: Any) -> int:
    """The bytes of all tensors in a tree."""
    if isinstance(tree, dict):
        return sum(map(_bytes, tree.values()))
    return tree.nbytes if isinstance(tree, torch.Tensor) else 0


def _compact(tree: Any) -> Any:
    """`tree` with every tensor alone in its memory: a row of a stack would be stored with the whole stack."""
    if isinstance(tree, dict):
        return {key: _compact(value) for key, value in tree.items()}
    if isinstance(tree, torch.Tensor) and tree.untyped_storage().nbytes() > tree.nbytes:
        return tree.clone()
    return tree
