"""The figures of one moment that need no repeated draws, by block (0 is the first)."""

from __future__ import annotations

import math

from fdfa_cli.diagnostics.figures import Figures, alignment, concatenated, cosine, dead, feedback, norm
from fdfa_cli.diagnostics.moment import Moment
from fdfa_cli.diagnostics.watch import Record, watched
from fdfa_cli.errors import Unsupported
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import split_at_activation
from fdfa_cli.network.jacobian import jacobian_rows
from fdfa_cli.network.layers import Tensors


def alignments(moment: Moment, perturbations: Tensors, true: Tensors, exact: Record) -> dict[int, Figures]:
    """Error signal and gradients of the rule beside the exact ones.

    The signals are compared at a block's output, or, where the rule brings none there, at its
    pre-activation.
    """
    seen = Record()
    estimate = moment.update(perturbations, network=watched(moment.network, seen)).grads
    tables: dict[int, Figures] = {}
    for l, block in enumerate(moment.network.blocks):
        found = tables[l] = {}
        for place in ("output", "preactivation"):
            signal, aim = seen.signals.get((l, place)), exact.signals.get((l, place))
            if signal is not None and aim is not None and signal.shape == aim.shape:
                found |= {"signal_at": place, **alignment("signal", signal, aim)}
                break
        names = [name for name in block.parameters() if name in estimate]
        if names:
            found |= alignment("weight", concatenated(estimate, names), concatenated(true, names))
    return tables


def weight_alignments(moment: Moment, perturbations: Tensors) -> dict[int, Figures]:
    """Cosine between the weights above a block and what a backward pass reads in their place."""
    parts = (*moment.network.blocks, moment.network.output)
    stands_in = moment.rule.backward_weights(moment.seen(perturbations))
    found: dict[int, Figures] = {}
    for l, above in enumerate(parts[1:]):
        names = [name for name in above.parameters() if name in stands_in]
        if names:
            found[l] = {
                "weight_alignment": cosine(concatenated(stands_in, names), concatenated(moment.params, names))
            }
    return found


def feedbacks(moment: Moment) -> dict[int, Figures]:
    """Direct feedback beside the mean own-sample Jacobian; none on a network with wrapped modules."""
    count, mode = len(moment.network.blocks), moment.batch.mode.discarding()
    means: list[list[torch.Tensor]] = [[] for _ in range(count)]
    energy = [0.0] * count
    try:
        for rows in jacobian_rows(moment.network, moment.params, moment.batch.x, mode):
            for l, row in enumerate(rows):
                means[l].append(row.mean(0).flatten())
                energy[l] += norm(row) ** 2 / len(row)
    except Unsupported:
        return {}
    direct = moment.rule.direct_feedback(moment.seen())
    return {l: feedback(torch.stack(means[l]), energy[l], direct.get(l)) for l in range(count)}


def activity(moment: Moment, true: Tensors, exact: Record) -> dict[int, Figures]:
    """Norms of the activity and of the true gradient, and the share of dead units."""
    found: dict[int, Figures] = {}
    for l, block in enumerate(moment.network.blocks):
        slope = split_at_activation(block)[1].slope(exact.outputs[l, "preactivation"])
        found[l] = {
            "activation_norm": norm(exact.outputs[l, "output"]) / math.sqrt(len(moment.batch)),
            "gradient_norm": norm(concatenated(true, block.parameters())),
            "dead_units": dead(slope),
        }
    return found
