"""The schema of a recipe.

It names no rule, network or data set: each section is a `Choice` of a registry, and the options come
from the registered models. Loaded without torch.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from fdfa_cli.data.base import DATA, Data
from fdfa_cli.network.base import NETWORKS, NetworkOptions
from fdfa_cli.optim.optimizers import OPTIMIZERS, Optimizer
from fdfa_cli.optim.schedules import SCHEDULES, Constant, Schedule
from fdfa_cli.recipe.compare import Compare
from fdfa_cli.recipe.diagnostics import Diagnostics
from fdfa_cli.recipe.execution import EXECUTION_FIELDS as EXECUTION_FIELDS  # part of the schema
from fdfa_cli.recipe.sweep import Sweep
from fdfa_cli.registry import Choice, Options
from fdfa_cli.rules.base import RULES, Rule

#: Sections that say what else to train from a recipe; no part of a single run.
MANY = ("sweep", "compare")

#: Sections that a recipe may lack: they are left out of what is written, and of the identity, where absent.
OPTIONAL = (*MANY, "diagnostics")


#: Threads that a training may ask for. Torch starts as many as it is told to, and the process is killed where
#: the system does not let it.
MOST_THREADS = 1024

#: What a device may be called.
DEVICE = r"auto|cpu|mps|cuda(:\d+)?"


def _a_device(name: str) -> str:
    """Refuse text that cannot name a device; whether the device exists shows when the training starts."""
    if not re.fullmatch(DEVICE, name):
        raise ValueError(f"must be auto, cpu, mps, cuda or one of several GPUs, as cuda:0, not {name!r}")
    return name


class Training(Options):
    """How long, how and where to train."""

    epochs: Annotated[int, Field(ge=1, description="passes over the training set")] = 10
    batch_size: Annotated[int, Field(ge=1, description="samples a step")] = 64
    seed: Annotated[int, Field(ge=0, lt=2**63, description="all random streams derive from it")] = 0
    loss: Annotated[Literal["cross_entropy", "mse", "bce"], Field(description="mean over the batch")] = (
        "cross_entropy"
    )
    precision: Annotated[
        Literal["fp32", "tf32", "bf16"],
        Field(description="of matrix products; parameters, optimizer and feedback stay in fp32"),
    ] = "fp32"
    drop_last: Annotated[bool, Field(description="leave out the last, partial batch")] = False
    device: Annotated[
        str,
        AfterValidator(_a_device),
        Field(
            json_schema_extra={"pattern": f"^({DEVICE})$"}, description="auto takes a GPU where there is one"
        ),
    ] = "auto"
    threads: Annotated[
        int | None, Field(ge=1, le=MOST_THREADS, description="CPU threads; torch's choice when absent")
    ] = None
    checkpoint_every: Annotated[
        int,
        Field(
            ge=1, description="epochs between checkpoints; more where writing them took over 1/40 of the time"
        ),
    ] = 1


class Recipe(Options):
    """One training, completely described; a run's identity is the hash of that.

    `sweep` and `compare` say what else to train from it, and are no part of a run. `diagnostics` are part of
    it where they are asked for: a sweep started again with them must train, although to the same digits.
    """

    # Built at the first use, so that plugins loaded before it are known.
    model_config = ConfigDict(defer_build=True)

    data: Annotated[Data, Choice(DATA)]
    network: Annotated[NetworkOptions, Choice(NETWORKS)]
    rule: Annotated[Rule, Choice(RULES)]
    optimizer: Annotated[Optimizer, Choice(OPTIMIZERS)]
    schedule: Annotated[Schedule, Choice(SCHEDULES)] = Constant()
    training: Training = Training()
    diagnostics: Diagnostics | None = None
    sweep: Sweep | None = None
    compare: Compare | None = None

    def single(self) -> Recipe:
        """The recipe of one run: without `sweep` and `compare`."""
        return self.model_copy(update={"sweep": None, "compare": None})
