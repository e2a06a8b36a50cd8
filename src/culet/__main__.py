"""The command `culet`, also `python -m culet`: light, so that Ctrl-C is handled from the start."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly even while it is still being imported."""
    # OpenMP reads it as it is loaded, with torch. By default its threads spin while they wait for
    # one another: beside another busy process they then mostly take time from each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        from culet.cli.main import main as run
    except KeyboardInterrupt:
        print("culet: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
