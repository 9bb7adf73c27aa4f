"""The processor's vectors and maker, on which it depends whose kernels are quicker."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

from fdfa_cli.lazy import torch

AMD = "AuthenticAMD"


@cache
def vector_extension() -> str:
    """The widest vectors that torch uses: "AVX512", "AVX2", or the name of another set of instructions."""
    return str(torch.backends.cpu.get_cpu_capability())


@cache
def vendor_and_family() -> tuple[str, int]:
    """Vendor and family of an x86 processor, as Linux tells them; an empty name and 0 elsewhere."""
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return entries.get("vendor_id", ""), int(entries.get("cpu family", 0))
