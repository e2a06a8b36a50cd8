"""Words: dictionaries between languages (FreeDict) and thesauri (MyThes)."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from culet.corpora.corpus import Corpus
from culet.corpora.readers.archives import gunzip
from culet.corpora.readers.packages import Package
from culet.corpora.rows import Pair, Row, Triple
from culet.corpora.tidy import language

_MAX_ENTRIES = 60_000  # of a dictionary
_DICTIONARY_BYTES = 256 << 20
_DIGITS = {char: n for n, char in enumerate(string.ascii_letters[26:] + string.ascii_letters[:26])}
_DIGITS |= {char: 52 + n for n, char in enumerate("0123456789+/")}
# ISO 639-3 to the codes in rows.
_CODES = {
    "afr": "af", "ara": "ar", "bul": "bg", "cat": "ca", "ces": "cs", "cym": "cy", "dan": "da",
    "deu": "de", "ell": "el", "eng": "en", "fin": "fi", "fra": "fr", "gle": "ga", "hrv": "hr",
    "hun": "hu", "ind": "id", "isl": "is", "ita": "it", "jpn": "ja", "lat": "la", "lit": "lt",
    "nld": "nl", "nor": "no", "pol": "pl", "por": "pt", "rus": "ru", "slk": "sk", "slv": "sl",
    "spa": "es", "srp": "sr", "swe": "sv", "swh": "sw", "tur": "tr",
}  # fmt: skip
_DICTIONARIES = (
    "afr-eng ara-eng ces-eng dan-eng deu-eng deu-fra deu-pol deu-rus deu-spa deu-swe ell-eng "
    "eng-ara eng-bul eng-ces eng-deu eng-ell eng-fin eng-fra eng-hun eng-ind eng-ita eng-jpn "
    "eng-nld eng-pol eng-por eng-rus eng-spa eng-swe eng-tur fin-eng fra-deu fra-eng fra-ita "
    "fra-rus fra-spa hun-eng isl-eng ita-deu ita-eng ita-jpn jpn-eng lit-eng nld-eng pol-eng "
    "pol-rus por-eng slk-eng slv-eng spa-deu spa-eng spa-por swe-eng swe-fin swh-eng tur-eng"
)
_NOISE = re.compile(r"/[^/\n]*/|<[^<>\n]*>|\[[^\[\]\n]*\]|\{[^{}\n]*\}")
_NOTE = re.compile(r"\s*(?:Note|Synonyms?|see|Example)s?:", re.IGNORECASE)


def _read_dictionary(package: Package) -> Iterator[Row]:
    source, _, target = package.name.rpartition("freedict-")[2].partition("-")
    lang = f"{_CODES.get(source, source)}-{_CODES.get(target, target)}"
    index = texts = b""
    for name, data in package.members(lambda name: name.endswith((".index", ".dict.dz"))):
        if name.endswith(".index"):
            index = data
        else:
            texts = gunzip(data, _DICTIONARY_BYTES)
    places: set[tuple[int, int]] = set()
    for line in index.decode("utf-8", "replace").split("\n"):
        word, *place = line.split("\t")
        if len(place) == 2 and not word.startswith("00"):
            places.add((_number(place[0]), _number(place[1])))
    for start, length in sorted(places)[:_MAX_ENTRIES]:
        entry = texts[start : start + length].decode("utf-8", "replace")
        head, _, rest = entry.partition("\n")
        meanings = (line for line in rest.split("\n") if line.strip() and not _NOTE.match(line))
        word, meaning = _plain(head), _plain(next(meanings, ""))
        if word and meaning and len(word) <= 80:
            yield Pair(word, meaning, lang, "dictionary")


def _number(digits: str) -> int:
    """Return the value of a number as dictd writes it, in base 64."""
    value = 0
    for digit in digits.strip():
        value = value * 64 + _DIGITS[digit]
    return value


def _plain(line: str) -> str:
    line = re.sub(r"^\s*\d+\.\s*", "", _NOISE.sub(" ", line))
    return re.sub(r"\s+([,;])", r"\1", " ".join(line.split())).strip(" ,;")


_THESAURI = "cs da de en-us es fr gl hu id is it lv no pl pt-br pt-pt ro ru sk sl sv uk"
_HEAD = re.compile(r"([^|]*)\|\d+")
_GENERAL = re.compile(r"(?<!\s)\s*+\((?:generic term|Oberbegriff)\)")
_SPECIAL = re.compile(r"(?<!\s)\s*+\(underbegreb\)")
_OPPOSITE = re.compile(r"(?<!\s)\s*+\((?:antonym|Antonym)\)")
_REMARK = re.compile(r"(?<!\s)\s*+\([^()]*\)")
_MAX_SYNONYMS = 8
_MAX_TERMS = 16  # of a meaning


def _read_thesaurus(package: Package) -> Iterator[Row]:
    code = package.name.removeprefix("mythes-")
    lang = "en" if code == "en-us" else "pt" if code == "pt-pt" else language(code)
    for _, data in package.members(lambda name: name.endswith(".dat")):
        coding, _, body = data.partition(b"\n")
        word = None
        for line in _decoded(body, coding.decode("ascii", "replace").strip()).split("\n"):
            if head := _HEAD.fullmatch(line.strip()):  # the number of meanings is often wrong
                word = head[1]
            elif word:
                yield from _meaning(word, line, lang)


def _decoded(body: bytes, coding: str) -> str:
    try:
        return body.decode(coding, "replace")
    except LookupError:
        return body.decode("utf-8", "replace")


def _meaning(word: str, meaning: str, lang: str) -> Iterator[Row]:
    synonyms: list[str] = []
    for term in meaning.split("|")[1 : 1 + _MAX_TERMS]:
        plain = _REMARK.sub("", term).strip()
        if not plain or plain.casefold() == word.casefold() or "(...)" in term or "..." in term:
            continue
        if _GENERAL.search(term):
            yield Triple(word, f"hypernym ({lang})", plain)
        elif _SPECIAL.search(term):
            yield Triple(plain, f"hypernym ({lang})", word)
        elif _OPPOSITE.search(term):
            yield Triple(word, f"antonym ({lang})", plain)
        else:
            synonyms.append(plain)
            yield Triple(word, f"synonym ({lang})", plain)
    if synonyms:
        yield Pair(word, "; ".join(synonyms[:_MAX_SYNONYMS]), lang, "synonyms")


FREEDICT = Corpus(
    name="freedict",
    about="Words to their translations, from 55 dictionaries between 30 languages.",
    licence="GPL-2+, CC-BY-SA-3.0 and others, per dictionary",
    kind="deb",
    packages=tuple(f"dict-freedict-{pair}" for pair in _DICTIONARIES.split()),
    read=_read_dictionary,
)
THESAURI = Corpus(
    name="thesauri",
    about="Words to their synonyms in 22 languages, with facts of synonyms and broader terms.",
    licence="LGPL-2.1, GPL, CC-BY-SA and others, per thesaurus",
    kind="deb",
    packages=tuple(f"mythes-{code}" for code in _THESAURI.split()),
    read=_read_thesaurus,
    method=2,
)
