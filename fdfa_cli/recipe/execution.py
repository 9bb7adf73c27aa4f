"""What readers of stored recipes need to know of the schema, apart from it because this imports nothing."""

from __future__ import annotations

#: Fields of ``training`` that change where or how fast a run computes, not what it computes.
EXECUTION_FIELDS = frozenset({"device", "threads", "checkpoint_every"})
