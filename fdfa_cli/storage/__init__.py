"""The store: one training, one folder, one writer; JSON that a person can read.

    results/20260102T030405Z-mnist-mlp-fdfa-1a2b3c4d/
      recipe.yaml     the resolved recipe, which can be given back to `fdfa train`
      run.json        `Record`: status, error, what was trained, summary, provenance
      metrics.jsonl   a line an epoch; locked by the process that writes the run
      checkpoint.pt   see `fdfa_cli.training.checkpoint`

A folder appears under its name complete or not at all. A run whose process was killed says "running" in
its run.json for ever; the lock ends with the process, so such a run is read as interrupted.
Nothing here imports torch.
"""

from fdfa_cli.storage.files import atomic_write, foreign_folder
from fdfa_cli.storage.record import STATUSES, Record, Status, summarise
from fdfa_cli.storage.run import Run, iter_metrics
from fdfa_cli.storage.scan import Scan, by_identity, scan

__all__ = [
    "STATUSES",
    "Record",
    "Run",
    "Scan",
    "Status",
    "atomic_write",
    "by_identity",
    "foreign_folder",
    "iter_metrics",
    "scan",
    "summarise",
]
