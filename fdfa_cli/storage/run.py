"""One run folder: create it, append to it, replace in it atomically, read it, resume it."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from fdfa_cli.door import open_to_append, read_regular
from fdfa_cli.errors import DiskFull, Diverged, Interrupted, RunDamaged, UsageError, did_you_mean
from fdfa_cli.storage.fields import LARGEST, LONGEST_TEXT, MAX_METRICS, MAX_RECIPE, MAX_RECORD, check_row
from fdfa_cli.storage.files import (
    alone,
    append_whole,
    atomic_write,
    dump_json,
    finite,
    load_json,
    lock,
    locked,
    remove_drafts,
    room,
    shared,
    sync_folder,
)
from fdfa_cli.storage.provenance import anonymous, provenance
from fdfa_cli.storage.record import Record, Status, numeric, summarise

#: The name of a run's folder; the group is the start of its identity.
NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-.+-([0-9a-f]{8})(?:-[0-9]+)?")
#: The files without which a folder is not a whole run.
FILES = ("run.json", "recipe.yaml", "metrics.jsonl")


def utc_now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


class RunFolder:
    """One run folder, read by `open`, written by the one who got it from `create` or `resume`.

    A writer is a context manager: an exception that leaves it ends a run that is still running as
    diverged, interrupted or failed, with its message. Closing it releases the run to other processes.
    """

    __slots__ = ("_log", "path", "record")

    def __init__(self, path: Path, record: Record, log: BinaryIO | None = None) -> None:
        self.path, self.record, self._log = path, record, log

    @classmethod
    def create(
        cls,
        results: Path,
        recipe_yaml: str,
        facts: Mapping[str, Any],
        command: Sequence[str],
        environment: Mapping[str, Any] | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> Self:
        """A new run in a new folder of `results`, with status running.

        `facts`: data, network, rule, seed, identity (the hash of the resolved recipe) and any others;
        `command`: the command line; `environment`: device, threads. Runs that start in one second with
        one recipe get numbered names. Raises `UsageError` where `results` cannot be written to, and
        `DiskFull` where it has no room; then there is no folder.
        """
        now = clock().astimezone(UTC)
        created = f"{now:%Y-%m-%dT%H:%M:%SZ}"
        described = [provenance(command, environment or {})]
        record = Record("running", None, created, dict(facts), provenance=described)
        name = _name(now, facts)
        try:
            with room(results):
                results.mkdir(parents=True, exist_ok=True)
            with room(results), shared(results):  # until it has its name nobody takes it for abandoned
                path = _reserve(results, name)
                draft = results / f".{path.name}.new"
                with _all_or_nothing(path, draft) as opened:
                    draft.mkdir()
                    log = opened.enter_context(open_to_append(draft / "metrics.jsonl"))
                    lock(log)
                    atomic_write(draft / "recipe.yaml", recipe_yaml.encode())
                    atomic_write(draft / "run.json", record.dump())
                    draft.rename(path)  # the empty folder that `_reserve` made gives way
                    sync_folder(results)
        except OSError as error:
            raise UsageError(f"cannot create a run in {results}: {error.strerror}") from error
        return cls(path, record, log)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run at `path`, to read. A run whose writer is gone reads as interrupted.

        Raises `RunDamaged` naming the file and what is wrong with it, `UsageError` where no folder is.
        """
        if not is_folder(path):
            raise no_such_folder(path)
        try:
            names = {entry.name for entry in path.iterdir()}
        except OSError as error:
            raise RunDamaged(f"{path}: {error.strerror}") from error
        return cls.read(path, names)

    @classmethod
    def read(cls, path: Path, names: Collection[str]) -> Self:
        """As `open`, for a caller who has already listed the `names` in the folder."""
        if missing := [name for name in FILES if name not in names]:
            raise RunDamaged(f"{path}: {' and '.join(missing)} missing")
        try:
            run = cls(path, Record.parse(read_regular(path / "run.json", MAX_RECORD)))
            if run.status == "running":
                status: Status = "running" if locked(path / "metrics.jsonl") else "interrupted"
                summary = run.record.summary | summarise(run.metrics())
                run.record = replace(run.record, status=status, summary=summary)
        except ValueError as error:
            raise RunDamaged(f"{path / 'run.json'}: {error}") from error
        except OSError as error:
            raise RunDamaged(f"{error.filename or path}: {error.strerror}") from error
        return run

    @classmethod
    def resume(cls, path: Path, command: Sequence[str], environment: Mapping[str, Any] | None = None) -> Self:
        """The run at `path`, to write on; its status stays what it was until `update`.

        What a killed writer left half-written is removed. Raises as `open`, and `UsageError` while another
        process writes the run or where its folder is read-only.
        """
        cls.open(path)
        try:
            log = open_to_append(path / "metrics.jsonl")
            held = lock(log)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written to: {error.strerror}") from error
        if not held:
            log.close()
            raise UsageError(f"{path}: another process is writing this run; wait for it or stop it first")
        try:
            run = cls.open(path)  # again: whoever had it may have finished in between
            status: Status = "interrupted" if run.status == "running" else run.status  # the lock is ours
            entries = [*run.record.provenance, provenance(command, environment or {})]
            run.record, run._log = replace(run.record, status=status, provenance=entries), log
            log.truncate(sum(size for _, size in _lines(path)))
            remove_drafts(path)
        except BaseException as error:
            log.close()
            if isinstance(error, OSError):
                raise UsageError(f"{path}: cannot be written to: {error.strerror}") from error
            raise
        return run

    @property
    def name(self) -> str:
        """The folder's own name, however the path to it is spelled."""
        return os.path.basename(os.path.abspath(self.path))  # noqa: PTH100, PTH119 - resolve() follows links

    @property
    def status(self) -> Status:
        """The status that run.json gives, or "interrupted" where its writer is gone."""
        return self.record.status

    @property
    def checkpoint(self) -> Path:
        """The path of the checkpoint, whether it has been written or not."""
        return self.path / "checkpoint.pt"

    def recipe_text(self) -> str:
        """The resolved recipe as YAML; raises `RunDamaged` where it cannot be read."""
        file = self.path / "recipe.yaml"
        try:
            return read_regular(file, MAX_RECIPE).decode()
        except UnicodeDecodeError as error:
            raise RunDamaged(f"{file}: not UTF-8: {error}") from error
        except OSError as error:
            raise RunDamaged(f"{file}: {error.strerror}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """The row of each epoch; an incomplete last line is left out.

        Raises `RunDamaged` where any other line is not a row.
        """
        return list(iter_metrics(self.path))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add the `row` of an epoch (its key ``epoch``) at once; what is not finite is stored as null.

        Raises `ValueError` where the row is none that could be read back, and `DiskFull`, with nothing
        added, where there is no room.
        """
        row = finite(row, LARGEST)
        check_row(row, 0)
        append_whole(self.path / "metrics.jsonl", self._writable(), dump_json(row) + b"\n")

    def cut(self, epochs: int) -> None:
        """Keep only the rows of the first `epochs` epochs, those a checkpoint has seen; one truncation.

        Raises `RunDamaged` where rows up to there are missing: a resumed run would have a gap.
        """
        log = self._writable()
        kept = list(itertools.takewhile(lambda line: line[0]["epoch"] <= epochs, _lines(self.path)))
        reached = kept[-1][0]["epoch"] if kept else 0
        if reached != epochs:
            raise RunDamaged(
                f"{self.path / 'metrics.jsonl'}: ends at epoch {reached}, but the checkpoint is of {epochs}"
            )
        log.truncate(sum(size for _, size in kept))

    def update(self, status: Status | None = None, error: str | None = None, **summary: float | None) -> None:
        """Rewrite run.json: another `status` with its `error`, and `summary` over the numbers of the metrics.

        A `status` clears the error of the one before.
        """
        self._writable()
        if status is not None:
            # Lone surrogates (from a file name that is not UTF-8) could not be printed by any reader.
            error = error and anonymous(error[:LONGEST_TEXT]).encode("utf-8", "backslashreplace").decode()
            self.record = replace(self.record, status=status, error=error)
        numbers = self.record.summary | summarise(self.metrics()) | numeric(summary)
        self.record = replace(self.record, summary=numbers)
        atomic_write(self.path / "run.json", self.record.dump())

    def end(self, error: BaseException) -> None:
        """Store that `error` has ended the run, which is then diverged, interrupted or failed."""
        with suppress(DiskFull):  # a run without a writer reads as interrupted
            self.update(status_of(error), message_of(error))

    def close(self) -> None:
        """Release the run to other processes; it can still be read, but no longer written."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and self._log is not None and self.status == "running":
                self.end(error)
        finally:
            self.close()

    def _writable(self) -> BinaryIO:
        if self._log is None:
            raise ValueError(f"{self.path} is open for reading only")
        return self._log


def iter_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of the run in `folder`, as `RunFolder.metrics` gives them, one at a time."""
    return (row for row, _ in _lines(folder))


def _lines(folder: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Every complete row of metrics.jsonl, with its size in bytes."""
    file = folder / "metrics.jsonl"
    try:
        lines = read_regular(file, MAX_METRICS).splitlines(keepends=True)
    except OSError as error:
        raise RunDamaged(f"{file}: {error.strerror}") from error
    epoch = 0
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n") and number == len(lines):
            return  # torn: the process died inside the write
        try:
            row = load_json(line)
        except ValueError:
            raise RunDamaged(f"{file}:{number}: not a row of metrics") from None
        try:
            check_row(row, epoch)
        except ValueError as error:
            raise RunDamaged(f"{file}:{number}: not a row of metrics: {error}") from None
        epoch = row["epoch"]
        yield row, len(line)


def no_such_folder(path: Path) -> UsageError:
    """The error for a `path` that is not a folder, with the most similar name in its parent."""
    if os.path.exists(path):  # noqa: PTH110 - False also where the name is too long or may not be looked up
        return UsageError(f"{path}: not a folder")
    try:
        siblings = [sibling.name for sibling in path.parent.iterdir()]
    except OSError:
        siblings = []
    return UsageError(f"{path}: no such folder{did_you_mean(path.name, siblings)}")


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder; False also where its name is too long or it may not be looked up."""
    return os.path.isdir(path)  # noqa: PTH112


def _name(created: datetime, facts: Mapping[str, Any]) -> str:
    """The name of a run's folder: the time, what was trained, and the start of the recipe's hash."""
    parts = [facts["data"], facts["network"], facts["rule"], facts["identity"][:8]]
    return f"{created:%Y%m%dT%H%M%SZ}-" + re.sub(r"[^A-Za-z0-9_.+-]", "_", "-".join(parts))


@contextmanager
def _all_or_nothing(*folders: Path) -> Iterator[ExitStack]:
    """Removes `folders` where an exception ends it, and closes what was opened meanwhile."""
    with ExitStack() as opened:
        try:
            yield opened
        except BaseException:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        opened.pop_all()


def _reserve(results: Path, name: str) -> Path:
    """Make an empty folder in `results`, with a number after its name where another process has made it."""
    candidates = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    while True:
        path = results / next(candidates)
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path


def remove_abandoned(results: Path) -> None:
    """Remove the folders in `results` of creators that were killed before their run had its name.

    Nothing is removed while some process creates a run there, or where the file system cannot tell.
    """
    with suppress(OSError), alone(results) as nobody_else:  # there is no folder yet, or it is someone else's
        if not nobody_else:
            return
        with os.scandir(results) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in names:
            if name.startswith(".") and name.endswith(".new") and NAME.fullmatch(name[1:-4]):
                shutil.rmtree(results / name)
            elif NAME.fullmatch(name):
                with suppress(OSError):  # not empty, so a run
                    (results / name).rmdir()


def status_of(error: BaseException) -> Status:
    """The status of a run that was ended by `error`."""
    if isinstance(error, Diverged):
        return "diverged"
    stopped = Interrupted | KeyboardInterrupt | SystemExit | DiskFull  # none has to do with the training
    return "interrupted" if isinstance(error, stopped) else "failed"


def message_of(error: BaseException) -> str:
    """The message that run.json keeps of `error`."""
    return str(error) or type(error).__name__
