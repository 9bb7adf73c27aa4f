"""Kernels: the operations on tensors that layers and rules are written with.

    reference   what each operation is, by public operations of torch; right on every device
    cpu         the same numbers up to rounding, by quicker ways where the processor has them

Everything that knows a processor, a library behind torch, a private operation of torch, a memory layout or a
constant that was fitted to measurements is in this package; layers and rules ask `kernels()` for an operation
and read like their equations. The environment variable ``FDFA_KERNELS=reference`` leaves the quicker ways
aside, on any machine.
"""

from __future__ import annotations

import os
from functools import cache

from fdfa_cli.errors import UsageError
from fdfa_cli.network.kernels.cpu import CPU
from fdfa_cli.network.kernels.reference import Mask, Reference, Running

__all__ = ["CPU", "VARIABLE", "Mask", "Reference", "Running", "kernels"]

#: The environment variable that chooses the kernels, and what it may say.
VARIABLE = "FDFA_KERNELS"
CHOICES: dict[str, type[Reference]] = {"fast": CPU, "reference": Reference}


@cache
def kernels() -> Reference:
    """The implementation that this process computes with; decided at the first call.

    Raises `UsageError` where the environment names none.
    """
    chosen = os.environ.get(VARIABLE, "fast")
    if chosen not in CHOICES:
        known = " or ".join(CHOICES)
        raise UsageError(f"the environment variable {VARIABLE} must be {known}, not {chosen!r}")
    return CHOICES[chosen]()
