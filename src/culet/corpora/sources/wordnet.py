"""WordNet: words and their meanings, with other meanings as true hard negatives (wndb(5WN))."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from culet.corpora.corpus import Corpus
from culet.corpora.readers.packages import Package
from culet.corpora.rows import ENGLISH, Pair, Row, Triple

_PARTS = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
_LETTERS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv", "s": "adj"}
# Of two directions of a relation one is kept.
_RELATIONS = {
    "@": "hypernym",
    "@i": "instance of",
    "#m": "member of",
    "#p": "part of",
    "#s": "substance of",
    "!": "antonym",
    "*": "entails",
    ">": "causes",
    "&": "similar to",
    "+": "derivationally related to",
    ";c": "belongs to the topic",
    ";r": "used in the region",
    ";u": "used as",
}
_MAX_NEGATIVES = 5
_EXAMPLE = re.compile(r'"([^"]+)"(?:\s*-+\s*[^;"]+)?')  # some with who said so


@dataclass(slots=True)
class _Sense:
    part: str
    words: list[str]
    definition: str
    examples: list[str]
    pointers: list[tuple[str, tuple[str, str], int, int]] = field(default_factory=list)


_Key = tuple[str, str]  # part of speech and offset


def _read(package: Package) -> Iterator[Row]:
    senses: dict[_Key, _Sense] = {}
    for name, data in package.members(_is_data):
        part = name.rpartition(".")[2]
        for line in data.decode("utf-8", "replace").split("\n"):
            if line[:1].isdigit():  # the licence at the top is indented
                key, sense = _parse(line, part)
                senses[key] = sense
    yield from _rows(senses)


def _is_data(name: str) -> bool:
    file = name.rpartition("/")[2]
    return file.startswith("data.") and file[5:] in _PARTS


def _parse(line: str, part: str) -> tuple[_Key, _Sense]:
    front, _, gloss = line.partition(" | ")
    fields = front.split()
    count = int(fields[3], 16)
    words = [_plain(word) for word in fields[4 : 4 + 2 * count : 2]]
    at = 4 + 2 * count
    pointers = []
    for start in range(at + 1, at + 1 + 4 * int(fields[at]), 4):
        symbol, offset, letter, ends = fields[start : start + 4]
        pointers.append((symbol, (_LETTERS[letter], offset), int(ends[:2], 16), int(ends[2:], 16)))
    definition = _EXAMPLE.sub("", gloss).strip()
    definition = re.sub(r"(?<![\s;,:])[\s;,:]*(?:;|$)", ";", definition).strip("; ")
    examples = [text.strip() for text in _EXAMPLE.findall(gloss)]
    return (part, fields[0]), _Sense(part, words, definition, examples, pointers)


def _plain(word: str) -> str:
    """Return "New York" for "New_York", "beautiful" for "beautiful(p)"."""
    return re.sub(r"\(\w+\)$", "", word).replace("_", " ")


def _rows(senses: dict[_Key, _Sense]) -> Iterator[Row]:
    by_word: dict[str, list[_Key]] = defaultdict(list)
    children: dict[_Key, list[_Key]] = defaultdict(list)
    for key, sense in senses.items():
        for word in sense.words:
            by_word[word.lower()].append(key)
        for symbol, target, _, _ in sense.pointers:
            if symbol in ("@", "@i"):
                children[target].append(key)
    for key, sense in senses.items():
        sisters = [
            sister
            for symbol, target, _, _ in sense.pointers
            if symbol in ("@", "@i", "&")
            for sister in (children[target] if symbol != "&" else [target])
            if sister != key
        ]
        yield from _pairs(key, sense, senses, by_word, sisters)
        yield from _triples(sense, senses)


def _pairs(
    key: _Key,
    sense: _Sense,
    senses: dict[_Key, _Sense],
    by_word: dict[str, list[_Key]],
    sisters: list[_Key],
) -> Iterator[Pair]:
    if not sense.definition:
        return
    near = sisters[:_MAX_NEGATIVES]
    for word in sense.words:
        others = [other for other in by_word[word.lower()] if other != key][:_MAX_NEGATIVES]
        wrong = [senses[other].definition for other in [*others, *near]][:_MAX_NEGATIVES]
        query = f"{word} ({_PARTS[sense.part]})"
        yield Pair(query, sense.definition, ENGLISH, "definition", tuple(wrong))
        for example in sense.examples:
            # only where the example shows this word
            if re.search(rf"\b{re.escape(word)}", example, re.IGNORECASE) and " " in example:
                wrong = [f"{word}: {senses[other].definition}" for other in others]
                right = f"{word}: {sense.definition}"
                yield Pair(example, right, ENGLISH, "example-sense", tuple(wrong))
    mine = {word.lower() for word in sense.words}
    wrong = [
        ", ".join(senses[other].words)
        for other in near
        if not mine & {word.lower() for word in senses[other].words}
    ]
    yield Pair(
        sense.definition, ", ".join(sense.words), ENGLISH, "reverse-dictionary", tuple(wrong)
    )


def _triples(sense: _Sense, senses: dict[_Key, _Sense]) -> Iterator[Triple]:
    first, *others = sense.words
    for other in others:
        yield Triple(first, "synonym", other)
    for symbol, target, source_word, target_word in sense.pointers:
        relation, there = _RELATIONS.get(symbol), senses.get(target)
        if relation is None or there is None:
            continue
        if source_word == 0:  # between meanings
            yield Triple(first, relation, there.words[0])
        elif source_word <= len(sense.words) and target_word <= len(there.words):
            yield Triple(sense.words[source_word - 1], relation, there.words[target_word - 1])


WORDNET = Corpus(
    name="wordnet",
    about="Words to definitions, definitions to words, examples to meanings; with hard negatives.",
    licence="WordNet licence (BSD-like)",
    kind="deb",
    packages=("wordnet-base",),
    read=_read,
)
