"""Names that the command line needs before anything else is imported."""

from __future__ import annotations

from enum import StrEnum


class RowKind(StrEnum):
    """What a row of a report is of."""

    runs = "runs"
    epochs = "epochs"
    diagnostics = "diagnostics"
