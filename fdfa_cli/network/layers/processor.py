"""What the processor computes with: which library's kernels are the quicker ones depends on it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fdfa_cli.lazy import torch

AMD = "AuthenticAMD"


@cache
def vectors() -> str:
    """The widest vectors that torch uses: "AVX512", "AVX2", or the name of another set of instructions."""
    return str(torch.backends.cpu.get_cpu_capability())


@cache
def maker() -> tuple[str, int]:
    """Vendor and family of an x86 processor, as Linux tells them; an empty name and 0 elsewhere."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return entries.get("vendor_id", ""), int(entries.get("cpu family", 0))
