"""The command `culet`, also as `python -m culet`: light, so that Ctrl-C is heard from the start."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it quietly too."""
    try:
        from culet.cli.main import main as run
    except KeyboardInterrupt:
        print("culet: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
