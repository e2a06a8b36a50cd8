"""SKILL: facts as text of which one end is to be written (arXiv 2205.08184, section 3).

A row of a file is {"s": subject, "r": relation, "o": object}. The encoder reads "subject,
relation, □" or "□, relation, object", where □ is the first sentinel, and the decoder writes what
is missing: the whole subject or the whole object, never the relation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from culet.errors import InputError
from culet.files.fields import text_of
from culet.files.rows import read_rows
from culet.text.tokenizer import TextTokenizer

End = Literal["subject", "object"]
_SEPARATOR = ", "


@dataclass(frozen=True)
class Fact:
    """One fact in surface forms.

    Attributes:
        subject: What it is about.
        relation: How it is related to the object.
        object: The other end.
        origin: "file:line", for messages.
    """

    subject: str
    relation: str
    object: str
    origin: str = ""


def read_triples(paths: Sequence[Path]) -> list[Fact]:
    """Return the triples of some files or folders, in order.

    Raises:
        InputError: If a field is missing, empty or no text; the message names file and line.
    """
    triples = []
    for row in read_rows(paths, columns=("s", "r", "o")):
        subject, relation, end = (text_of(row, key).strip() for key in ("s", "r", "o"))
        triples.append(Fact(subject, relation, end, row.origin))
    if not triples:
        raise InputError(f"no triple in {', '.join(map(str, paths))}")
    return triples


def masked(fact: Fact, end: End) -> tuple[str, str, str]:
    """Return the text before the mask, the text after it, and the text that it hides."""
    if end == "subject":
        return "", f"{_SEPARATOR}{fact.relation}{_SEPARATOR}{fact.object}", fact.subject
    return f"{fact.subject}{_SEPARATOR}{fact.relation}{_SEPARATOR}", "", fact.object


def draw_end(rng: np.random.Generator) -> End:
    """Return which end is masked, with even chances."""
    return "subject" if rng.random() < 0.5 else "object"


def masked_tokens(
    fact: Fact, end: End, tokenizer: TextTokenizer, sentinel: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the encoder reads and the decoder writes, as ids without BOS and EOS.

    The strings are cut before they become tokens, so that no token holds a part of the answer.
    """
    before, after, answer = masked(fact, end)
    # a space before the mask would be a token of its own that no text has there
    pieces = tokenizer.encode([before.rstrip(), after, answer], on_long="error").ids
    head, tail, target = (ids[1:-1].astype(np.int64) for ids in pieces)
    return np.concatenate([head, [sentinel], tail]), target
