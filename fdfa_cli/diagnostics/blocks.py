"""The metrics of a snapshot that need no repeated draws, by block (0 is the first)."""

from __future__ import annotations

import math

from fdfa_cli.diagnostics.metrics import Metrics, alignment, concatenated, cosine, dead, feedback, norm
from fdfa_cli.diagnostics.recorder import Recording, recorded
from fdfa_cli.diagnostics.snapshot import Snapshot
from fdfa_cli.errors import Unsupported
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import split_at_activation
from fdfa_cli.network.jacobian import jacobian_rows
from fdfa_cli.network.layers import Tensors


def alignments(
    snapshot: Snapshot, perturbations: Tensors, true: Tensors, exact: Recording
) -> dict[int, Metrics]:
    """Compare the rule's error signals and gradients with the exact ones, `true` and `exact`.

    The signals are compared at a block's output, or at its pre-activation where the rule brings none to the
    output.
    """
    seen = Recording()
    estimate = snapshot.update(perturbations, network=recorded(snapshot.network, seen)).grads
    tables: dict[int, Metrics] = {}
    for l, block in enumerate(snapshot.network.blocks):
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


def weight_alignments(snapshot: Snapshot, perturbations: Tensors) -> dict[int, Metrics]:
    """Cosine between the weights above a block and what a backward pass reads in their place."""
    parts = (*snapshot.network.blocks, snapshot.network.output)
    stands_in = snapshot.rule.backward_weights(snapshot.seen(perturbations))
    found: dict[int, Metrics] = {}
    for l, above in enumerate(parts[1:]):
        names = [name for name in above.parameters() if name in stands_in]
        if names:
            found[l] = {
                "weight_alignment": cosine(
                    concatenated(stands_in, names), concatenated(snapshot.params, names)
                )
            }
    return found


def feedbacks(snapshot: Snapshot) -> dict[int, Metrics]:
    """Compare the direct feedback with the mean over samples of each sample's own Jacobian.

    Empty for a network with wrapped modules, whose Jacobian cannot be taken sample by sample.
    """
    count, mode = len(snapshot.network.blocks), snapshot.batch.mode.discarding()
    means: list[list[torch.Tensor]] = [[] for _ in range(count)]
    energy = [0.0] * count
    try:
        for rows in jacobian_rows(snapshot.network, snapshot.params, snapshot.batch.x, mode):
            for l, row in enumerate(rows):
                means[l].append(row.mean(0).flatten())
                energy[l] += norm(row) ** 2 / len(row)
    except Unsupported:
        return {}
    direct = snapshot.rule.direct_feedback(snapshot.seen())
    return {l: feedback(torch.stack(means[l]), energy[l], direct.get(l)) for l in range(count)}


def activity(snapshot: Snapshot, true: Tensors, exact: Recording) -> dict[int, Metrics]:
    """Norms of the blocks' outputs and of their exact gradients, and the share of dead units."""
    found: dict[int, Metrics] = {}
    for l, block in enumerate(snapshot.network.blocks):
        slope = split_at_activation(block)[1].slope(exact.outputs[l, "preactivation"])
        found[l] = {
            "activation_norm": norm(exact.outputs[l, "output"]) / math.sqrt(len(snapshot.batch)),
            "gradient_norm": norm(concatenated(true, block.parameters())),
            "dead_units": dead(slope),
        }
    return found
