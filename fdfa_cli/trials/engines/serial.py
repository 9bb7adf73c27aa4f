"""One job after the other, in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from fdfa_cli.errors import Interrupted
from fdfa_cli.signals import stopping
from fdfa_cli.trials.engines.base import Job, Outcome
from fdfa_cli.trials.engines.worker import train_job


class Serial:
    """See `Engine`."""

    workers = processes = 1

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome]:
        """See `Engine.run`."""
        for job in jobs:
            with stopping() as stop:
                outcome = train_job(job, stop, self.workers)
            yield outcome
            if stop():  # it came after the last step
                raise Interrupted("interrupted")
