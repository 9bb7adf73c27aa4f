"""What a step costs, by phase: time and memory, on a copy of the training."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from fdfa_cli.diagnostics.meters import Scales, Stopwatch
from fdfa_cli.diagnostics.watch import Meter, Record, watched
from fdfa_cli.lazy import torch

if TYPE_CHECKING:
    from fdfa_cli.diagnostics.moment import Moment
    from fdfa_cli.diagnostics.training import Training

#: Steps of which the median time is stored.
TIMED = 3


def phases(moment: Moment, twin: Training, generator: torch.Generator) -> dict[str, dict[str, Any]]:
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
        _step(moment, twin, generator, watch)
    scales = Scales()
    with scales.weighing() as weighed:
        _step(moment, twin, generator, scales)
    return {
        phase: {
            "seconds": median(watch.seconds[phase] for watch in watches),
            "bytes": scales.peaks[phase] if weighed else None,
        }
        for phase in watches[0].seconds
    }


def _step(moment: Moment, twin: Training, generator: torch.Generator, meter: Meter) -> None:
    network = watched(moment.network, Record(meter=meter))
    meter.enter("signal")
    update = moment.update(moment.perturbations(generator), network=network)
    meter.enter("update")
    twin.apply(update)
    meter.enter(None)
