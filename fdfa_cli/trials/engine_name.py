"""The names of the engines, for the command line, which imports nothing heavy to show its help."""

from __future__ import annotations

from enum import StrEnum


class EngineName(StrEnum):
    """The name by which an engine is asked for; `engines.options` chooses the engine."""

    auto = "auto"
    serial = "serial"
    batched = "batched"
    processes = "processes"
    ray = "ray"
