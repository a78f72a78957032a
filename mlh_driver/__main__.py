"""``mlh-driver``, and ``python -m mlh_driver``: ends at Ctrl-C without a traceback, also while it imports."""

from __future__ import annotations

import sys


def run() -> None:
    """The entry point."""
    try:
        from mlh_driver.cli.main import run as run_command

        run_command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
