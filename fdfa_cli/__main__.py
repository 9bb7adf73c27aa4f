"""Entry point: `fdfa` and `python -m fdfa_cli`."""

import gc
import sys

from fdfa_cli import output, signals
from fdfa_cli.errors import Interrupted


def main() -> None:
    """Run the command line and exit with its code."""
    output.prepare()
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


if __name__ == "__main__":
    main()
