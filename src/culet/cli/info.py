"""The verb `culet info`."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer
from rich.console import Console

from culet.cli.options import JsonOption, print_json


def info(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            envvar="CULET_MODEL",
            help="An embedding model, a decoder (folder or .gguf) or an encoder-decoder. "
            "Default: the packaged model.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a checkpoint and show what it is."""
    from culet.checkpoints.recognize import read_any
    from culet.cli.description import facts_of, show_checkpoint
    from culet.loading import find_checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they are among the notes that are shown
        found = read_any(find_checkpoint(checkpoint))
    if as_json:
        print_json(facts_of(found))
    else:
        show_checkpoint(found, Console())
