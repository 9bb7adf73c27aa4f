"""Entry point: `fdfa` and `python -m fdfa_cli`.

What is set up for the whole process is set up here and nowhere else: standard streams, signals, the garbage
collector, and how torch's threads wait. Whoever imports the package keeps their own.
"""

import gc
import os
import sys

from fdfa_cli import lazy, output, signals
from fdfa_cli.errors import Interrupted


def main() -> None:
    """Run the command line and exit with its code."""
    prepare()
    try:
        with signals.interrupting():
            from fdfa_cli.cli import run

            code = run()
    except Interrupted as error:  # before or after what `run` does
        print(f"fdfa: {error}", file=sys.stderr)
        code = error.exit_code
    signals.ignore()  # only the exit code is left to give
    # The process ends: to look for cycles in what is left would take 0.07 s. Modules in C++ that were bound
    # by nanobind, as triton is, would complain of it at length.
    if "triton" in sys.modules:
        gc.unfreeze()
    else:
        gc.freeze()
    sys.exit(code)


def prepare() -> None:
    """Set this process up, before torch is loaded; its worker processes inherit the environment."""
    output.prepare()
    set_thread_waiting()
    lazy.around_import = lazy.uncollected


def set_thread_waiting() -> None:
    """Let an idle thread of torch's look for work for some 0.5 ms in place of 10 before it sleeps.

    So others may have its core (see `fdfa_cli.network.kernels.nnpack`). Read when torch is loaded.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


if __name__ == "__main__":
    main()
