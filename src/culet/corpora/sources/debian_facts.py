"""Facts about each package from Debian's index: section, source, dependencies, tags."""

from __future__ import annotations

import re
from collections.abc import Iterator

from culet.corpora.corpus import Corpus
from culet.corpora.places.debian import stanzas
from culet.corpora.readers.packages import Package
from culet.corpora.rows import Row, Triple

_ONE = {"Section": "is in the section", "Source": "is built from", "Homepage": "has the homepage"}
_MANY = {
    "Depends": "depends on",
    "Recommends": "recommends",
    "Suggests": "suggests",
    "Provides": "provides",
    "Enhances": "enhances",
    "Conflicts": "conflicts with",
}
# The first word of a tag's facet: "implemented-in::python", "role::program".
_FACETS = {
    "implemented-in": "is implemented in",
    "role": "is a",
    "interface": "has the interface",
    "uitoolkit": "uses the toolkit",
    "use": "is used for",
    "works-with": "works with",
    "field": "belongs to the field",
    "protocol": "speaks the protocol",
    "game": "is a game of the kind",
}


def _read(package: Package) -> Iterator[Row]:
    for path, name in package.files:
        for entry in stanzas(path, name, ("Package", "Tag", *_ONE, *_MANY)):
            package.num_members += 1
            yield from _facts(entry)


def _facts(entry: dict[str, str]) -> Iterator[Triple]:
    subject = entry.get("Package", "")
    for field, relation in _ONE.items():
        value = entry.get(field, "")
        if value:
            yield Triple(subject, relation, value.partition(" (")[0])
    for field, relation in _MANY.items():
        for choice in re.split(r"[,|]", entry.get(field, "")):
            if target := re.match(r"[a-z0-9][a-z0-9+.-]+", choice.strip()):
                yield Triple(subject, relation, target[0])
    for tag in re.findall(r"(?<![\w-])[\w-]++::[\w:.+-]+", entry.get("Tag", "")):
        facet, _, value = tag.partition("::")
        if facet in _FACETS and value != "TODO":
            yield Triple(subject, _FACETS[facet], value.replace("-", " "))


DEBIAN_FACTS = Corpus(
    name="debian-facts",
    about="Facts of Debian's packages: section, source, dependencies, what they are for.",
    licence="facts; the tags are in the public domain as far as possible",
    kind="index",
    packages=("main/binary-amd64/Packages",),
    read=_read,
)
