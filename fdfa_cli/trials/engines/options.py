"""Which engine trains some jobs: what a person asks for, and what fits the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fdfa_cli import machine
from fdfa_cli.errors import UsageError
from fdfa_cli.registry import Options
from fdfa_cli.trials.engine_name import EngineName
from fdfa_cli.trials.engines.base import Engine, Job


@dataclass(frozen=True)
class EngineOptions:
    """Which engine shall train: by `name`, `workers` jobs at a time (by default as many as fit the machine).

    `plugins` are loaded by whoever trains; `address` is that of a cluster. With `exact`, a trial must come to
    the same digits as alone, so no engine may stack trials. With `ignore_limits`, memory and disk that seem
    too small are no reason to stop; those of a cluster are never looked at.
    Raises `UsageError` where the engine knows no address, or does nothing but stack.
    """

    name: EngineName = EngineName.auto
    workers: int | None = None
    plugins: Sequence[Path] = ()
    address: str | None = None
    exact: bool = False
    ignore_limits: bool = False

    def __post_init__(self) -> None:
        if self.address is not None and self.name is not EngineName.ray:
            raise UsageError(f"--address is for --engine ray, and this is --engine {self.name}")
        if self.exact and self.name is EngineName.batched:
            raise UsageError(
                "--engine batched rounds otherwise than a training alone, and this search goes by every "
                "digit of its results: take auto, serial, processes or ray"
            )

    def engine_for(self, jobs: Sequence[Job]) -> Engine:
        """The engine that trains `jobs`; raises `UsageError` where what one of them needs is not there."""
        own = next((found for job in jobs if (found := _defined_here(job.recipe))), None)
        if own is not None and self.name in (EngineName.processes, EngineName.ray):
            raise UsageError(
                f"--engine {self.name} trains in other processes, which do not know {own}, since the running "
                "program defines it: put it into a file, and give that as a plugin"
            )
        if self.name is EngineName.ray:
            from fdfa_cli.trials.engines.ray import Ray

            return Ray(jobs, self.workers, self.plugins, self.address, self.exact)
        from fdfa_cli.data import data_root
        from fdfa_cli.training import preflight
        from fdfa_cli.trials.engines import worker

        worker.require(jobs)
        engine = choose(self.name, jobs, self.workers, self.plugins, self.exact, alone=own is not None)
        recipes, folder = [job.recipe for job in jobs], jobs[0].folder
        preflight.require(recipes, data_root(), folder, engine.processes, ignore=self.ignore_limits)
        return engine


def choose(
    name: EngineName,
    jobs: Sequence[Job],
    workers: int | None,
    plugins: Sequence[Path],
    exact: bool = False,
    alone: bool = False,
) -> Engine:
    """The engine of this machine called `name`, for `jobs` of which `workers` train at a time.

    `auto` is batched where that pays (`batched.pays`) and need not be `exact`, else processes where more than
    one job can train at a time, else serial. For batched, `workers` is the most that a stack may hold. With
    `alone`, only this process can train the jobs.
    """
    from fdfa_cli.trials.engines import batched
    from fdfa_cli.trials.engines.processes import Processes
    from fdfa_cli.trials.engines.serial import Serial

    if name is EngineName.serial:
        return Serial()
    gpus, cores = (0, 1) if alone else (_gpus(jobs), _cores(jobs))
    auto = name is EngineName.auto and workers != 1 and not exact
    if name is EngineName.batched or (auto and batched.pays(jobs, bool(gpus))):
        return batched.Batched(jobs, gpus or cores, gpus, plugins, workers)
    workers = workers or min(len(jobs), gpus or cores) or 1
    if name is EngineName.auto and (workers == 1 or alone):
        return Serial()
    return Processes(workers, gpus, plugins)


def _defined_here(options: Options) -> str | None:
    """The name of a class of `options` that the running program defines; None where there is none."""
    if type(options).__module__ == "__main__":
        return type(options).__name__
    inner = (_defined_here(value) for _, value in options if isinstance(value, Options))
    return next(filter(None, inner), None)


def _gpus(jobs: Sequence[Job]) -> int:
    """How many GPUs the jobs can be spread over: those of the machine, where all leave the choice open."""
    devices = {job.recipe.training.device for job in jobs}
    if not devices <= {"auto", "cuda"}:
        return 0
    from fdfa_cli.training.device import gpus

    return gpus()


def _cores(jobs: Sequence[Job]) -> int:
    """How many jobs the cores of this process can train at a time; one where all train on the same GPU."""
    from fdfa_cli.training.device import metal

    devices = {job.recipe.training.device for job in jobs}
    if any(device.startswith(("cuda", "mps")) for device in devices) or ("auto" in devices and metal()):
        return 1
    threads = max((job.recipe.training.threads or 1 for job in jobs), default=1)
    return max(1, machine.cores() // threads)
