"""A stream of texts → a file of vectors, in bounded memory: the work of `culet embed`.

Texts are embedded batch by batch, in their order, while another thread tokenizes the next batch.
Where an interrupted run has left rows, the job skips the texts that are done.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from culet.architecture.embedding_config import check_width
from culet.files.texts import TextRow
from culet.terminal.progress import Progress
from culet.terminal.tables import counted
from culet.text.inputs import windows

if TYPE_CHECKING:
    from culet.bulk.output import EmbeddingWriter
    from culet.embedder import Embedder, Prepared

BATCH_TEXTS = 512  # enough to sort by length, few enough for the bar to move on a slow machine


@dataclass(frozen=True)
class EmbedSettings:
    """How texts become vectors.

    Attributes:
        side: "document" makes use of titles, "query" of `task`.
        task: The task of queries.
        truncate_to: A trained width; None means the full one.
        on_long: What happens to a text longer than the model reads.
    """

    side: Literal["query", "document"] = "document"
    task: str = "search"
    truncate_to: int | None = None
    on_long: Literal["truncate", "error"] = "truncate"

    def check(self, embedder: Embedder) -> None:
        """Raise InputError for a task or a width that the model does not have."""
        if self.side == "query":
            embedder.prompts.query(self.task)
        if self.truncate_to is not None:
            check_width(self.truncate_to, embedder.widths)


def embed_to_file(
    embedder: Embedder,
    rows: Iterable[TextRow],
    writer: EmbeddingWriter,
    settings: EmbedSettings,
    *,
    total: int | None = None,
    progress: bool | None = None,
    report: Callable[[str], None],
) -> None:
    """Embed rows into a file, after those an interrupted run has left in it.

    Args:
        embedder: The model.
        rows: All rows of the input.
        writer: The file, not yet begun.
        settings: How texts become vectors.
        total: How many rows there are, if known.
        progress: True shows it, False never, None once it takes a while.
        report: Receives sentences on what was found, kept and written.

    Raises:
        InputError: As `embed_rows` and `EmbeddingWriter` do.
    """
    settings.check(embedder)
    width = settings.truncate_to or embedder.dim
    writer.begin(
        width,
        {
            "model": embedder.fingerprint,
            "precision": embedder.precision,
            "side": settings.side,
            "task": settings.task,
            "on_long": settings.on_long,
        },
    )
    rest = writer.rest(rows)
    if writer.num_rows:
        report(f"culet: going on after {counted(writer.num_rows, 'vectors')} in {writer.part}")
    elif writer.resume:
        report(f"culet: there is nothing to resume in {writer.part}; beginning")
    first = writer.num_rows
    try:
        with writer:
            embed_rows(
                embedder, rest, writer.write, settings, first=first, total=total, progress=progress
            )
    finally:
        if writer.kept is not None:
            kept = f"culet: the first {writer.num_rows:,} vectors are kept in {writer.kept}"
            report(f"{kept}; --resume goes on after them" if writer.can_resume else kept)
    report(f"{counted(writer.num_rows, 'vectors')} of {width} numbers in {writer.path}")


def embed_rows(
    embedder: Embedder,
    rows: Iterable[TextRow],
    write: Callable[[list[TextRow], np.ndarray], None],
    settings: EmbedSettings = EmbedSettings(),
    *,
    first: int = 0,
    total: int | None = None,
    progress: bool | None = None,
) -> int:
    """Embed rows in their order, hand each batch to `write`, and return how many there were.

    Rows are taken on the caller's thread; another one tokenizes a batch ahead.

    Args:
        embedder: The model.
        rows: From `read_texts`.
        write: `EmbeddingWriter.write`, or anything that takes rows and vectors [B, M].
        settings: How texts become vectors.
        first: The number of the first row, where earlier ones are done already.
        total: How many rows there are, those included, if known.
        progress: True shows it, False never, None once it takes a while.

    Raises:
        InputError: Before the first row: an unknown task, an untrained width. Later: a text that
            cannot be embedded, named by its number.
    """
    settings.check(embedder)
    on_long = settings.on_long

    def prepare(batch: list[TextRow], number: int) -> tuple[list[TextRow], Prepared]:
        texts = [row.text for row in batch]
        if settings.side == "query":
            task = settings.task
            return batch, embedder.prepare_query(texts, task=task, on_long=on_long, first=number)
        titles = [row.title for row in batch]
        return batch, embedder.prepare_document(texts, titles=titles, on_long=on_long, first=number)

    done = 0
    with (
        Progress("embedding", total=total, unit="texts", done=first, show=progress) as bar,
        closing(windows(rows, prepare, BATCH_TEXTS, first=first)) as ahead,
    ):
        for batch, tokens in ahead:
            if tokens.note and progress is False:
                warnings.warn(tokens.note, UserWarning, stacklevel=2)
            elif tokens.note:
                bar.note(f"warning: {tokens.note}")
            write(batch, embedder.embed(tokens, truncate_to=settings.truncate_to, bar=bar))
            done += len(batch)
    return done
