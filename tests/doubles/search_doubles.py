"""Objectives of a mixture search whose best mixture is known; importable by other processes."""

from __future__ import annotations

import itertools
import math
import os
import signal
import time
from pathlib import Path

from culet.stages.trials import Attempt

GAINS = {"help": 0.9, "code": 0.5, "words": 0.25}
# Σ gain·√share is largest where shares are as the squares of the gains (Cauchy and Schwarz).
BEST = math.sqrt(sum(gain**2 for gain in GAINS.values()))


def diminishing(attempt: Attempt) -> float:
    """Each source helps, the less the more there is of it."""
    return sum(gain * math.sqrt(attempt.shares[name]) for name, gain in GAINS.items())


def counted(attempt: Attempt) -> float:
    """The same, and a file that says which process tried it."""
    folder = Path(os.environ["CULET_TEST_FOLDER"])
    attempt.folder.mkdir(parents=True)
    (attempt.folder / "weights").write_text("heavy")
    time.sleep(0.05)
    (folder / f"{attempt.folder.name}-{os.getpid()}").touch()
    return diminishing(attempt)


def endless(attempt: Attempt) -> float:
    """Never end, and say in a file of this process how often it has counted."""
    file = Path(os.environ["CULET_TEST_FOLDER"]) / str(os.getpid())
    for number in itertools.count():
        file.write_text(str(number))
        time.sleep(0.05)
    return 0.0


def broken(attempt: Attempt) -> float:
    """Fail on the way."""
    raise ValueError("no such task")


def killed(attempt: Attempt) -> float:
    """End the process as a kill -9 does, at the third mixture."""
    folder = Path(os.environ["CULET_TEST_FOLDER"])
    (folder / attempt.folder.name).touch()
    if len(list(folder.iterdir())) == 3 and not (folder.parent / "killed").exists():
        (folder.parent / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return diminishing(attempt)
