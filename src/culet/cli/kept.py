"""The verb `culet cache`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from culet.cli.options import JsonOption, print_json
from culet.terminal.lines import say


class Action(StrEnum):
    """What is done with the cache."""

    size = "size"
    clear = "clear"


def cache(
    action: Annotated[
        Action, typer.Argument(help="Show what it takes, or remove all of it.")
    ] = Action.size,
    as_json: JsonOption = False,
) -> None:
    """Show or clear what culet keeps and can make again: vectors, quantised and compiled models."""
    from culet.files.cache import cache_folder, clear_cache, kept_bytes
    from culet.terminal.tables import show_rows, size

    kept = kept_bytes()
    total = sum(kept.values())
    if action is Action.clear:
        clear_cache()
        if not as_json:
            say(f"removed {size(total)} from {cache_folder()}")
    if as_json:
        print_json({"folder": str(cache_folder()), "bytes": kept, "action": action.value})
    elif action is Action.size:
        rows = {name: size(count) for name, count in kept.items()}
        show_rows({"folder": str(cache_folder()), **rows, "total": size(total)}, Console())
