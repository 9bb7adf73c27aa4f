"""Entry point: `fdfa` and `python -m fdfa_cli`."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from fdfa_cli.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
