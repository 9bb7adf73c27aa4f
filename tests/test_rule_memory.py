"""Rules whose blocks learn one after another: what a step holds at once does not grow with depth."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from rule_steps import draw, take
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fdfa_cli.network.zoo.mlp import MLP
from fdfa_cli.registry import RULES
from fdfa_cli.streams import sample

BATCH, UNITS = 1024, 8


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it, from each one's making to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        """Once for all tensors that share it."""
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._end, storage._cdata, storage.nbytes())

    def _end(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def held(name: str, depth: int) -> int:
    """Bytes of tensors that a step of rule `name` makes and holds at its peak, perturbations among them."""
    network = MLP(hidden=(UNITS,) * depth).build((UNITS,), 4)
    rule = RULES.get(name)()
    step = draw(rule, network, batch=BATCH, dtype=torch.float32)
    with Held() as counter:
        perturbations = sample(rule.perturbations(network, BATCH, 0), torch.Generator().manual_seed(0))
        take(rule, network, replace(step, perturbations=perturbations))
    return counter.peak


@pytest.mark.parametrize("name", ["drtp", "lg-bp", "lg-fg-a", "lg-fg-w", "ff", "shallow"])
def test_a_block_is_freed_before_the_next_one_runs(name):
    """Nine blocks more need gradients and statistics, in all less than the output of one block."""
    assert held(name, 12) - held(name, 3) < BATCH * UNITS * 4


def test_other_rules_hold_all_blocks():
    """So that the counter is known to see them."""
    assert held("bp", 12) - held("bp", 3) > 9 * BATCH * UNITS * 4
