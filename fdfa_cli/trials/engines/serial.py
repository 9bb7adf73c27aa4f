"""One job after the other, in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from typing_extensions import override

from fdfa_cli.errors import Interrupted
from fdfa_cli.trials.engines.base import Engine, Job, Outcome, Stop
from fdfa_cli.trials.engines.worker import train_job


class Serial(Engine):
    """Trains one job after the other in this process."""

    workers = processes = 1

    @override
    def run(self, jobs: Sequence[Job], stop: Stop) -> Generator[Outcome]:
        for job in jobs:
            yield train_job(job, stop, self.workers)
            if stop():  # it came after the last step of this job
                raise Interrupted("interrupted")
