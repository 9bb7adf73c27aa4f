"""What the command line offers; imports nothing."""

from __future__ import annotations

from enum import StrEnum


class EngineName(StrEnum):
    """Who trains the trials."""

    auto = "auto"
    serial = "serial"
    batched = "batched"
    processes = "processes"
    ray = "ray"
