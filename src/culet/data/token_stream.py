"""Raw text as one long row of tokens, cut into windows without padding.

A row of a file is {"text": …} with any other fields beside it. Texts are tokenized once, each
followed by the end token, and written one after another to a file that is mapped and never read
whole. Window i of an epoch begins i · length tokens after a start that each epoch moves, around
the end, so that in the long run every token stands everywhere in a window.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from culet.data.records import stream_records
from culet.errors import InputError
from culet.files.atomic import new_folder
from culet.files.fields import text_of
from culet.files.rows import read_rows
from culet.terminal.progress import Progress
from culet.text.tokenizer import TextTokenizer

_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class RawText:
    """One raw text.

    Attributes:
        text: The text.
        origin: "file:line", for messages.
    """

    text: str
    origin: str


def read_raw_texts(paths: Sequence[Path]) -> Iterator[RawText]:
    """Yield the texts of some files or folders, one at a time.

    Raises:
        InputError: If a row has no text; the message names file and line.
    """
    for row in read_rows(paths, columns=("text",)):
        yield RawText(text_of(row, "text"), row.origin)


def read_pair_texts(paths: Sequence[Path]) -> Iterator[RawText]:
    """Yield each training pair of some files as one text: the query, a line break, the positive.

    Raises:
        InputError: If a record is bad; the message names file and line.
    """
    for record, _ in stream_records(paths):
        yield RawText(f"{record.query}\n{record.positive}", record.origin)


class TokenStream:
    """The tokens of many texts, on disk.

    Args:
        folder: What `tokenize` has written.
    """

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "stream.json").read_text())
        self._files: list[str] = facts["files"]
        self._tokens = np.memmap(folder / "tokens.bin", dtype=np.uint32, mode="r")
        self._texts = np.load(folder / "texts.npy")  # T 3: first token, file, line

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def num_texts(self) -> int:
        """Return the number of texts."""
        return len(self._texts)

    def num_windows(self, length: int) -> int:
        """Return how many windows an epoch has; a stream shorter than one has one."""
        return max(1, len(self) // length)

    def window(self, index: int, length: int, *, start: int = 0) -> np.ndarray:
        """Return the tokens of a window, int64: `length` of them, or all where there are fewer."""
        length = min(length, len(self))
        first = (start + index * length) % len(self)
        part = np.asarray(self._tokens[first : first + length], dtype=np.int64)
        if len(part) < length:
            rest = np.asarray(self._tokens[: length - len(part)], dtype=np.int64)
            part = np.concatenate([part, rest])
        return part

    def origin(self, index: int, length: int, *, start: int = 0) -> str:
        """Return "file:line" of the text in which a window begins."""
        first = (start + index * min(length, len(self))) % len(self)
        row = int(np.searchsorted(self._texts[:, 0], first, side="right")) - 1
        _, file, line = self._texts[row]
        return f"{self._files[file]}:{line}"


def tokenize(
    texts: Callable[[], Iterator[RawText]],
    tokenizer: TextTokenizer,
    folder: Path,
    *,
    what: str = "tokenizing",
) -> TokenStream:
    """Return the stream of some texts; write it to `folder` unless it is there already.

    Args:
        texts: Gives the texts; not called where the stream is there.
        tokenizer: Its limit must not cut texts.
        folder: Whole or not there; the caller names it by what it holds.
        what: Label of the progress line.

    Raises:
        InputError: If there is no text, or one is bad.
    """
    if not folder.exists():
        with new_folder(folder) as aside:
            _write(texts(), tokenizer, aside, what)
    return TokenStream(folder)


def _write(texts: Iterator[RawText], tokenizer: TextTokenizer, folder: Path, what: str) -> None:
    files: dict[str, int] = {}
    rows: list[tuple[int, int, int]] = []
    position = 0
    with (folder / "tokens.bin").open("wb") as out, Progress(what, unit="texts", show=None) as bar:
        for block in _blocks(texts):
            encoded = tokenizer.encode([row.text for row in block], on_long="error")
            for row, ids in zip(block, encoded.ids, strict=True):
                bare = ids[1:].astype(np.uint32)  # the end token stays: it parts texts
                file, _, line = row.origin.rpartition(":")
                rows.append((position, files.setdefault(file, len(files)), int(line)))
                out.write(bare.tobytes())
                position += len(bare)
            bar.advance(len(block))
    if position < 2:
        raise InputError("expected texts to train on, got none; give files of {'text': …} rows")
    np.save(folder / "texts.npy", np.array(rows, dtype=np.int64))
    (folder / "stream.json").write_text(json.dumps({"files": list(files), "tokens": position}))


def _blocks(texts: Iterator[RawText]) -> Iterator[list[RawText]]:
    block: list[RawText] = []
    for row in texts:
        block.append(row)
        if len(block) == _TEXTS_AT_ONCE:
            yield block
            block = []
    if block:
        yield block
