"""How to get a row of the page again: commands for a shell, and the recipe they need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fdfa_cli.report.catalog import Catalog
from fdfa_cli.report.html.grid import Block
from fdfa_cli.storage import RunFolder
from fdfa_cli.storage.provenance import plugins_of, quote

#: Under which name the commands expect the recipe.
FILE = "recipe.yaml"
#: Control characters but tabs and line breaks, and what stands for bytes that are not UTF-8.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def blocks(catalog: Catalog, runs: Sequence[RunFolder], mixed: bool = False) -> list[Block]:
    """The recipe of `runs` that differ in their seeds only, the command that trains them, and who did.

    Of `mixed` runs, which have no recipe in common, only the last.
    """
    stored = list(dict.fromkeys(line(command(run)) for run in runs))
    trained_by = Block("Trained by" if len(stored) == 1 else "Trained by one of", shown("\n".join(stored)))
    if mixed:
        return [trained_by]
    tail = "".join(f" --plugin {quote(plugin)}" for plugin in plugins_of(runs[0].record.provenance))
    seeds = sorted({run.record.facts["seed"] for run in runs})
    if len(seeds) == 1:
        train = f"fdfa train {FILE}{tail}"
    else:
        train = f"for seed in {' '.join(map(str, seeds))}; do fdfa train {FILE} --seed $seed{tail}; done"
    return [
        Block(f"Save this recipe as {FILE}", shown(catalog.recipe_text(runs[0]))),
        Block("and train it again", train),
        trained_by,
    ]


def command(run: RunFolder) -> list[str]:
    """The command line that created `run`; the program by its name, however it was started."""
    entry: dict[str, Any] = run.record.provenance[0] if run.record.provenance else {}
    return ["fdfa", *map(str, (entry.get("command") or ["fdfa"])[1:])]


def shown(text: str) -> str:
    """`text` to copy, letter by letter, but for control characters, which are escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def line(words: Sequence[str]) -> str:
    """A command to paste into a shell."""
    return " ".join(map(quote, words))
