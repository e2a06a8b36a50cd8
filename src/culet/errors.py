"""What culet raises when the world, not the code, is wrong.

CuletError
├── InputError        a text, a record, an argument or a file that cannot be used
├── CheckpointError   a model folder that cannot be trusted or read
├── RecipeError       a recipe with unknown, missing or contradictory settings
├── TrainingError     a run that had to stop (a loss that is not finite, a state that does not fit)
├── MissingExtra      an optional package that is not installed
└── (Interrupted, a KeyboardInterrupt: a run stopped by Ctrl-C after saving what it had)

Every message says what was expected, what came, and what to do. The command line prints it
without a traceback and exits with code 2.
"""

from __future__ import annotations


class CuletError(Exception):
    """The root of all errors a user of culet can cause and mend."""


class InputError(CuletError, ValueError):
    """A text, record, argument or file that cannot be used as given."""


class CheckpointError(CuletError):
    """A model folder whose files are missing, damaged or contradict each other."""


class RecipeError(CuletError):
    """A training recipe with unknown, missing or contradictory settings."""


class TrainingError(CuletError):
    """A run that stopped to protect what it had learnt so far."""


class MissingExtra(CuletError, ImportError):
    """An optional package that the call needs and that is not installed."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'culet[{extra}]'"
        )
        self.package = package
        self.extra = extra


class Interrupted(KeyboardInterrupt):
    """A long run that stopped when asked to, with what it had saved; it says how to go on."""
