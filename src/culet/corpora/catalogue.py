"""Every corpus by its name."""

from __future__ import annotations

from culet.corpora.corpus import Corpus
from culet.corpora.sources.brace_code import CODE_DEBIAN, CODE_NPM
from culet.corpora.sources.debian_descriptions import DEBIAN_DESCRIPTIONS
from culet.corpora.sources.debian_facts import DEBIAN_FACTS
from culet.corpora.sources.desktop_help import DESKTOP_HELP
from culet.corpora.sources.gettext_catalogues import GETTEXT_CATALOGUES
from culet.corpora.sources.iso_codes import ISO_CODES
from culet.corpora.sources.libreoffice_help import LIBREOFFICE_HELP
from culet.corpora.sources.manpages import MANPAGES
from culet.corpora.sources.python_code import CODE_PYPI
from culet.corpora.sources.wordnet import WORDNET
from culet.corpora.sources.words import FREEDICT, THESAURI
from culet.errors import InputError

_ALL = (
    CODE_DEBIAN,
    CODE_NPM,
    CODE_PYPI,
    DEBIAN_DESCRIPTIONS,
    DEBIAN_FACTS,
    DESKTOP_HELP,
    FREEDICT,
    GETTEXT_CATALOGUES,
    ISO_CODES,
    LIBREOFFICE_HELP,
    MANPAGES,
    THESAURI,
    WORDNET,
)
CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in _ALL}


def find(name: str) -> Corpus:
    """Return the corpus of a name.

    Raises:
        InputError: When there is none; the message lists the known.
    """
    if name not in CORPORA:
        raise InputError(f"there is no corpus {name!r}; the known are {', '.join(CORPORA)}")
    return CORPORA[name]
