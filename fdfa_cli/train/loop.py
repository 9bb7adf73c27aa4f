"""The training loop, top to bottom."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fdfa_cli.data.base import Subset
from fdfa_cli.diagnostics.probe import Probe
from fdfa_cli.errors import Diverged, Interrupted, UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.network.losses import LOSSES
from fdfa_cli.recipe.schema import Recipe, Training
from fdfa_cli.runs import Run
from fdfa_cli.train import checkpoint
from fdfa_cli.train.progress import Progress
from fdfa_cli.train.session import Session

#: Steps between looks at the running loss, where a training that has diverged is stopped.
WATCH_EVERY = 100
#: Samples a forward pass in evaluation.
EVALUATION_BATCH = 500


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
    device = prepare(recipe.training)
    with torch.no_grad():
        splits = recipe.data.load(root, device)
        network = recipe.network.build(recipe.data.shape(), recipe.data.classes())
        session = Session(recipe, network, len(splits.train), device)
        if resume:
            if run.checkpoint.exists():  # a run stopped before its first checkpoint starts again
                checkpoint.load(run.checkpoint, session)
            run.cut(session.epoch)
        clock, every = Clock(device), recipe.training.checkpoint_every
        probe = Probe(recipe.diagnostics, session, splits.train) if recipe.diagnostics else None

        def diagnose() -> None:
            """Probe where it is due, off the training's clock."""
            if probe is not None and probe.due():
                session.seconds += clock.stop()
                clock.start()
                found = probe.look()
                session.probes.append({**found, "seconds": clock.stop()})
                clock.start()

        last = min(until or recipe.training.epochs, recipe.training.epochs)
        progress.start(recipe, session)

        while session.epoch < last:
            clock.start()
            if session.taken == 0:
                diagnose()
            while session.position < session.steps:
                rows = session.rows()
                session.step(
                    splits.train.batch(rows, session.streams["augmentation"]), splits.train.labels[rows]
                )
                progress.step(session)
                if session.position % WATCH_EVERY == 0 and not math.isfinite(session.loss_sum.item()):
                    break
                diagnose()
                if stop():
                    session.seconds += clock.stop()
                    checkpoint.save(run.checkpoint, session)
                    raise Interrupted(f"interrupted in epoch {session.epoch + 1}")
            row: dict[str, Any] = {
                "epoch": session.epoch + 1,
                "train_loss": session.loss_sum.item() / session.seen,
                "train_accuracy": session.correct.item() / session.seen,
                "lr": session.rate(),
                "train_seconds": session.seconds + clock.stop(),
            }
            if probe is not None:
                row["diagnostics_seconds"] = math.fsum(p["seconds"] for p in session.probes)
                row["diagnostics"] = session.probes
            if not math.isfinite(row["train_loss"]):
                run.append(row)
                raise Diverged(f"the training loss is not finite in epoch {session.epoch + 1}")
            clock.start()
            row |= evaluate(session, splits.validation, "val")
            row["eval_seconds"] = clock.stop()
            session.epoch += 1
            session.begin_epoch()
            # The row first: a run killed between the two repeats the epoch, and `cut` drops the row.
            run.append(row)
            if session.epoch % every == 0 or session.epoch == last:
                checkpoint.save(run.checkpoint, session)
            progress.epoch(row)

        if session.epoch < recipe.training.epochs:
            return {}
        history = run.metrics()
        best = max(history, key=lambda row: row.get("val_accuracy") or 0.0)
        return {
            "best_val_accuracy": best.get("val_accuracy"),
            "best_val_epoch": best["epoch"],
            **evaluate(session, splits.test, "test"),
            "peak_memory_bytes": peak_memory(device),
            # The median: the first epoch of a process is slower than those that follow.
            "median_epoch_seconds": statistics.median(row["train_seconds"] for row in history),
        }


def evaluate(session: Session, subset: Subset, prefix: str) -> dict[str, float]:
    """Mean loss and accuracy of `subset` in evaluation mode, as ``{prefix}_loss`` and ``_accuracy``."""
    if not len(subset):
        return {}
    loss_sum = torch.zeros((), dtype=torch.float64, device=session.device)
    correct = torch.zeros((), dtype=torch.int64, device=session.device)
    rule, loss = session.recipe.rule, LOSSES[session.recipe.training.loss]
    for rows in torch.split(torch.arange(len(subset), device=session.device), EVALUATION_BATCH):
        logits = rule.predict(session.network, session.params, session.buffers, subset.batch(rows))
        loss_sum += loss(logits, subset.labels[rows])[0] * len(rows)
        correct += (logits.argmax(-1) == subset.labels[rows]).sum()
    return {
        f"{prefix}_loss": loss_sum.item() / len(subset),
        f"{prefix}_accuracy": correct.item() / len(subset),
    }


def prepare(training: Training) -> torch.device:
    """Set threads and precision, choose the device, and begin to watch its peak memory.

    Raises `UsageError` where the device is not there.
    """
    if training.threads:
        torch.set_num_threads(training.threads)
    torch.set_float32_matmul_precision("high" if training.precision == "tf32" else "highest")
    wanted = training.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UsageError(f"device {wanted!r} is not there: this machine has {count} CUDA devices")
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux only; elsewhere the peak is that of all the process has done
            Path("/proc/self/clear_refs").write_text("5")
    return device


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device's allocator on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Clock:
    """Wall seconds between `start` and `stop`, with the device's queue empty at both."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> None:
        """Begin to count."""
        self._begun = self._now()

    def stop(self) -> float:
        """Seconds since `start`."""
        return self._now() - self._begun

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
