"""The training loop, top to bottom: one training, or several at once.

fit_together    trainings -> each as soon as it has ended, its end stored
  _fit          loads the data, begins every training, and moves those furthest behind
    epoch       steps to the end of the epoch, evaluation, checkpoint
      steps     `Trainee.advance`: the rule's step and the optimizers', on one batch
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from fdfa_cli import machine
from fdfa_cli.data.base import Splits, Subset
from fdfa_cli.errors import Interrupted
from fdfa_cli.lazy import torch
from fdfa_cli.recipe.resolve import check_batches
from fdfa_cli.training import total
from fdfa_cli.training.device import peak_memory
from fdfa_cli.training.footprint import EVALUATION_BATCH, memory_in_words
from fdfa_cli.training.progress import Progress, Quiet
from fdfa_cli.training.stack import StackedTrainState
from fdfa_cli.training.trainee import Trainee
from fdfa_cli.training.training_run import CheckpointInterval, TrainingRun

#: Steps between looks at the running loss, where a training that has diverged is stopped.
WATCH_EVERY = 100


def never() -> bool:
    """Nobody asks a training to stop."""
    return False


def fit(
    training: TrainingRun,
    root: Path,
    progress: Progress | None = None,
    stop: Callable[[], bool] = never,
) -> None:
    """Train to the end, on the data under `root`, and store how it ended in the run folder.

    `stop` is asked after every step; once it is true, the training is checkpointed where it is.
    Raises what ended it before: `Diverged`, `Interrupted`, or what failed.
    """
    for ended in fit_together([training], root, progress, stop):
        if ended.error is not None:
            raise ended.error


def fit_together(
    trainings: Sequence[TrainingRun],
    root: Path,
    progress: Progress | None = None,
    stop: Callable[[], bool] = never,
) -> Generator[TrainingRun]:
    """Train a group that `grouping` has made, as `fit` does; yields each training that has ended.

    What goes wrong in one training is its `error`, and what goes wrong for all of them is everyone's.
    Raises `Interrupted` once `stop` is true. Then, and when the generator is closed, the trainings that have
    not ended are checkpointed where they are and stored as interrupted.
    """
    left = list(trainings)
    try:
        with memory_in_words():
            for training in _fit(trainings, root, progress or Quiet(), stop):
                training.finish()
                left.remove(training)
                yield training
    except GeneratorExit:
        for training in left:
            training.stop("stopped with its sweep")
        raise
    except BaseException as error:
        for training in left:
            training.finish(error)
        if not isinstance(error, Exception):
            raise
        yield from left


def _fit(
    trainings: Sequence[TrainingRun], root: Path, progress: Progress, stop: Callable[[], bool]
) -> Generator[TrainingRun]:
    """Train until each has ended, and yield it then.

    Those furthest behind move first, together, to the end of their epoch: so what is resumed at different
    places soon moves as one.
    """
    recipe, device = trainings[0].recipe, trainings[0].device
    with torch.no_grad():
        splits = recipe.data.load(root, device)
        network = recipe.network.build(recipe.data.shape(), recipe.data.classes())
        check_batches(recipe.training, network, len(splits.train))
        for training in trainings:
            with training.own_failure():
                training.begin(network, splits.train)
                if training.ended:  # it was stopped between its last checkpoint and its end
                    conclude(training.state, [training], splits.test)
    trainee: Trainee | None = None
    interval = CheckpointInterval()
    active = list(trainings)
    while True:
        yield from [training for training in active if training.ended]
        active = [training for training in active if not training.ended]
        if not active:
            return
        place = min(training.state.place for training in active)
        moving = [training for training in active if training.state.place == place]
        states = [training.state for training in moving]
        with torch.no_grad():
            if trainee is None or trainee.states != states:
                trainee = StackedTrainState(states) if len(states) > 1 else states[0]
                progress.start(moving[0].recipe, states[0])
            if epoch(trainee, moving, splits, interval, progress, stop):
                save(active)
                raise Interrupted(f"interrupted in epoch {states[0].epoch + 1}")


def epoch(
    trainee: Trainee,
    trainings: Sequence[TrainingRun],
    splits: Splits,
    interval: CheckpointInterval,
    progress: Progress,
    stop: Callable[[], bool],
) -> bool:
    """Move the `trainee` of `trainings` to the end of its epoch, or to where one is seen to have diverged.

    The seconds are shared out equally. Returns whether it was stopped; the states are whole in any case.
    """
    clock = Clock(trainee.device)
    if steps(trainee, trainings, splits.train, clock, progress, stop):
        return True
    for training in trainings:
        with training.own_failure():
            training.check_finite()
    if trainee.position < trainee.steps or all(training.ended for training in trainings):
        return False
    clock.start()
    scores = evaluate(trainee, splits.validation, "val")
    seconds = clock.stop() / len(trainings)
    with interval.writing() as due:
        for training, score in zip(trainings, scores, strict=True):
            if not training.ended:
                with training.own_failure():
                    progress.epoch(training.finish_epoch({**score, "eval_seconds": seconds}, due))
    conclude(trainee, trainings, splits.test)
    return False


def steps(
    trainee: Trainee,
    trainings: Sequence[TrainingRun],
    train: Subset,
    clock: Clock,
    progress: Progress,
    stop: Callable[[], bool],
) -> bool:
    """Take the steps that are left of the epoch on the training set; returns whether it was stopped."""
    clock.start()
    stopped = False
    if trainings[0].state.taken == 0:
        diagnose(trainings, clock)
    while trainee.position < trainee.steps and not stopped:
        trainee.advance(train)
        progress.step(trainings[0].state)
        if trainee.position % WATCH_EVERY == 0 and not trainee.loss_sum.isfinite().all():
            break
        diagnose(trainings, clock)
        stopped = stop()
    seconds = clock.stop() / len(trainings)
    trainee.settle()
    for training in trainings:
        training.state.seconds += seconds
    return stopped


def diagnose(trainings: Sequence[TrainingRun], clock: Clock) -> None:
    """Probe where it is due, off the training's clock."""
    for training in trainings:
        if training.probe is not None and training.probe.due():
            training.state.seconds += clock.stop()
            clock.start()
            found = training.probe.measure()
            training.state.probes.append({**found, "seconds": clock.stop()})
            clock.start()


def save(trainings: Sequence[TrainingRun]) -> None:
    """Checkpoint all of them where they are."""
    for training in trainings:
        training.save()


def conclude(trainee: Trainee, trainings: Sequence[TrainingRun], test: Subset) -> None:
    """Summarise the `trainings` that have done all of their epochs, with their scores on the test set."""
    if not any(training.complete for training in trainings):
        return
    peak = peak_memory(trainee.device)
    for training, scores in zip(trainings, evaluate(trainee, test, "test"), strict=True):
        if training.complete:
            with training.own_failure():
                training.summarise(scores, peak)


def evaluate(trainee: Trainee, subset: Subset, prefix: str) -> list[dict[str, float]]:
    """Each state's mean loss and accuracy of `subset`, as ``{prefix}_loss`` and ``{prefix}_accuracy``."""
    count = len(trainee.states)
    if not len(subset):
        return [{} for _ in range(count)]
    loss_sum = total.zero(trainee.device, (count,))
    correct = torch.zeros(count, dtype=torch.int64, device=trainee.device)
    for rows in torch.split(torch.arange(len(subset), device=trainee.device), EVALUATION_BATCH):
        loss, hits = trainee.score(subset.batch(rows), subset.labels[rows])
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
        """Begin to count the seconds."""
        self._begun = machine.now(self._device)

    def stop(self) -> float:
        """The seconds since `start` was called."""
        return machine.now(self._device) - self._begun
