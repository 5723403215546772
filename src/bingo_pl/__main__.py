"""Where the command ``bingo`` starts: the imports take seconds, and Ctrl-C may come meanwhile."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command ``bingo``."""
    try:
        from bingo_pl.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("stopped by Ctrl-C.\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
