"""What culet raises when the world, not the code, is wrong.

CuletError
├── InputError        a text, a record, an argument or a file that cannot be used
├── CheckpointError   a model folder that cannot be trusted or read
├── RecipeError       a recipe with unknown, missing or contradictory settings
├── TrainingError     a run that had to stop (a loss that is not finite, a state that does not fit)
├── MissingExtra      an optional package that is not installed
└── (Interrupted, a KeyboardInterrupt: a run that Ctrl-C stopped after it had saved its state)

Every message says what was expected, what was found, and what to do. The command line prints it
without a traceback and exits with code 2.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# What a package is installed as, where that is another name than it is imported by.
_INSTALLED_AS = {"sklearn": "scikit-learn", "sentence_transformers": "sentence-transformers"}


class CuletError(Exception):
    """The root of all errors that a user of culet can cause and fix."""


class InputError(CuletError, ValueError):
    """A text, record, argument or file that cannot be used as given."""


class CheckpointError(CuletError):
    """A model folder whose files are missing, damaged or contradict each other."""


class RecipeError(CuletError):
    """A training recipe with unknown, missing or contradictory settings."""


class TrainingError(CuletError):
    """A run that stopped to protect what it had learned so far."""


class MissingExtra(CuletError, ImportError):
    """An optional package that the call needs and that is not installed."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'culet[{extra}]'"
        )
        self.package = package
        self.extra = extra


def need(module: str, *, extra: str, purpose: str) -> Any:
    """Import and return a module that comes with an extra: a package's, or one of ours.

    Args:
        module: Its full name.
        extra: The extra of culet that installs it, or what it imports.
        purpose: What needs it, as the subject of a sentence.

    Raises:
        MissingExtra: If the module, or one that it imports, is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        if package == "culet":
            raise
        package = _INSTALLED_AS.get(package, package)
        raise MissingExtra(package, extra=extra, purpose=purpose) from error


class Interrupted(KeyboardInterrupt):
    """A long run that stopped when asked to; the message says what is saved and how to resume."""
