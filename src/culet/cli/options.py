"""Options and answers that several verbs share."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from culet.terminal.lines import set_level, visible_json

if TYPE_CHECKING:
    from culet.embedder import Embedder

# How Python spells bytes of an argument that the encoding of the locale does not have.
_UNDECODED = frozenset(map(chr, range(0xDC80, 0xDD00)))

TEXT_FILE = "A file (.txt: one text a line, .jsonl, .csv, .tsv, .parquet), or - for stdin."

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="CULET_MODEL",
        help="Checkpoint folder or hub id. Default: the packaged model.",
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or mps. Default: the best one.")]
PrecisionOption = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16, int8 or int4. Default: the best of the device."),
]
ThreadsOption = Annotated[
    int | None, typer.Option(envvar="CULET_THREADS", help="CPU threads. Default: one a core.")
]
WidthOption = Annotated[
    int | None, typer.Option("--truncate-to", help="A trained width. Default: the full one.")
]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", help="Task of the query: search, similarity, classification, code, …"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _quiet(quiet: bool) -> bool:
    if quiet:
        set_level(-1)
    return quiet


QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=_quiet, help="Say nothing but errors and warnings."),
]


def load_model(
    model: str | None, device: str | None, precision: str | None, threads: int | None
) -> Embedder:
    """Load the model that the options name."""
    from culet.loading import load

    return load(model, device=device, precision=precision, threads=threads)


def print_json(value: Any) -> None:
    """Print a result as indented JSON."""
    write_json(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_json(text: str) -> None:
    """Write JSON to standard output, escaped where a terminal or the encoding asks for it."""
    sys.stdout.write(visible_json(text, sys.stdout.encoding))


def given_text(text: str) -> str:
    """Return a text of the command line; where the locale has no UTF-8, its bytes are UTF-8."""
    try:
        return os.fsencode(text).decode("utf-8") if not _UNDECODED.isdisjoint(text) else text
    except UnicodeError:
        return text  # refused where it is embedded
