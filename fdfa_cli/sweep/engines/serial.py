"""One job after the other, in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from fdfa_cli.sweep.engines import Job, Outcome
from fdfa_cli.sweep.engines.work import work
from fdfa_cli.train.launch import stopping


class Serial:
    """See `Engine`."""

    workers = 1

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome]:
        """See `Engine.run`."""
        for job in jobs:
            with stopping() as stop:
                outcome = work(job, stop, self.workers)
            yield outcome
