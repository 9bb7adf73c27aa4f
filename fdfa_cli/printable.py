"""Text that is printed: a count with its noun, and text of users in which no character acts on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` on one line, with control characters and lone surrogates as escapes: none can act."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """`text` with its line breaks, and every other control character as an escape."""
    return "\n".join(map(printable, text.split("\n")))


def counted(count: int, noun: str) -> str:
    """A count with its noun: "1 run", "2 runs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
