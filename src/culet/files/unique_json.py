"""JSON in which no object has two values of one name, of which Python would keep the last."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: If it is no JSON, or an object in it has a name twice.
        RecursionError: If it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"an object has {repeated([name for name, _ in pairs])!r} twice; keep one")
    return value


def repeated(names: list[str]) -> str | None:
    """Return the first name that a list has twice, None if there is none."""
    return next((name for i, name in enumerate(names) if name in names[:i]), None)
