"""What `import fdfa_cli` offers, and what the command line calls.

recipes     `load`: a recipe from a file, a shipped name, a mapping or a run
trainings   `train`, `resume`
stored      `Run`, `runs`: what is stored, read back
"""

from fdfa_cli.api.recipes import load
from fdfa_cli.api.stored import Run
from fdfa_cli.api.trainings import resume, train

__all__ = ["Run", "load", "resume", "train"]
