"""A corpus whose packages hold lines of text, and a host that serves them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import package_doubles as doubles

from culet.corpora.build import Built, build
from culet.corpora.corpus import Corpus
from culet.corpora.places.hosts import Hosts
from culet.corpora.readers.packages import Package
from culet.corpora.rows import Aligned, Pair, Row, Text, Triple

COPYRIGHT = "Format: x\nLicense: MIT\n"


def read_lines(package: Package) -> Iterator[Row]:
    """Each line of a text: "kind|field|field"."""
    for name, data in package.members(lambda name: name.endswith(".txt")):
        lang = name.rpartition("/")[2].removesuffix(".txt")
        for line in data.decode().splitlines():
            kind, *fields = line.split("|")
            if kind == "pair":
                yield Pair(fields[0], fields[1], lang, "line", tuple(fields[2:]))
            elif kind == "text":
                yield Text(fields[0] * 30, lang)
            elif kind == "fact":
                yield Triple(*fields)
            elif kind == "key":
                yield Aligned(fields[0], fields[1], lang, "parallel")
            else:
                raise ValueError(f"no kind {kind}")


def corpus(*packages: str, **settings: Any) -> Corpus:
    return Corpus("demo", "A demo.", "MIT", "deb", packages, read_lines, **settings)


def deb(lines: dict[str, str], copyright_: str = COPYRIGHT) -> bytes:
    files = {f"usr/share/{lang}.txt": text for lang, text in lines.items()}
    return doubles.deb({"usr/share/doc/x/copyright": copyright_, **files})


def serve(host: doubles.Host, **debs: bytes) -> None:
    host.files = dict(doubles.debian_archive({name: ("1-1", data) for name, data in debs.items()}))


def run(host: doubles.Host, one: Corpus, out: Path, **settings: Any) -> tuple[Built, list[str]]:
    said: list[str] = []
    hosts = Hosts(debian=host.address, pypi=f"{host.address}/simple", npm=host.address)
    return build(one, out, hosts=hosts, say=said.append, progress=False, **settings), said


def rows(out: Path, kind: str = "pairs") -> list[dict[str, Any]]:
    with gzip.open(out / "demo" / f"{kind}.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "demo" / "manifest.json").read_text())
    return found
