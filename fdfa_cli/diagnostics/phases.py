"""Time and memory of a step, by phase, measured on a copy of the training."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from fdfa_cli.diagnostics.meters import MemoryMeter, Stopwatch
from fdfa_cli.diagnostics.recorder import Meter, Recording, recorded
from fdfa_cli.lazy import torch

if TYPE_CHECKING:
    from fdfa_cli.diagnostics.snapshot import Snapshot
    from fdfa_cli.diagnostics.training import Training

#: Steps of which the median time is stored.
TIMED = 3


def phases(snapshot: Snapshot, twin: Training, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    """Seconds (median of `TIMED` steps) and peak bytes of each phase of a step.

    forward    passes through the network without a tangent
    tangent    passes that carry one, the outputs that they compute with it included
    gradient   vjps; where a rule chains them, they bring the error signal down too
    signal     the rest of the rule: drawing its perturbations, loss, feedback, whatever it learns
    update     the optimizers, as applied to `twin`, whose tensors this changes

    The bytes are those of tensors that the step has made and still holds, at the most in that phase; None
    where torch does not show what it makes (see `internals`).
    """
    watches = [Stopwatch(twin.device) for _ in range(TIMED)]
    for watch in watches:
        _step(snapshot, twin, generator, watch)
    meter = MemoryMeter()
    with meter.tracking() as tracked:
        _step(snapshot, twin, generator, meter)
    return {
        phase: {
            "seconds": median(watch.seconds[phase] for watch in watches),
            "bytes": meter.peaks[phase] if tracked else None,
        }
        for phase in watches[0].seconds
    }


def _step(snapshot: Snapshot, twin: Training, generator: torch.Generator, meter: Meter) -> None:
    network = recorded(snapshot.network, Recording(meter=meter))
    meter.enter("signal")
    update = snapshot.update(snapshot.perturbations(generator), network=network)
    meter.enter("update")
    twin.apply(update)
    meter.enter(None)
