"""Training trials by an engine, into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fdfa_cli.errors import DiskFull, FdfaError, Interrupted
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import identity
from fdfa_cli.trials.engines.base import Engine, Job, Stop
from fdfa_cli.trials.engines.options import EngineOptions
from fdfa_cli.trials.plan import Trial
from fdfa_cli.trials.progress import Progress, Silent, Tally
from fdfa_cli.trials.store import Store, TrialResult, open_store


def never() -> bool:
    """A `Stop` that lets everything train to its end."""
    return False


@dataclass(frozen=True)
class Execution:
    """How the trials of a sweep or a comparison are trained, whatever they are.

    `progress` is told how they get on, and `stop` is asked after every step whether to checkpoint and end.
    With `fail_fast` the first trial that fails or diverges ends it all, and with `retry_failed` trials that
    failed earlier go on, once. Runs are said to come from the command line `command`.
    """

    engine: EngineOptions = field(default_factory=EngineOptions)
    progress: Progress = field(default_factory=Silent)
    stop: Stop = never
    fail_fast: bool = False
    retry_failed: bool = False
    command: tuple[str, ...] = ()

    @contextmanager
    def runner(self, folder: Path) -> Iterator[Runner]:
        """A runner into the store at `folder`, which no other process may write to meanwhile.

        Raises what `open_store` does.
        """
        with open_store(folder, self.retry_failed, self.command) as store:
            yield Runner(store, self.engine.engine_for, self.progress, self.stop, self.fail_fast)


@dataclass(frozen=True)
class Runner:
    """Trains trials into `store` by the engine that `engine_for` gives for some jobs; see `Execution`."""

    store: Store
    engine_for: Callable[[Sequence[Job]], Engine]
    progress: Progress = field(default_factory=Silent)
    stop: Stop = never
    fail_fast: bool = False

    def train(
        self,
        trials: Sequence[Trial],
        tally: Tally,
        name: Callable[[Trial], str],
        figures: Callable[[Trial, TrialResult], str],
        until: int | None = None,
    ) -> None:
        """Bring every trial to its end, or to epoch `until`; what is there already is not trained again.

        Each trial that ends is counted in `tally` and told to `progress`, by its `name` and with `figures`
        that say how good it is. Raises `Interrupted`, `DiskFull`, and `FdfaError` at the first failure
        where that was asked for.
        """
        jobs = self.store.jobs(trials, until)
        if not jobs:
            return
        engine = self.engine_for(jobs)
        self.progress.begin(len(jobs), engine.workers, until)
        with closing(engine.run(jobs, self.stop)) as outcomes, _advice():
            for outcome in outcomes:
                trial, result = outcome.job.trial, self.store.note(outcome)
                if outcome.status == "interrupted" and outcome.error:
                    raise DiskFull(outcome.error)
                if outcome.status != "interrupted":
                    tally.counts[outcome.status] += 1
                self.progress.ended(name(trial), outcome, figures(trial, result))
                if self.fail_fast and outcome.status in ("failed", "diverged"):
                    raise FdfaError(f"--fail-fast: stopped at the first trial that {outcome.status}")


def folder_of(base: Recipe, stem: str, kind: str, results: Path) -> Path:
    """The folder for trials of `base`: the same one however its space, seeds or rules are extended."""
    return results / f"{stem}-{kind}-{identity(base)[:8]}"


@contextmanager
def _advice() -> Iterator[None]:
    """Adds to the error of an interruption how to go on."""
    try:
        yield
    except Interrupted as error:
        message = "what is done is stored: start the same command again to go on"
        raise Interrupted(f"{error}; {message}") from error
    except DiskFull as error:
        message = "what is done is stored: once there is room, start the same command again to go on"
        raise DiskFull(f"{error}; {message}") from error
