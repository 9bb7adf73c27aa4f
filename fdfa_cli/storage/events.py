"""A stored run as TensorBoard reads it: ``DIR/RUN/events.out.tfevents.…``.

The same run always gives the same bytes: an event's wall time is when the run was created plus what its
epochs took, and no host's name is in a file's name, as it would be from TensorBoard's own writer. What a run
has gained since the last export is appended, so that a TensorBoard that is open shows it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from fdfa_cli.door import open_to_append, read_regular
from fdfa_cli.errors import UsageError
from fdfa_cli.storage.fields import MAX_METRICS
from fdfa_cli.storage.files import append_whole, atomic_write, foreign_folder, room
from fdfa_cli.storage.run import RunFolder

#: What run.json says of the end and the rows of epochs do not.
_AT_END = ("test_loss", "test_accuracy", "best_val_accuracy", "median_epoch_seconds", "peak_memory_bytes")
_SUBSETS = ("train", "val", "test", "best_val", "eval")


class Scalar(NamedTuple):
    """A number under its `tag`, at an epoch (or, of diagnostics, a step) and seconds after the run began."""

    tag: str
    step: int
    seconds: float
    value: float


def export(run: RunFolder, folder: Path) -> None:
    """Bring the events in ``folder/RUN`` up to date with the stored `run`.

    Raises `UsageError` where the folder cannot be written to, `DiskFull` where it has no room, `RunDamaged`
    where the metrics cannot be read.
    """
    content = _encode(run)
    created = int(datetime.fromisoformat(run.record.created).timestamp())
    file = folder / run.name / f"events.out.tfevents.{created}.fdfa"
    try:
        with room(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        before = read_regular(file, MAX_METRICS) if file.exists() else None
        if before is None or not content.startswith(before):  # resumed from before its last epochs
            atomic_write(file, content)
        elif len(content) > len(before):
            with open_to_append(file) as stream:
                append_whole(file, stream, content[len(before) :])
    except OSError as error:
        raise UsageError(f"cannot write to {error.filename or folder}: {error.strerror}") from error


def scalars(run: RunFolder) -> Iterator[Scalar]:
    """Every number that is stored of `run`, in the order of time; NaN for one that was not finite.

    ``val_loss`` is ``loss/val``, so that TensorBoard puts the subsets side by side. Diagnostics are
    ``diagnostics/NAME/block_1``.
    """
    seconds = 0.0
    epoch = 0
    for row in run.metrics():
        epoch = row["epoch"]
        seconds += sum(row.get(name) or 0.0 for name in ("train_seconds", "eval_seconds"))
        for name, value in row.items():
            if name != "epoch" and (value is None or isinstance(value, int | float)):
                yield Scalar(_tag(name), epoch, seconds, _number(value))
        for probe in row.get("diagnostics", ()):
            for block in probe["blocks"]:
                for name, value in block.items():
                    if name != "block" and isinstance(value, int | float):
                        tag = f"diagnostics/{name}/block_{block['block']}"
                        yield Scalar(tag, probe["step"], seconds, value)
    for name in _AT_END:
        if name in run.record.summary:
            yield Scalar(_tag(name), epoch, seconds, _number(run.record.summary[name]))


def prepare(folder: Path) -> None:
    """Make `folder` before the training starts, so that a mistake shows at once.

    Raises `UsageError` where it cannot be made, and where the package tensorboard is missing, with the extra.
    """
    try:
        import tensorboard  # noqa: F401

        foreign_folder(folder)
    except ImportError as error:
        raise UsageError(
            "--tensorboard needs the package tensorboard: pip install 'fdfa-cli[tensorboard]'"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error


def _encode(run: RunFolder) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    began = datetime.fromisoformat(run.record.created).timestamp()
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=began, file_version="brain.Event:2").SerializeToString())
    for tag, step, seconds, value in scalars(run):
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        event = Event(wall_time=began + seconds, step=step, summary=summary)
        writer.write(event.SerializeToString(deterministic=True))
    return buffer.getvalue()


def _tag(name: str) -> str:
    subset = next((subset for subset in _SUBSETS if name.startswith(f"{subset}_")), None)
    return name if subset is None else f"{name.removeprefix(f'{subset}_')}/{subset}"


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
