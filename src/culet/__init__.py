"""culet: a Gemma-style decoder becomes a small, fast text-embedding model, and runs.

>>> import culet
>>> embedder = culet.load()                       # the model that ships with the package
>>> documents = embedder.encode_document(["Paris is the capital of France."])
>>> query = embedder.encode_query("Which city is France governed from?")
>>> embedder.similarity(query, documents).shape
(1, 1)

Nothing heavy happens at import: names below are fetched when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from culet.embedder import Embedder
    from culet.errors import (
        CheckpointError,
        CuletError,
        InputError,
        MissingExtra,
        RecipeError,
        TrainingError,
    )
    from culet.loading import load

_HOME = {
    "Embedder": "culet.embedder",
    "load": "culet.loading",
    "CuletError": "culet.errors",
    "InputError": "culet.errors",
    "CheckpointError": "culet.errors",
    "RecipeError": "culet.errors",
    "TrainingError": "culet.errors",
    "MissingExtra": "culet.errors",
}
__all__ = [
    "CheckpointError",
    "CuletError",
    "Embedder",
    "InputError",
    "MissingExtra",
    "RecipeError",
    "TrainingError",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562), so that `import culet` stays cheap."""
    if name not in _HOME:
        raise AttributeError(f"module 'culet' has no attribute {name!r}; it has {sorted(_HOME)}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, fetched or not."""
    return sorted([*globals(), *_HOME])
