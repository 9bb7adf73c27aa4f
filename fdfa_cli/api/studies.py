"""Sweeps and comparisons from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from fdfa_cli.api.recipes import Source, document
from fdfa_cli.api.stored import Run, Runs
from fdfa_cli.comparisons import run as comparisons
from fdfa_cli.comparisons.plan import plan_comparison
from fdfa_cli.comparisons.result import ComparisonResult
from fdfa_cli.document.load import Place
from fdfa_cli.recipe.overrides import change, check_read
from fdfa_cli.sweeps import run as sweeps
from fdfa_cli.sweeps.plan import plan_sweep
from fdfa_cli.sweeps.result import SweepResult
from fdfa_cli.trials.engine_name import EngineName
from fdfa_cli.trials.engines.options import EngineOptions
from fdfa_cli.trials.progress import for_terminal
from fdfa_cli.trials.runner import Execution, never
from fdfa_cli.trials.store import TrialResult

Engine = Literal["auto", "serial", "processes", "batched", "ray"]


class Sweep:
    """A sweep with what is stored of it; `result` has every figure."""

    def __init__(self, result: SweepResult) -> None:
        self.result = result

    @property
    def path(self) -> Path:
        """The folder of the sweep."""
        return self.result.folder

    @property
    def runs(self) -> Runs:
        """The runs of its trials, configuration by configuration, the best first."""
        return _runs(found for ranked in self.result.ranking for found in ranked.results)

    @property
    def best(self) -> dict[str, Any] | None:
        """The values of the winner, by dotted key; None where no configuration was completed."""
        winner = self.result.winner
        return None if winner is None else dict(winner.configuration.overrides)


class Comparison:
    """A comparison of rules with what is stored of it; `result` has every figure."""

    def __init__(self, result: ComparisonResult) -> None:
        self.result = result

    @property
    def path(self) -> Path:
        """The folder of the comparison."""
        return self.result.folder

    @property
    def runs(self) -> Runs:
        """The runs of all rules, rule by rule."""
        return _runs(found for rule in self.result.rules for found in rule.results)

    @property
    def figures(self) -> dict[str, dict[str, float | int | None]]:
        """Mean, interval, difference to the baseline, Holm-adjusted p and costs, by rule."""
        return {found.rule: found.figures(self.result.metric) for found in self.result.rules}


def sweep(
    recipe: Source,
    /,
    *,
    name: str | None = None,
    results: str | PathLike[str] = "results",
    engine: Engine = "auto",
    jobs: int | None = None,
    progress: bool = True,
    fail_fast: bool = False,
    retry_failed: bool = False,
    ignore_limits: bool = False,
    stop: Callable[[], bool] = never,
    **overrides: Any,
) -> Sweep:
    """Train every trial of the section ``sweep`` of `recipe` (see `load`) that is not stored yet.

    The folder of the sweep in `results` is called by `name`, by default that of the recipe's file. `jobs`
    trials train at a time, by default as many as fit the machine. `fail_fast` raises `FdfaError` at the first
    trial that fails; else a failed trial is stored as such, and goes on with `retry_failed`.
    Raises `UsageError` and its kinds before anything is trained, and `Interrupted` after a `stop`.
    """
    given = document(recipe, overrides)
    check_read(given, "sweep")
    plan = plan_sweep(given, name or _name(recipe))
    how = _execution(engine, jobs, progress, fail_fast, retry_failed, ignore_limits, stop)
    return Sweep(sweeps.run(plan, Path(results), how))


def compare(
    recipe: Source,
    /,
    rules: Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    *,
    baseline: str | None = None,
    budget: int | None = None,
    target: float | None = None,
    name: str | None = None,
    results: str | PathLike[str] = "results",
    engine: Engine = "auto",
    jobs: int | None = None,
    progress: bool = True,
    fail_fast: bool = False,
    retry_failed: bool = False,
    ignore_limits: bool = False,
    stop: Callable[[], bool] = never,
    **overrides: Any,
) -> Comparison:
    """Train `recipe` (see `load`) under several rules with the same seeds, and compare them.

    `rules`, `seeds` and `baseline` lie over the recipe's section ``compare``. With a `budget`, every rule is
    tuned by as many trainings first. `target` is the validation accuracy to which epochs are counted. The
    rest is as for `sweep`, but the engine ``auto`` is serial: times are compared only of runs that train one
    after the other.
    """
    given = document(recipe, overrides)
    for key, value in {"rules": rules, "seeds": seeds, "baseline": baseline}.items():
        if value is not None:
            plain = value if isinstance(value, int | str) else list(value)
            given = change(given, ("compare", key), plain, Place(f"argument {key}"))
    check_read(given, "compare")
    plan = plan_comparison(given, name or _name(recipe))
    how = _execution(engine, jobs, progress, fail_fast, retry_failed, ignore_limits, stop)
    return Comparison(comparisons.run(plan, Path(results), how, target, budget))


def _execution(
    engine: Engine,
    jobs: int | None,
    progress: bool,
    fail_fast: bool,
    retry_failed: bool,
    ignore_limits: bool,
    stop: Callable[[], bool],
) -> Execution:
    options = EngineOptions(EngineName(engine), jobs, ignore_limits=ignore_limits)
    shown = for_terminal(quiet=not progress)
    return Execution(options, shown, stop, fail_fast, retry_failed, ("fdfa",))


def _runs(results: Iterable[TrialResult | None]) -> Runs:
    """The runs of some trials, of which not all may have one."""
    return Runs(Run(found.path) for found in results if found is not None and found.path is not None)


def _name(recipe: Source) -> str:
    """The name of a recipe's file, without its ending."""
    return Path(recipe).stem if isinstance(recipe, str | PathLike) else "recipe"
