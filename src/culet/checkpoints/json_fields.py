"""Checked values of a model's config: a number where a number must be, named where it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from culet.errors import CheckpointError


def table(raw: Mapping[str, Any], key: str, where: Path) -> Mapping[str, Any]:
    """Return the object under a key of a config, or an empty one."""
    value = raw.get(key) or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: {key} must be a JSON object, got {value!r}")
    return value


def number(raw: Mapping[str, Any], key: str, default: float, where: Path) -> float:
    """Return the positive number under a key of a config, or the default."""
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise CheckpointError(f"{where}: {key} must be a positive number, got {value!r}")
    return float(value)


def integer(raw: Mapping[str, Any], key: str, where: Path) -> int:
    """Return the whole number under a key of a config."""
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(f"{where}: {key} must be a whole number, got {value!r}")
    return value


def integers(raw: Mapping[str, Any], key: str, where: Path) -> tuple[int, ...]:
    """Return the list of whole numbers under a key of a config."""
    value = raw.get(key)
    if not isinstance(value, list) or any(type(item) is not int for item in value):
        raise CheckpointError(f"{where}: {key} must be a list of whole numbers, got {value!r:.200}")
    return tuple(value)


def optional_number(raw: Mapping[str, Any], key: str, where: Path) -> float | None:
    """Return the positive number under a key of a config, or None where there is none."""
    return None if raw.get(key) is None else number(raw, key, 0.0, where)
