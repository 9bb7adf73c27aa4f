"""What `import fdfa_cli` offers, and what the command line calls.

recipes     `load`: a recipe from a file, a shipped name, a mapping or another recipe
trainings   `train`, `resume`
studies     `sweep`, `compare`
stored      `Run`, `runs`: what is stored, read back
"""

from fdfa_cli.api.recipes import Source, load
from fdfa_cli.api.stored import Run, Runs, runs
from fdfa_cli.api.studies import Comparison, Sweep, compare, sweep
from fdfa_cli.api.trainings import resume, train

__all__ = [
    "Comparison",
    "Run",
    "Runs",
    "Source",
    "Sweep",
    "compare",
    "load",
    "resume",
    "runs",
    "sweep",
    "train",
]
