"""One step of any rule on random tensors: what the tests of the rules have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Mode
from fdfa_cli.network.losses import LOSSES, Batch
from fdfa_cli.rules import step as rules
from fdfa_cli.rules.base import Rule


@dataclass(frozen=True)
class Step:
    """All tensors of one step. A pytree of tensors, but for nothing: so that trials can be stacked."""

    params: dict[str, Tensor]
    state: dict[str, Tensor]
    buffers: dict[str, Tensor]
    noise: dict[str, Tensor]
    x: Tensor
    labels: Tensor
    perturbations: dict[str, Tensor]

    @property
    def trees(self) -> tuple[Any, ...]:
        return tuple(vars(self).values())


def draw(
    rule: Rule,
    network: Network,
    seed: int = 0,
    batch: int = 5,
    number: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Step:
    """Random arguments of step `number`. Nothing is left at a special value: γ is not 1, F is not 0."""
    generator = torch.Generator().manual_seed(seed)

    def tensors(draws: Mapping[str, Any], jitter: float = 0.0) -> dict[str, Tensor]:
        return {
            name: d.sample(generator, dtype) + jitter * torch.rand(d.shape, generator=generator, dtype=dtype)
            for name, d in draws.items()
        }

    return Step(
        tensors(network.parameters(), 0.2),
        tensors(rule.state(network), 0.2),
        tensors(network.buffers(), 0.5),
        tensors(network.noise(batch)),
        torch.rand(batch, *network.shape, generator=generator, dtype=dtype),
        torch.randint(network.classes, (batch,), generator=generator),
        tensors(rule.perturbations(network, batch, number)),
    )


@dataclass(frozen=True)
class Outcome:
    """Everything a step gives, the new running statistics included."""

    grads: dict[str, Tensor]
    state_grads: dict[str, Tensor]
    state: dict[str, Tensor]
    buffers: dict[str, Tensor]
    loss: Tensor
    logits: Tensor

    @property
    def trees(self) -> dict[str, Any]:
        return vars(self)


def take(rule: Rule, network: Network, step: Step, loss: str = "cross_entropy") -> Outcome:
    mode = Mode(True, step.buffers, step.noise)
    batch = Batch(step.x, step.labels, mode, LOSSES[loss])
    with torch.no_grad():
        u = rule.step(rules.Step(network, step.params, step.state, batch, step.perturbations))
    return Outcome(
        dict(u.grads), dict(u.state_grads), dict(u.state), step.buffers | mode.updates, u.loss, u.logits
    )


def take_many(
    rule: Rule, network: Network, step: Step, draws: int, seed: int = 0, number: int = 0, chunk: int = 5000
) -> Outcome:
    """The same step under `draws` independent perturbations, stacked; everything else stays."""
    generator = torch.Generator().manual_seed(seed)
    laws = rule.perturbations(network, len(step.x), number)
    many = {
        name: replace(law, shape=(draws, *law.shape)).sample(generator, torch.float64)
        for name, law in laws.items()
    }
    one = torch.func.vmap(
        lambda drawn: take(rule, network, replace(step, perturbations=drawn)).trees, chunk_size=chunk
    )
    return Outcome(**one(many))
