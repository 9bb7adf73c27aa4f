"""What the training of many trials shows while it runs: one bar on a terminal, else a line a trial.

Whoever asks for the training hands in a `Progress`, and `Silent` shows nothing. All others write to stderr.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from typing_extensions import override

from fdfa_cli.output import shows_bars
from fdfa_cli.printable import counted, printable
from fdfa_cli.storage import STATUSES
from fdfa_cli.trials.engines.base import Outcome

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import rich.progress


@dataclass
class Tally:
    """How many trials have ended, by status, and the best mean of any configuration so far.

    `title` says which trials these are, where several such tallies follow one another.
    """

    total: int
    counts: Counter[str] = field(default_factory=Counter)
    best: tuple[float, str] | None = None
    title: str = ""
    _scores: dict[str, list[float]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """The number of trials that have ended."""
        return self.counts.total()

    def score(self, label: str, value: float) -> None:
        """Take in one more seed of the configuration `label`; a larger `value` is better."""
        values = self._scores.setdefault(label, [])
        values.append(value)
        mean = sum(values) / len(values)
        if self.best is None or mean > self.best[0]:
            self.best = mean, label
        elif label == self.best[1]:  # the leader has fallen back, so another one may lead now
            self.best = max((sum(v) / len(v), name) for name, v in self._scores.items())


class Progress(Protocol):
    """Is told how the trials of a sweep or a comparison get on."""

    def showing(self, tally: Tally) -> AbstractContextManager[object]:
        """Shows `tally`, which changes meanwhile, as long as the context is entered."""

    def begin(self, jobs: int, workers: int, until: int | None) -> None:
        """Training of `jobs` begins, `workers` at a time, up to epoch `until` or to their end."""

    def ended(self, name: str, outcome: Outcome, figures: str) -> None:
        """The job of the trial called `name` has ended; `figures` says in words how good it is."""


class Silent(Progress):
    """Shows nothing at all."""

    @override
    @contextmanager
    def showing(self, tally: Tally) -> Iterator[None]:
        yield

    @override
    def begin(self, jobs: int, workers: int, until: int | None) -> None:
        pass

    @override
    def ended(self, name: str, outcome: Outcome, figures: str) -> None:
        pass


class Failures(Silent):
    """A line for every trial that fails or diverges."""

    _tally: Tally

    @override
    @contextmanager
    def showing(self, tally: Tally) -> Iterator[None]:
        self._tally = tally
        yield

    @override
    def ended(self, name: str, outcome: Outcome, figures: str) -> None:
        if outcome.status in ("failed", "diverged"):
            self._print(describe_end(self._tally, name, outcome, figures))

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Lines(Failures):
    """A line when training begins, and one for every trial that ends."""

    @override
    def begin(self, jobs: int, workers: int, until: int | None) -> None:
        self._print(describe_begin(self._tally, jobs, workers, until))

    @override
    def ended(self, name: str, outcome: Outcome, figures: str) -> None:
        self._print(describe_end(self._tally, name, outcome, figures))


class Bar(Failures):
    """A live bar over all trials with the best configuration so far; above it a line for every failure."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar = progress.Progress(
            progress.BarColumn(bar_width=None),  # what the figures leave of the line
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
            expand=True,
        )
        self._left = self._workers = self._ended = 0

    @override
    @contextmanager
    def showing(self, tally: Tally) -> Iterator[None]:
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        self._tally, self._begun = tally, time.monotonic()
        task = self._bar.add_task("", figures="")

        def shown() -> Group:
            self._update(task)
            return Group(self._bar, Text(printable(describe_best(tally)), overflow="fold"))

        with Live(get_renderable=shown, console=self._console, transient=True):
            yield
        self._bar.remove_task(task)

    @override
    def begin(self, jobs: int, workers: int, until: int | None) -> None:
        self._left, self._workers = jobs, workers

    @override
    def ended(self, name: str, outcome: Outcome, figures: str) -> None:
        self._left -= 1
        self._ended += outcome.status != "interrupted"
        super().ended(name, outcome, figures)

    @override
    def _print(self, line: str) -> None:
        self._console.print(line, style="red", markup=False, highlight=False)

    def _update(self, task: rich.progress.TaskID) -> None:
        done, total = self._tally.done, self._tally.total
        eta = time_left(time.monotonic() - self._begun, self._ended, total - done)
        figures = f"{describe(self._tally, min(self._left, self._workers))}  {eta}"
        self._bar.update(task, total=total, completed=done, figures=figures)


def for_terminal(quiet: bool) -> Progress:
    """The progress of a command: only failures where it is `quiet`, a bar on a terminal, else lines."""
    if quiet:
        return Failures()
    return Bar() if shows_bars() else Lines()


def describe_begin(tally: Tally, jobs: int, workers: int, until: int | None) -> str:
    """The line that says what is about to train."""
    title = f"{tally.title}: " if tally.title else ""
    some = f"{jobs} of " if jobs < tally.total else ""
    done = f" ({tally.done} {'has' if tally.done == 1 else 'have'} ended)" if tally.done else ""
    target = f" up to epoch {until}" if until else ""
    together = f", {min(jobs, workers)} at a time" if min(jobs, workers) > 1 else ""
    return printable(f"{title}training {some}{counted(tally.total, 'trial')}{done}{target}{together}")


def describe_end(tally: Tally, name: str, outcome: Outcome, figures: str) -> str:
    """The line that says how a trial ended, with its `figures` and the reason where it went wrong."""
    paused = outcome.status == "interrupted" and outcome.job.until
    status = f"paused after epoch {outcome.job.until}" if paused else outcome.status
    parts = [f"[{tally.done}/{tally.total}] {name}", status, *([figures] if figures else [])]
    return printable("  ".join(parts) + (f": {outcome.error}" if outcome.error else ""))


def describe(tally: Tally, running: int) -> str:
    """The tally in words, for the line of the bar."""
    parts = [f"{running} running"]
    parts += [f"{tally.counts[s]} {s}" for s in STATUSES if tally.counts[s] and s != "completed"]
    return "  ".join(parts)


def time_left(seconds: float, ended: int, to_do: int) -> str:
    """How long `to_do` trials will take, where `ended` took `seconds`; unknown before the first."""
    return f"{timedelta(seconds=round(seconds / ended * to_do))} left" if ended else "-:--:-- left"


def describe_best(tally: Tally) -> str:
    """The leader in words, for the line below the bar."""
    return f"best {abs(tally.best[0]):.4f}  {tally.best[1]}" if tally.best else ""


def label(overrides: Mapping[str, Any]) -> str:
    """The values of a configuration in one line."""
    return " ".join(f"{key}={value}" for key, value in overrides.items())
