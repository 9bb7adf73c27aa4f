"""Entry point: `fdfa` and `python -m fdfa_cli`."""

import gc
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from fdfa_cli.cli import run

    code = run()
    gc.freeze()  # the process ends: to look for cycles in what is left would take 0.07 s
    sys.exit(code)


if __name__ == "__main__":
    main()
