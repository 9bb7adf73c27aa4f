"""How much memory a training takes, and how much there is: what limits the height of a stack.

    4 bytes × (  tensors that move × (value, gradient, two moments, and a copy while a stack is made)
               + units of all layers × batch × (output, tangent, cotangent, one in passing)
               + random numbers of a step × (drawn, stacked, spread, used)
               + the two widest layers × an evaluation batch × (input, output) )

An estimate: only some optimizers keep two moments, only some rules a tangent. For fdfa under Adam,
64-512-512-10 in a stack of 24, it says 11.9 MiB a trial; a process that trained it grew by 12.5.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

from fdfa_cli.lazy import torch
from fdfa_cli.recipe.schema import Recipe

#: Bytes of a number: the narrow types do not take part in stacks.
WIDTH = 4
#: Samples a forward pass in evaluation.
EVALUATION_BATCH = 500


def bytes_of(recipe: Recipe) -> int:
    """Bytes that one training takes beside the data, which all share."""
    network, rule = recipe.network.build(recipe.data.shape(), recipe.data.classes()), recipe.rule
    batch = recipe.training.batch_size
    tensors = [*network.parameters().values(), *rule.state(network).values()]
    moving = sum(math.prod(draw.shape) for draw in tensors)
    units = [math.prod(shape) for _, shape in network.leaves()]
    draws = [*rule.perturbations(network, batch, 0).values(), *network.noise(batch).values()]
    drawn = sum(math.prod(draw.shape) for draw in draws)
    widest = sum(sorted(units)[-2:])
    return WIDTH * (5 * moving + 4 * batch * sum(units) + 4 * drawn + 2 * EVALUATION_BATCH * widest)


def free_bytes(device: str) -> int:
    """Bytes that `device` has left: of a GPU, or of this machine, as far as this process may use them."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_available(), _group_limit())


def _available() -> int:
    """What the machine can give without swapping, where the system tells, else what is free."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _group_limit(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """What the control group of a container has left; without a limit, more than any machine has."""
    with suppress(OSError, ValueError):
        limit = int((folder / "memory.max").read_text())
        return limit - int((folder / "memory.current").read_text())
    return 2**63
