"""Overrides of a test on top of those that all tests of its file share."""

from __future__ import annotations

from collections.abc import Sequence


def over(shared: Sequence[str], *overrides: str) -> list[str]:
    """`shared` and `overrides`, without what of `shared` they replace: given twice, it would be an error."""
    keys = tuple(text.partition("=")[0] for text in overrides)

    def replaced(text: str) -> bool:
        key = text.partition("=")[0]
        return any(key == other or key.startswith(f"{other}.") for other in keys)

    return [*(text for text in shared if not replaced(text)), *overrides]
