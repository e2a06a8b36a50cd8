"""Addresses and settings as messages show them: without what opens a door."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def masked(url: str) -> str:
    """Return a URL without its secrets: user and password, and each value in its query."""
    login = "(//).*@" if "//" in url else "(^).*@"  # a password may hold any sign but @
    url = re.sub(login, r"\1***@", url, flags=re.DOTALL)
    address, mark, query = re.split("([?#]|$)", url, maxsplit=1)
    names = (part.partition("=") for part in query.split("&")) if mark else ()
    return address + mark + "&".join(name + "=***" if eq else "***" for name, eq, _ in names)


def shown(value: Any) -> str:
    """Return the repr of a setting in which the secrets of every address are masked."""
    return repr(_masked(value))


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value) if re.search("//|:.*@", value, re.DOTALL) else value
    if isinstance(value, Mapping):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_masked, value))
    return value
