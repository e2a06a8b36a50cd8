"""Where culet keeps what it can make again: vectors of searched folders, quantised weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return the user's cache folder for culet: $XDG_CACHE_HOME/culet or ~/.cache/culet."""
    stated = os.environ.get("XDG_CACHE_HOME")
    if not stated and sys.platform == "win32":
        stated = os.environ.get("LOCALAPPDATA")
    return (Path(stated) if stated else Path.home() / ".cache") / "culet"
