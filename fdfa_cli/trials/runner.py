"""Training some trials by an engine, into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fdfa_cli.errors import DiskFull, FdfaError, Interrupted
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import identity
from fdfa_cli.trials.engines.base import Engine, Job
from fdfa_cli.trials.plan import Trial
from fdfa_cli.trials.store import Result, Store
from fdfa_cli.trials.view import View

#: The engine for some jobs.
Chooser = Callable[[Sequence[Job]], Engine]


@dataclass(frozen=True)
class Runner:
    """How trials are trained: into which store, by which engine, and whether the first failure ends it."""

    store: Store
    engine: Chooser
    fail_fast: bool = False
    quiet: bool = False

    def train(
        self,
        trials: Sequence[Trial],
        view: View,
        ended: Callable[[Trial, Result], str],
        until: int | None = None,
    ) -> None:
        """Bring every trial to its end, or to epoch `until`; what is there already is not trained again.

        `ended` is told of each and says in words how good it is.
        Raises `Interrupted`, `DiskFull`, and `FdfaError` at the first failure where that was asked for.
        """
        jobs = self.store.jobs(trials, until)
        if not jobs:
            return
        by_identity = {trial.identity: trial for trial in trials}
        engine = self.engine(jobs)
        view.stage(len(jobs), engine.workers, until)
        with closing(engine.run(jobs)) as outcomes, _hint():
            for outcome in outcomes:
                trial = by_identity[outcome.job.identity]
                result = self.store.note(outcome)
                if outcome.status == "interrupted" and outcome.error:
                    raise DiskFull(outcome.error)
                if outcome.status != "interrupted":
                    view.tally.counts[outcome.status] += 1
                view.outcome(trial, outcome, ended(trial, result))
                if self.fail_fast and outcome.status in ("failed", "diverged"):
                    raise FdfaError(f"--fail-fast: stopped at the first trial that {outcome.status}")


def folder_of(base: Recipe, stem: str, kind: str, results: Path) -> Path:
    """Where the trials of `base` go: the same folder however its space, seeds or rules are extended."""
    return results / f"{stem}-{kind}-{identity(base)[:8]}"


@contextmanager
def _hint() -> Iterator[None]:
    """Adds to an interruption what to do about it."""
    try:
        yield
    except Interrupted as error:
        raise Interrupted(f"{error}; what is done is stored: the same command goes on") from error
    except DiskFull as error:
        message = "what is done is stored: once there is room, the same command goes on"
        raise DiskFull(f"{error}; {message}") from error
