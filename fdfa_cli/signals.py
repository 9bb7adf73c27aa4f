"""Handlers of Ctrl-C, SIGTERM and SIGHUP: the signals end a command at once, and a training after its step.

Only programs install them, by `interrupting` and `stopping`.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fdfa_cli.errors import Interrupted

#: What asks a command to stop. SIGHUP comes when its terminal or connection goes.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds after a signal in which another one is taken for the same: `timeout` and batch systems signal a
#: process and then its group, a sweep's driver its workers, and a terminal that goes all of its processes.
ECHO = 1.0


class Stop:
    """Tells a training, which asks after every step, whether it shall stop.

    Until it has asked for the first time, or is told to `defer`, there is nothing to store: a signal then
    raises `Interrupted` at once. Later the first signal is noted, and another one is not waited for.
    """

    def __init__(self) -> None:
        self._deferred = self._received = False

    def __call__(self) -> bool:
        """Whether a signal came."""
        self._deferred = True
        return self._received

    def defer(self) -> None:
        """From now on, note the first signal instead of raising `Interrupted`."""
        self._deferred = True

    def receive(self, number: int, frame: Any) -> None:
        """Handle signal `number`: raise `Interrupted`, or note it for the training to ask."""
        if _is_echo():
            return
        if not self._deferred:
            raise Interrupted("interrupted")
        if self._received:
            raise Interrupted("interrupted twice: stopped without a checkpoint of this moment")
        self._received = True


@contextmanager
def interrupting() -> Iterator[None]:
    """Turn signals inside into `Interrupted`, raised at whatever line is being executed."""

    def receive(number: int, frame: Any) -> None:
        if not _is_echo():
            raise Interrupted("interrupted")

    with _handled(receive, STOPS):
        yield


@contextmanager
def stopping(numbers: Sequence[int] = STOPS) -> Iterator[Stop]:
    """Turn the first of the signals inside into a stop after the current step, as `Stop` describes."""
    stop = Stop()
    with _handled(stop.receive, numbers):
        yield stop


def ignore() -> None:
    """Ignore all of these signals from now on."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _handled(receive: Callable[[int, Any], None], numbers: Sequence[int]) -> Iterator[None]:
    """Have `receive` handle the signals inside; SIGHUP stays ignored where it is ignored, as under nohup."""
    heard = [n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    previous = {number: signal.signal(number, receive) for number in heard}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Heard:
    """The time of the last signal that was not an echo, whichever handler got it."""

    at = -math.inf


def _is_echo() -> bool:
    now = time.monotonic()
    if 0 <= now - _Heard.at <= ECHO:
        return True
    _Heard.at = now
    return False
