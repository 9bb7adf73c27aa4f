"""The store of runs: each training has one folder and one writer, and its files are JSON and YAML to read.

    results/20260102T030405Z-mnist-mlp-fdfa-1a2b3c4d/
      recipe.yaml     the resolved recipe, which can be given back to `fdfa train`
      run.json        `Record`: status, error, what was trained, summary, provenance
      metrics.jsonl   a line an epoch; locked by the process that writes the run
      checkpoint.pt   see `fdfa_cli.training.checkpoint`

A folder gets its name only when it is complete. A run whose process was killed keeps the status "running" in
its run.json; its lock has ended with the process, so it is read as interrupted.
Nothing here imports torch.
"""

from fdfa_cli.storage.files import atomic_write, foreign_folder
from fdfa_cli.storage.record import STATUSES, Record, Status, summarise
from fdfa_cli.storage.run import RunFolder, iter_metrics
from fdfa_cli.storage.scan import Scan, by_identity, scan

__all__ = [
    "STATUSES",
    "Record",
    "RunFolder",
    "Scan",
    "Status",
    "atomic_write",
    "by_identity",
    "foreign_folder",
    "iter_metrics",
    "scan",
    "summarise",
]
