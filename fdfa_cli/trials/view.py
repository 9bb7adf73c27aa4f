"""What many trainings show while they run, always on stderr: one bar on a terminal, else a line a trial."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fdfa_cli.printable import printable
from fdfa_cli.storage import STATUSES
from fdfa_cli.trials.engines.base import Outcome
from fdfa_cli.trials.plan import Trial

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass
class Tally:
    """How far it is: trials at their end by status, and the best mean of any configuration so far."""

    total: int
    counts: Counter[str] = field(default_factory=Counter)
    best: tuple[float, str] | None = None
    _scores: dict[str, list[float]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Trials that are at their end."""
        return self.counts.total()

    def score(self, label: str, value: float) -> None:
        """Take in one more seed of the configuration `label`; of `value`, more is better."""
        values = self._scores.setdefault(label, [])
        values.append(value)
        mean = sum(values) / len(values)
        if self.best is None or mean > self.best[0]:
            self.best = mean, label
        elif label == self.best[1]:  # the leader has fallen back: look at all
            self.best = max((sum(v) / len(v), name) for name, v in self._scores.items())


class View:
    """Shows a `Tally` move. `label` names a trial; `quiet` leaves only what went wrong."""

    def __init__(self, tally: Tally, label: Callable[[Trial], str], quiet: bool = False) -> None:
        self.tally, self._label, self._quiet = tally, label, quiet
        self._bar: Progress | None = None
        self._left = self._workers = self._ended = 0
        self._begun = time.monotonic()

    def live(self) -> AbstractContextManager[object]:
        """Shows the bar and the best so far, where there is a terminal, as long as it is entered."""
        if self._quiet or not sys.stderr.isatty():
            return nullcontext()
        from rich import progress
        from rich.console import Console, Group
        from rich.live import Live
        from rich.text import Text

        console = Console(stderr=True)
        self._bar = progress.Progress(
            progress.BarColumn(bar_width=None),  # what the figures leave of the line
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("", figures="")
        bar = self._bar

        def shown() -> Group:
            self._update(bar)
            return Group(bar, Text(printable(best(self.tally)), overflow="fold"))

        return Live(get_renderable=shown, console=console, transient=True)

    def stage(self, jobs: int, workers: int, until: int | None) -> None:
        """Training of `jobs` begins, `workers` at a time, up to the epoch `until` or the end."""
        self._left, self._workers = jobs, workers
        if not self._quiet and self._bar is None:
            target = f" up to epoch {until}" if until else ""
            done = f"{self.tally.done} of {self.tally.total} trials done already; " if self.tally.done else ""
            trials = "1 trial" if jobs == 1 else f"{jobs} trials"
            print(f"{done}training {trials}{target}, {workers} at a time", file=sys.stderr, flush=True)

    def outcome(self, trial: Trial, outcome: Outcome, figures: str) -> None:
        """The job of `trial` is over; `figures` is its metric in words."""
        self._left -= 1
        self._ended += outcome.status != "interrupted"
        wrong = outcome.status in ("failed", "diverged")
        if wrong or not self._quiet:
            place = f"[{self.tally.done}/{self.tally.total}]"
            reason = f": {outcome.error}" if outcome.error else ""
            text = f"{place} {self._label(trial)}  {_word(outcome)}{figures and '  ' + figures}{reason}"
            self._say(printable(text), wrong)

    def _say(self, text: str, wrong: bool) -> None:
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        elif wrong:  # above the bar; what went well is in its counts
            self._bar.console.print(text, style="red", markup=False, highlight=False)

    def _update(self, bar: Progress) -> None:
        """Set the bar to where it is now."""
        done, total = self.tally.done, self.tally.total
        eta = time_left(time.monotonic() - self._begun, self._ended, total - done)
        figures = f"{describe(self.tally, min(self._left, self._workers))}  {eta}"
        bar.update(self._task, total=total, completed=done, figures=figures)


def describe(tally: Tally, running: int) -> str:
    """The tally in words, for the line of the bar."""
    parts = [f"{running} running"]
    parts += [f"{tally.counts[s]} {s}" for s in STATUSES if tally.counts[s] and s != "completed"]
    return "  ".join(parts)


def time_left(seconds: float, ended: int, to_do: int) -> str:
    """How long `to_do` trials will take, where `ended` took `seconds`; unknown before the first."""
    return f"{timedelta(seconds=round(seconds / ended * to_do))} left" if ended else "-:--:-- left"


def best(tally: Tally) -> str:
    """The leader in words, for the line below the bar."""
    return f"best {abs(tally.best[0]):.4f}  {tally.best[1]}" if tally.best else ""


def label(overrides: Mapping[str, Any]) -> str:
    """A configuration in a line."""
    return " ".join(f"{key}={value}" for key, value in overrides.items())


def _word(outcome: Outcome) -> str:
    if outcome.status == "interrupted" and outcome.job.until:
        return f"at epoch {outcome.job.until}"
    return outcome.status
