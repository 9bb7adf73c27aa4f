"""Meters of the seconds and the bytes that each phase of a step takes."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

from fdfa_cli import machine
from fdfa_cli.diagnostics.recorder import Phase
from fdfa_cli.internals import recording_mode
from fdfa_cli.lazy import torch


class Stopwatch:
    """Wall seconds by phase; a GPU's queue is emptied wherever a phase ends."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[Phase, float] = defaultdict(float)
        self._phase: Phase | None = None
        self._device = device
        self._since = machine.now(device)

    def enter(self, phase: Phase | None) -> Phase | None:
        """Begin `phase` (None: none that is measured); returns the phase before it."""
        now = machine.now(self._device)
        if self._phase is not None:
            self.seconds[self._phase] += now - self._since
        before, self._phase, self._since = self._phase, phase, now
        return before


class MemoryMeter:
    """Peak bytes, by phase, of the tensors that operations have made and that are still alive."""

    def __init__(self) -> None:
        self.peaks: defaultdict[Phase, int] = defaultdict(int)
        self._phase: Phase | None = None
        self._holders: dict[int, int] = {}
        self._live = 0

    def enter(self, phase: Phase | None) -> Phase | None:
        """Begin `phase` (None: none that is measured); returns the phase before it."""
        before, self._phase = self._phase, phase
        self._see()
        return before

    @contextmanager
    def tracking(self) -> Iterator[bool]:
        """Track the tensors made inside; yields False where this torch cannot show them (see `internals`)."""
        mode = _dispatch_mode()
        with nullcontext() if mode is None else mode(self):
            yield mode is not None

    def made(self, tensor: torch.Tensor) -> None:
        """Count the storage of `tensor` until the last tensor that uses it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        self._holders[key] = self._holders.get(key, 0) + 1
        if self._holders[key] == 1:
            self._live += size
            self._see()
        weakref.finalize(tensor, self._released, key, size)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether the storage of `tensor` was made here."""
        return tensor.untyped_storage().data_ptr() in self._holders

    def _released(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self._live -= size

    def _see(self) -> None:
        if self._phase is not None:
            self.peaks[self._phase] = max(self.peaks[self._phase], self._live)


@cache
def _dispatch_mode() -> Any:
    """The class of the dispatch mode that shows every operation of torch to a `MemoryMeter`."""
    base: Any = recording_mode()
    if base is None:
        return None

    class Tracking(base):  # type: ignore[misc]  # torch does not type it
        def __init__(self, meter: MemoryMeter) -> None:
            super().__init__()
            self.meter = meter

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = {
                t.untyped_storage().data_ptr() for t in _tensors((args, kwargs)) if not self.meter.holds(t)
            }
            result = func(*args, **(kwargs or {}))
            for t in _tensors(result):
                if t.untyped_storage().data_ptr() not in given:  # no view of what was there before
                    self.meter.made(t)
            return result

    return Tracking


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    """Every tensor in mappings, tuples and lists of any depth."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from _tensors(value)
