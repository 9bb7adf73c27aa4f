"""What the processor computes with: which library's kernels are the quicker ones depends on it.

The environment variable ``FDFA_KERNELS=reference`` leaves all of that aside: products, convolutions and norms
are then what torch's public operations make of them, on any processor.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from fdfa_cli.errors import UsageError
from fdfa_cli.lazy import torch

AMD = "AuthenticAMD"

#: What chooses kernels, and what it may say.
VARIABLE, CHOICES = "FDFA_KERNELS", ("fast", "reference")


@cache
def reference() -> bool:
    """Whether kernels chosen for a processor are to be left aside.

    Raises `UsageError` where the environment says neither that nor the contrary.
    """
    chosen = os.environ.get(VARIABLE, "fast")
    if chosen not in CHOICES:
        known = " or ".join(CHOICES)
        raise UsageError(f"the environment variable {VARIABLE} must be {known}, not {chosen!r}")
    return chosen == "reference"


@cache
def vectors() -> str:
    """The widest vectors that torch uses: "AVX512", "AVX2", or the name of another set of instructions."""
    return str(torch.backends.cpu.get_cpu_capability())


@cache
def maker() -> tuple[str, int]:
    """Vendor and family of an x86 processor, as Linux tells them; an empty name and 0 elsewhere."""
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return entries.get("vendor_id", ""), int(entries.get("cpu family", 0))
