"""A table for other programs: CSV and JSON with the stored values, Markdown and LaTeX as people read them."""

from __future__ import annotations

import csv
import io
import json
import re

from fdfa_cli.report.tables import Table, Value, printable


def to_json(table: Table) -> str:
    """A list of objects, keys in the order of the columns, null where there is no value."""
    names = [column.name for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    return json.dumps(rows, indent=2, allow_nan=False) + "\n"


def to_csv(table: Table) -> str:
    """A line of names and one a row; an empty field where there is no value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(column.name for column in table.columns)
    writer.writerows(map(_encodable, row) for row in table.rows)
    return buffer.getvalue()


def to_markdown(table: Table) -> str:
    """A table of GitHub's Markdown and the notes as a list; text is escaped."""
    cells = [[column.heading for column in table.columns], *table.shown]
    lines = ["| " + " | ".join(map(_markdown, row)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join(" --- " if c.kind == "text" else " ---: " for c in table.columns) + "|")
    notes = [f"- {_markdown(printable(note))}" for note in table.notes]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def to_latex(table: Table) -> str:
    """A tabular for the package booktabs, the notes as comments; text is escaped."""
    heading, *rows = (
        " & ".join(map(_latex, row)) + r" \\"
        for row in [[column.heading for column in table.columns], *table.shown]
    )
    alignment = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        heading,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {printable(note)}" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


def _encodable(value: Value) -> Value:
    """`value` without lone surrogates (from file names that are not UTF-8), which no file could hold."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _markdown(text: str) -> str:
    """`text` with all that Markdown would read as markup escaped; underscores inside words are not."""
    text = re.sub(r"([\\`*{}\[\]<>|~&$#!])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    **{character: f"\\{character}" for character in "{}$&#_%"},
}


def _latex(text: str) -> str:
    """`text` as LaTeX sets it letter by letter: no command, no ligature of hyphens."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub("-(?=-)", "-{}", escaped)
