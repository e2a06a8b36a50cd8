"""Every corpus by its name."""

from __future__ import annotations

from culet.corpora.corpus import Corpus
from culet.corpora.sources.iso_codes import ISO_CODES
from culet.corpora.sources.wordnet import WORDNET
from culet.errors import InputError

CORPORA = {corpus.name: corpus for corpus in sorted((ISO_CODES, WORDNET), key=lambda c: c.name)}


def find(name: str) -> Corpus:
    """Return the corpus of a name.

    Raises:
        InputError: When there is none; the message lists the known.
    """
    if name not in CORPORA:
        raise InputError(f"there is no corpus {name!r}; the known are {', '.join(CORPORA)}")
    return CORPORA[name]
