"""The training loop, top to bottom: one training, or several at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from fdfa_cli import machine
from fdfa_cli.data.base import Splits, Subset
from fdfa_cli.errors import Interrupted
from fdfa_cli.lazy import torch
from fdfa_cli.recipe.resolve import check_batches
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.storage import Run
from fdfa_cli.training import total
from fdfa_cli.training.course import Course, Pace
from fdfa_cli.training.device import peak_memory, prepare
from fdfa_cli.training.footprint import EVALUATION_BATCH, memory_in_words
from fdfa_cli.training.progress import Progress
from fdfa_cli.training.session import Session
from fdfa_cli.training.stack import Stack

#: Steps between looks at the running loss, where a training that has diverged is stopped.
WATCH_EVERY = 100

#: What the loop moves: one session, or several stacked.
Team = Session | Stack


def fit(
    recipe: Recipe,
    run: Run,
    root: Path,
    progress: Progress,
    stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
    until: int | None = None,
) -> dict[str, Any]:
    """Train `recipe` into `run` on the data under `root`; returns what run.json keeps beside the last epoch.

    `stop` is asked after every step; once true, the training is checkpointed where it is. With `until`, it
    pauses after that many epochs if there are more, checkpointed, and returns nothing: resuming goes on.
    Raises `Diverged` or `Interrupted` with everything up to then stored.
    """
    (course,) = fit_together([Course(recipe, run, resume, until)], root, progress, stop)
    if course.error is not None:
        raise course.error
    return course.summary


def fit_together(
    courses: Sequence[Course], root: Path, progress: Progress, stop: Callable[[], bool]
) -> Generator[Course]:
    """Train `courses`, a group that `grouping` has made, as `fit` does; yields each that has ended.

    Those furthest behind move first, together, to the end of their epoch: so what is resumed at different
    places soon moves as one. Raises `Interrupted`; then, and when the generator is closed, all that have
    not ended are checkpointed where they are.
    """
    with memory_in_words():
        yield from _fit_together(courses, root, progress, stop)


def _fit_together(
    courses: Sequence[Course], root: Path, progress: Progress, stop: Callable[[], bool]
) -> Generator[Course]:
    recipe, active = courses[0].recipe, list(courses)
    device = prepare(recipe.training)
    with torch.no_grad():
        splits = recipe.data.load(root, device)
        network = recipe.network.build(recipe.data.shape(), recipe.data.classes())
        check_batches(recipe.training, network, len(splits.train))
        for course in active:
            with course.own_failure():
                course.begin(network, splits.train, device)
                if course.ended:  # it was stopped between its last checkpoint and its end
                    conclude(course.session, [course], splits.test)
    team: Team | None = None
    pace = Pace()
    while True:
        try:
            yield from [course for course in active if course.ended]
        except GeneratorExit:
            save([course for course in active if not course.ended])
            raise
        active = [course for course in active if not course.ended]
        if not active:
            return
        place = min(course.session.place for course in active)
        moving = [course for course in active if course.session.place == place]
        sessions = [course.session for course in moving]
        with torch.no_grad():
            if team is None or team.sessions != sessions:
                team = Stack(sessions) if len(sessions) > 1 else sessions[0]
                progress.start(moving[0].recipe, sessions[0])
            if epoch(team, moving, splits, pace, progress, stop):
                save(active)
                raise Interrupted(f"interrupted in epoch {sessions[0].epoch + 1}")


def epoch(
    team: Team,
    courses: Sequence[Course],
    splits: Splits,
    pace: Pace,
    progress: Progress,
    stop: Callable[[], bool],
) -> bool:
    """Move the `team` of `courses` to the end of its epoch, or to where one of them is seen to have diverged.

    The seconds are shared out equally. Returns whether it was stopped; the sessions are whole in any case.
    """
    clock = Clock(team.device)
    clock.start()
    stopped = False
    if courses[0].session.taken == 0:
        diagnose(courses, clock)
    while team.position < team.steps and not stopped:
        team.advance(splits.train)
        progress.step(courses[0].session)
        if team.position % WATCH_EVERY == 0 and not team.loss_sum.isfinite().all():
            break
        diagnose(courses, clock)
        stopped = stop()
    seconds = clock.stop() / len(courses)
    team.settle()
    for course in courses:
        course.session.seconds += seconds
    if stopped:
        return True
    for course in courses:
        with course.own_failure():
            course.check_finite()
    if team.position < team.steps or all(course.ended for course in courses):
        return False
    clock.start()
    scores = evaluate(team, splits.validation, "val")
    seconds = clock.stop() / len(courses)
    with pace.writing() as wanted:
        for course, score in zip(courses, scores, strict=True):
            if not course.ended:
                with course.own_failure():
                    progress.epoch(course.finish_epoch({**score, "eval_seconds": seconds}, wanted))
    conclude(team, courses, splits.test)
    return False


def diagnose(courses: Sequence[Course], clock: Clock) -> None:
    """Probe where it is due, off the training's clock."""
    for course in courses:
        if course.probe is not None and course.probe.due():
            course.session.seconds += clock.stop()
            clock.start()
            found = course.probe.look()
            course.session.probes.append({**found, "seconds": clock.stop()})
            clock.start()


def save(courses: Sequence[Course]) -> None:
    """Checkpoint all of them where they are."""
    for course in courses:
        course.save()


def conclude(team: Team, courses: Sequence[Course], test: Subset) -> None:
    """Give the `courses` that have done all of their epochs their summary."""
    if not any(course.complete for course in courses):
        return
    peak = peak_memory(team.device)
    for course, score in zip(courses, evaluate(team, test, "test"), strict=True):
        if course.complete:
            with course.own_failure():
                history = course.run.metrics()
                best = max(history, key=lambda row: row.get("val_accuracy") or 0.0)
                course.summary = {
                    "best_val_accuracy": best.get("val_accuracy"),
                    "best_val_epoch": best["epoch"],
                    **score,
                    "peak_memory_bytes": peak,
                    # The median: the first epoch of a process is slower than those that follow.
                    "median_epoch_seconds": statistics.median(
                        row.get("train_seconds") or 0.0 for row in history
                    ),
                }


def evaluate(team: Team, subset: Subset, prefix: str) -> list[dict[str, float]]:
    """Each session's mean loss and accuracy of `subset`, as ``{prefix}_loss`` and ``{prefix}_accuracy``."""
    count = len(team.sessions)
    if not len(subset):
        return [{} for _ in range(count)]
    loss_sum = total.zero(team.device, (count,))
    correct = torch.zeros(count, dtype=torch.int64, device=team.device)
    for rows in torch.split(torch.arange(len(subset), device=team.device), EVALUATION_BATCH):
        loss, hits = team.score(subset.batch(rows), subset.labels[rows])
        total.add(loss_sum, loss * len(rows))
        correct += hits
    return [
        {f"{prefix}_loss": loss / len(subset), f"{prefix}_accuracy": hits / len(subset)}
        for loss, hits in zip(total.wide(loss_sum).tolist(), correct.tolist(), strict=True)
    ]


class Clock:
    """Wall seconds between `start` and `stop`, with the device's queue empty at both."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> None:
        """Begin to count."""
        self._begun = machine.now(self._device)

    def stop(self) -> float:
        """Seconds since `start`."""
        return machine.now(self._device) - self._begun
