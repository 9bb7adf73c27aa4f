"""A table for other programs: CSV and JSON with the stored values, Markdown and LaTeX as people read them."""

from __future__ import annotations

import csv
import io
import json
import re

from fdfa_cli.printable import printable
from fdfa_cli.stats import Mean
from fdfa_cli.tables import Column, Table, Value

#: What a spreadsheet takes for the beginning of a formula; full-width forms where it is set to Japanese.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def to_json(table: Table) -> str:
    """A list of objects, keys in the order of the columns, null where there is no value.

    A mean is three keys: its own name, and that with ``_half_width`` and with ``_n``.
    """
    table = _flat(table)
    names = [column.name for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    return json.dumps(rows, indent=2, allow_nan=False) + "\n"


def to_csv(table: Table) -> str:
    """A line of names and one a row, the columns those of `to_json`; an empty field for no value.

    Text is safe to open in a spreadsheet: control characters are escapes, and an apostrophe stands before
    text that would be a formula. `to_json` has it as it is. Numbers, negative ones too, stay numbers.
    """
    table = _flat(table)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_literal(column.name) for column in table.columns)
    writer.writerows(map(_literal, row) for row in table.rows)
    return buffer.getvalue()


def to_markdown(table: Table) -> str:
    """A table of GitHub's Markdown and the notes as a list; text is escaped."""
    cells = [[column.heading for column in table.columns], *table.shown]
    lines = ["| " + " | ".join(map(_markdown, row)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join(" --- " if c.left else " ---: " for c in table.columns) + "|")
    above = [_markdown(printable(table.shared)), ""] if table.shared else []
    notes = [f"- {_markdown(printable(note))}" for note in table.notes]
    return "\n".join([*above, *lines, *([""] if notes else []), *notes]) + "\n"


def to_latex(table: Table) -> str:
    """A tabular for the package booktabs, the best of each task and column in bold; text is escaped.

    All that look equally good are bold. The notes, and what all rows have in common, are comments.
    """
    bold = table.best
    heading = " & ".join(_latex(column.heading) for column in table.columns) + r" \\"
    rows = []
    for i, row in enumerate(table.shown):
        cells = [_latex(cell if c.left else _minus(cell)) for c, cell in zip(table.columns, row, strict=True)]
        cells = [rf"\textbf{{{cell}}}" if (i, j) in bold else cell for j, cell in enumerate(cells)]
        rows.append(" & ".join(cells) + r" \\")
    alignment = "".join("l" if column.left else "r" for column in table.columns)
    lines = [
        r"% needs \usepackage{booktabs}",
        *([f"% {printable(table.shared)}"] if table.shared else []),
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


def _flat(table: Table) -> Table:
    """`table` with a column for each number of a mean."""
    columns: list[Column] = []
    for column in table.columns:
        columns.append(column)
        if column.averaged:
            columns += [Column(f"{column.name}_half_width", ""), Column(f"{column.name}_n", "")]
    rows = []
    for row in table.rows:
        cells: list[Value] = []
        for column, value in zip(table.columns, row, strict=True):
            if not column.averaged:
                cells.append(value)
            elif isinstance(value, Mean):
                cells += [value.mean, value.half, value.n]
            else:
                cells += [value, None, 0]
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows))


def _literal(value: Value) -> Value:
    """`value` as a field that no spreadsheet evaluates and no terminal obeys (OWASP, "CSV injection")."""
    if not isinstance(value, str):
        return value
    # Looked at as stored: a tab or carriage return before "=" is skipped by some spreadsheets.
    formula = value.lstrip().startswith(_FORMULA) or value.startswith(("\t", "\r", "\n"))
    return ("'" if formula else "") + printable(value)


def _markdown(text: str) -> str:
    """`text` with all that Markdown would read as markup escaped; underscores inside words are not."""
    text = re.sub(r"([\\`*{}\[\]<>|~&$#!])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def _minus(number: str) -> str:
    """`number` with signs that are no hyphens."""
    return re.sub(r"-(?=\d)", "−", number)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after the end of a row, these two would be its options
    "*": "{*}",
    "±": r"$\pm$",
    "−": "$-$",
    **{character: f"\\{character}" for character in "{}$&#_%"},
}


def _latex(text: str) -> str:
    """`text` as LaTeX sets it letter by letter: no command, no ligature of hyphens."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub("-(?=-)", "-{}", escaped)
