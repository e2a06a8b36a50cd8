"""Message catalogues of programs: sentences of user interfaces and their translations.

Short texts, but in more languages than any other source has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from culet.corpora.corpus import Corpus
from culet.corpora.readers.gettext_mo import messages
from culet.corpora.readers.packages import Package
from culet.corpora.rows import ENGLISH, Pair, Row
from culet.corpora.tidy import language

_PATH = re.compile(r"usr/share/(?:locale(?:-langpack)?)/([^/]+)/LC_MESSAGES/[^/]+\.mo")
_MAX_ROWS = 4000  # of a package and language
_MAX_PLACEHOLDERS = 1
_PLACEHOLDER = re.compile(
    r"%(?:\d++\$)?[-+ #0]*+[\d.*]*+(?:hh|h|ll|l|z|j)?[A-Za-z]|%\d|\$\{?\w+\}?"
)
# Accelerator keys: "_Open", "&Open"; in translations anywhere in a word, or "(_O)" at its end.
_ACCELERATOR = re.compile(r"(?<![\w&])[_&](?=\w)")
_LATIN_KEY = re.compile(r"(?<!\s)\s*+\([_&]\w\)")
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,80}>")
# Names and addresses of translators stand in catalogues as messages of their own.
_PERSONS = re.compile(r"@|translator-credits|your (?:names|emails)|of translators", re.IGNORECASE)

_PACKAGES = (
    "aptitude-common bash cinnamon-l10n claws-mail-i18n coreutils darktable diffutils dolphin dpkg "
    "evince-common evolution-common file-roller findutils gedit-common gettext gimp-data "
    "gnome-control-center-data gnome-shell-common gnucash-common gnumeric-common gparted-common "
    "grep inkscape kate5-data kmymoney-common konsole krita-l10n libc-l10n libgtk-3-common "
    "nano nautilus-data network-manager okular plasma-workspace-data rhythmbox-data sed "
    "shotwell-common tar thunar-data tuxpaint-data vlc-l10n wget"
)


def _read(package: Package) -> Iterator[Row]:
    counts: Counter[str] = Counter()
    for name, data in package.members(lambda path: _PATH.fullmatch(path) is not None):
        match = _PATH.fullmatch(name)
        lang = language(match[1]) if match else ENGLISH
        if lang.partition("-")[0] == ENGLISH:
            continue
        for english, translation in messages(data):
            if counts[lang] < _MAX_ROWS and (pair := _pair(english, translation, lang)):
                counts[lang] += 1
                yield pair


def _pair(english: str, translation: str, lang: str) -> Pair | None:
    if _PERSONS.search(english) or len(_PLACEHOLDER.findall(english)) > _MAX_PLACEHOLDERS:
        return None
    marks = _ACCELERATOR.findall(english)
    if len(marks) == 1:
        english = _ACCELERATOR.sub("", english)
        translation = _LATIN_KEY.sub("", translation).replace(marks[0], "", 1)
    query, positive = _TAG.sub("", english), _TAG.sub("", translation)
    return Pair(query, positive, f"{ENGLISH}-{lang}", "messages")


GETTEXT_CATALOGUES = Corpus(
    name="gettext-catalogues",
    about="Sentences of user interfaces and their translations, about 100 languages.",
    licence="GPL-2+, LGPL, MPL-2.0 and others, per package",
    kind="deb",
    packages=tuple(_PACKAGES.split()),
    read=_read,
    lowest_query=3,
)
