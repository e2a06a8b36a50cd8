"""The verb `culet embed`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from culet.cli.options import (
    TEXT_FILE,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    QuietOption,
    TaskOption,
    ThreadsOption,
    WidthOption,
    given_text,
    load_model,
    write_json,
)
from culet.errors import InputError
from culet.terminal.lines import complain, say

if TYPE_CHECKING:
    from culet.bulk.output import EmbeddingWriter
    from culet.files.texts import TextRow


class OnLong(StrEnum):
    """What happens to a text longer than the model reads."""

    truncate = "truncate"
    error = "error"


def embed(
    source: Annotated[str | None, typer.Argument(metavar="INPUT", help=TEXT_FILE)] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="A text itself; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=".npy, .jsonl or .parquet. Default: JSONL to stdout."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after what an interrupted run has left.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, whatever an interrupted run has left.")
    ] = False,
    model: ModelOption = None,
    query: Annotated[bool, typer.Option("--query", help="The texts are queries.")] = False,
    document: Annotated[
        bool, typer.Option("--document", help="The texts are documents (the default).")
    ] = False,
    task: TaskOption = None,
    field: Annotated[
        str | None, typer.Option(help="Field or column that holds the text. Default: text.")
    ] = None,
    titles_field: Annotated[
        str | None, typer.Option(help="Field or column that holds the title.")
    ] = None,
    truncate_to: WidthOption = None,
    on_long: Annotated[
        OnLong, typer.Option(help="Cut over-long texts and say so, or stop.")
    ] = OnLong.truncate,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out bad rows, each with a line that says why.")
    ] = False,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Turn texts into vectors, in their order."""
    from culet.bulk.job import EmbedSettings, embed_rows, embed_to_file
    from culet.files.texts import count_texts

    side = _side(query, document, task)
    rows = _rows(source, text, field, titles_field, side, skip_bad)
    writer = _writer(out, source, resume, overwrite)
    total = len(text or ()) if source is None else count_texts(source)
    settings = EmbedSettings(side, task or "search", truncate_to, on_long.value)
    embedder = load_model(model, device, precision, threads)
    show = False if quiet else None
    if writer is None:
        embed_rows(embedder, rows, _to_stdout, settings, total=total, progress=show)
    else:
        embed_to_file(embedder, rows, writer, settings, total=total, progress=show, report=say)


def _side(query: bool, document: bool, task: str | None) -> Literal["query", "document"]:
    if query and document:
        raise InputError("--query and --document exclude each other; give one")
    if document and task:
        raise InputError("--task is the task of a query; it has no meaning with --document")
    return "query" if query or task else "document"


def _rows(
    source: str | None,
    text: list[str] | None,
    field: str | None,
    titles_field: str | None,
    side: str,
    skip_bad: bool,
) -> Iterator[TextRow]:
    """Return the rows of the input; refuse options that have no meaning for it."""
    from culet.files.texts import TextRow, read_texts

    if (source is None) == (not text):
        raise InputError("give either an INPUT (a file, or - for stdin) or --text, and not both")
    if titles_field is not None and side == "query":
        raise InputError("--titles-field is of documents; queries have no titles")
    if source is None:
        plain = "--text"
    elif source == "-":
        plain = "standard input"
    else:
        name = source.lower().removesuffix(".gz")
        plain = source if name.endswith(".txt") else ""
    given = [
        option
        for option, value in (("--field", field), ("--titles-field", titles_field))
        if value is not None
    ]
    if plain and given:
        raise InputError(
            f"{' and '.join(given)} cannot be used with {plain}, which has plain texts without "
            "fields; a .jsonl, .csv, .tsv or .parquet has fields"
        )
    if source is None:
        return iter([TextRow(given_text(item)) for item in text or ()])
    rows = partial(read_texts, source, field=field or "text", titles_field=titles_field)
    return rows(on_bad=lambda error: complain(f"left out: {error}")) if skip_bad else rows()


def _writer(
    out: Path | None, source: str | None, resume: bool, overwrite: bool
) -> EmbeddingWriter | None:
    """Return the writer of --out, or None where vectors go to standard output."""
    from culet.bulk.output import EmbeddingWriter

    if out is None:
        if resume or overwrite:
            raise InputError("--resume and --overwrite are about the file of --out; give one")
        return None
    if source not in (None, "-") and out.exists() and out.samefile(source):
        raise InputError(f"{out} is the input itself; give --out another name")
    return EmbeddingWriter(out, resume=resume, overwrite=overwrite)


def _to_stdout(batch: list[TextRow], embedding: Any) -> None:
    from culet.files.vectors import json_lines

    for line in json_lines(batch, embedding):
        write_json(line)
    sys.stdout.flush()
