"""Trials that train together: stacked over a trial axis, one stack in each process.

Trials that share network, data and structure (`fdfa_cli.training.grouping`) are a group. A group is cut into
as many stacks as there are processes, one for each core or GPU, so that all of them work; a stack is cut
further where memory does not suffice. A stack computes on as many threads as its recipes say, by default one.

This table says when stacks pay: the time of a trial's step in a stack over that of its step alone (rule fdfa,
CPU clock of one thread of a 2-core machine, medians).

    64-128-128-10, batch 32     stacks of 4: 0.50   8: 0.33   16: 0.26   32: 0.21   64: 0.21
    64-h-h-10, stacks of 8      h = 256: 0.43       512: 0.64            1024: 0.66
    CNN of mnist/cnn            stacks of 4: 1.87

A sweep of 8 rates × 4 seeds over 30 epochs took 6.8 s in two stacks (2.3 s of it to start and to end), 16.4 s
in two processes, and 30.8 s one after the other (medians of 3).

The time of a small step goes mostly into calls, which the trials of a stack share. That of a large step goes
into arithmetic, which they do not share, and its operands no longer fit the caches. Stacked convolutions
become grouped ones, for which a CPU has no fast kernel. On a GPU small steps are nothing but calls.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

from typing_extensions import override

from fdfa_cli.errors import Interrupted
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.training.device import chosen, free_memory
from fdfa_cli.training.footprint import bytes_of
from fdfa_cli.training.grouping import groups
from fdfa_cli.trials.engines.base import Engine, Job, Outcome, Stop
from fdfa_cli.trials.engines.processes import Processes
from fdfa_cli.trials.engines.worker import train_stack

#: The most trials in a stack: a larger one makes no step cheaper, and every trial keeps a file open.
LARGEST = 64
#: The fewest trials in a stack, even where some processes then have nothing to do.
SMALLEST = 8
#: The part of the free memory that stacks may take.
SHARE = 0.6
#: The number of parameters up to which stacks of networks without convolutions pay on a CPU.
SMALL = 300_000


def pays(jobs: Sequence[Job], gpu: bool) -> bool:
    """Whether stacks are likely to be quicker than processes of one trial each."""
    groups_ = groups(job.recipe for job in jobs)
    if len(groups_) * 2 > len(jobs):
        return False
    return gpu or all(_small(jobs[group[0]].recipe) for group in groups_)


def _small(recipe: Recipe) -> bool:
    draws = recipe.network.build(recipe.data.shape(), recipe.data.classes()).parameters().values()
    count = sum(math.prod(draw.shape) for draw in draws)
    return count <= SMALL and all(len(draw.shape) < 3 for draw in draws)


def cut(jobs: Sequence[Job], processes: int, highest: Callable[[Job], int]) -> list[list[Job]]:
    """Stacks of `jobs` for so many processes, the largest first.

    `highest` gives the most jobs that may be stacked, for a job like them.
    """
    share = max(SMALLEST, math.ceil(len(jobs) / processes))
    stacks = []
    for group in groups(job.recipe for job in jobs):
        height = min(share, highest(jobs[group[0]]))
        count = math.ceil(len(group) / height)
        cuts = [len(group) * i // count for i in range(count + 1)]
        stacks += [[jobs[i] for i in group[a:b]] for a, b in itertools.pairwise(cuts)]
    return sorted(stacks, key=len, reverse=True)


class Batched(Engine):
    """Trains stacks of jobs, one stack in each of so many `processes`.

    A stack holds at most `largest` jobs. With `gpus`, process i sees GPU i and no other.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        processes: int,
        gpus: int = 0,
        plugins: Sequence[Path] = (),
        largest: int | None = None,
    ) -> None:
        self.processes, self._gpus, self._plugins = processes, gpus, plugins
        self._largest = min(largest or LARGEST, LARGEST)
        sizes = sorted(map(len, self.stacks(jobs)), reverse=True)
        self.workers = sum(sizes[:processes])

    def stacks(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """The jobs as they train together, one list for each stack, the largest first."""
        return cut(jobs, self.processes, lambda job: min(self._largest, self._fitting(job)))

    @override
    def run(self, jobs: Sequence[Job], stop: Stop) -> Generator[Outcome]:
        stacks = self.stacks(jobs)
        processes = min(self.processes, len(stacks))
        if processes > 1:
            workers = Processes(processes, self._gpus, self._plugins)
            yield from workers.run_stacks(stacks, self.workers, stop)
            return
        for stack in stacks:
            with closing(train_stack(stack, stop, self.workers)) as outcomes:
                yield from outcomes
            if stop():  # it came after the last step of this stack
                raise Interrupted("interrupted")

    def _fitting(self, job: Job) -> int:
        """The number of trainings like `job` that fit into the memory of each process; at least one."""
        sharing = 1 if self._gpus else max(self.processes, 1)
        free = SHARE * free_memory(chosen(job.recipe.training)) / sharing
        return max(1, int(free / bytes_of(job.recipe)))
