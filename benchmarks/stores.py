"""Folders of many stored runs, made without training: what `report` and `compare` have to read."""

from __future__ import annotations

import os
from pathlib import Path

from fdfa_cli.comparisons.plan import plan_comparison
from fdfa_cli.document.load import Place, load
from fdfa_cli.recipe.overrides import assign
from fdfa_cli.recipe.shipped import find
from fdfa_cli.recipe.write import dump, facts
from fdfa_cli.storage import RunFolder
from fdfa_cli.trials.runner import folder_of

RECIPE = "digits/mlp"
RULES = ("bp", "dfa")
EPOCHS = 10
#: What every epoch and every run's end have in common.
ROW = {
    "train_loss": 0.1,
    "train_accuracy": 0.9,
    "lr": 1e-3,
    "train_seconds": 0.1,
    "val_loss": 0.2,
    "eval_seconds": 0.01,
}
END = {"best_val_epoch": EPOCHS, "test_loss": 0.2, "peak_memory_bytes": 10**8, "median_epoch_seconds": 0.1}


def comparison(results: Path, runs: int) -> list[str]:
    """Store all `runs` of a comparison of two rules under `results`; returns the command that shows it."""
    seeds = runs // len(RULES)
    document = assign(load(find(RECIPE)), ("compare", "rules"), list(RULES), Place("benchmark"))
    plan = plan_comparison(assign(document, ("compare", "seeds"), seeds, Place("benchmark")), RECIPE)
    folder = folder_of(plan.base, Path(RECIPE).stem, "compare", results)
    environment = {"device": "cpu", "threads": 1, "workers": 1}
    sync, os.fsync = os.fsync, lambda handle: None  # a power cut may take them
    try:
        for number, trial in enumerate(plan.trials):
            recipe = trial.recipe
            with RunFolder.create(folder, dump(recipe), facts(recipe), ["fdfa"], environment) as run:
                accuracy = 0.5 + 1e-4 * (number % 97)
                for epoch in range(1, EPOCHS + 1):
                    accuracy += 0.04
                    run.append({"epoch": epoch, **ROW, "val_accuracy": accuracy})
                run.update("completed", test_accuracy=accuracy, best_val_accuracy=accuracy, **END)
                run.checkpoint.touch()
    finally:
        os.fsync = sync
    return ["compare", RECIPE, "--rules", ",".join(RULES), "--seeds", str(seeds), "--results", str(results)]
