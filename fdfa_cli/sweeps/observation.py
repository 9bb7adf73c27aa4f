"""What a configuration of a sweep came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Observation:
    """What a configuration came to: its `score`, more being better, at `epoch` (None: at the end).

    The score is None where there is none to be had: it diverged, or failed under every seed.
    """

    overrides: Mapping[str, Any]
    score: float | None
    epoch: int | None = None
