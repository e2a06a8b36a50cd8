"""Build one corpus: fetch each package, read it, keep its rows; then assemble.

    OUT/NAME/parts/PACKAGE.jsonl.gz   rows of one package as they were read
    OUT/NAME/parts/PACKAGE.json       its version, checksums, licence and counts; written last
    OUT/NAME/pairs.jsonl.gz, text.jsonl.gz, triples.jsonl.gz, manifest.json

A package is done when its .json is there; it is not looked up, downloaded or read again, unless a
manifest given as `like` names other files of it. Whatever stops the run loses at most the package
at hand. What is wrong with one package is recorded under its name and does not stop the others.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from culet.corpora.assemble import FILES, Part, assemble
from culet.corpora.corpus import Corpus
from culet.corpora.manifest import (
    MANIFEST,
    mismatch,
    pinned,
    planned,
    read_manifest,
    sha256_of,
    sums_of,
    with_results,
)
from culet.corpora.places.debian import DebianArchive
from culet.corpora.places.fetch import ChecksumError, FetchError, download
from culet.corpora.places.hosts import Hosts
from culet.corpora.places.local import Folder
from culet.corpora.places.npm import Npm
from culet.corpora.places.pypi import PyPI
from culet.corpora.readers.archives import DEFAULT_LIMITS, ArchiveError, Limits
from culet.corpora.readers.licences import is_free
from culet.corpora.readers.packages import Found, Package, Wanted, purl, wanted
from culet.corpora.rows import ENGLISH, Aligned, Pair, Row, Text, to_line
from culet.errors import InputError
from culet.files.atomic import locked, new_file
from culet.terminal.progress import Progress


class RefusedPackage(InputError):
    """A package that is left out for its licence, not for a fault of a file."""


class Place(Protocol):
    """Where packages are looked up."""

    def prepare(self, items: Sequence[Wanted]) -> None:
        """Take note of the packages that will be looked up."""

    def find(self, item: Wanted) -> Found:
        """Return where one is, or raise MissingPackage."""


@dataclass(frozen=True)
class Built:
    """What a run made.

    Attributes:
        folder: Where the files are.
        counts: Rows of "pairs", "text" and "triples".
        failed: Package to what was wrong with it.
    """

    folder: Path
    counts: dict[str, int]
    failed: dict[str, str]


def build(
    corpus: Corpus,
    out: Path,
    *,
    packages: Sequence[str] = (),
    like: Path | None = None,
    hosts: Hosts | None = None,
    folder: Path | None = None,
    limits: Limits = DEFAULT_LIMITS,
    say: Callable[[str], None] = print,
    progress: bool | None = None,
) -> Built:
    """Build a corpus, or go on with one that was interrupted.

    Args:
        corpus: Which one.
        out: The folder in which the corpus gets a folder of its name.
        packages: Names to read in place of the corpus's own list.
        like: A manifest whose packages are read, in the same versions and with the same sums.
        hosts: Where packages come from; the public hosts if None.
        folder: A folder of packages on disk; nothing is downloaded then.
        limits: Bounds on what an archive may hold.
        say: Takes lines for the person watching.
        progress: Show progress; None shows it in a terminal only, as `Progress` does.

    Raises:
        InputError: A name that no package can have, a folder that is in use or cannot be written.
        Unreachable: A host does not answer; what is done is kept.
    """
    hosts = hosts or Hosts()
    names, sums = pinned(like, corpus) if like else (packages or corpus.packages, {})
    items = list(dict.fromkeys(wanted(name, corpus.kind) for name in names))
    home = out / corpus.name
    with _alone(home) as work:
        done = _done(corpus, home, items, sums)
        failed: dict[str, str] = {}
        todo = [item for item in items if item not in done]
        if todo:
            places = _places(todo, hosts, folder, work, say)
            with Progress(
                corpus.name, total=len(items), unit="packages", done=len(done), show=progress
            ) as bar:
                for item in todo:
                    bar.advance(0, package=item.name)
                    try:
                        found = places[item.kind].find(item)
                        done[item] = _read(
                            corpus, found, home, work, hosts, limits, sums.get(item.id)
                        )
                    except (FetchError, ArchiveError, RefusedPackage) as error:
                        failed[item.id] = str(error)
                        say(f"{item.id} is left out: {error}")
                    bar.advance(1)
        records = [done[item] for item in items if item in done]
        counts = _assembled(corpus, home, records, failed, say, progress)
    return Built(home, {kind: counts.get(kind, 0) for kind in FILES}, failed)


def _places(
    todo: Sequence[Wanted],
    hosts: Hosts,
    folder: Path | None,
    work: Path,
    say: Callable[[str], None],
) -> dict[str, Place]:
    if folder is not None:
        local = Folder(folder)
        return {item.kind: local for item in todo}
    debian = DebianArchive(hosts.debian, hosts.suite, work, say=say)
    debian.prepare([item for item in todo if item.kind not in ("pypi", "npm")])
    return {
        "pypi": PyPI(hosts.pypi),
        "npm": Npm(hosts.npm),
        "deb": debian,
        "src": debian,
        "index": debian,
    }


def _read(
    corpus: Corpus,
    found: Found,
    home: Path,
    work: Path,
    hosts: Hosts,
    limits: Limits,
    expected: list[str] | None,
) -> dict[str, Any]:
    """Fetch and read one package; keep its rows and return its record."""
    item = found.wanted
    files, sums = [], {}
    for path in found.local:
        files.append((path, path.name))
        sums[path.name] = sha256_of(path)
    for number, remote in enumerate(found.files):
        to = work / str(number)
        sums[remote.name] = download(remote, to)
        files.append((to, remote.name))
    if expected is not None and sorted(sums.values()) != sorted(expected):
        raise ChecksumError(f"{item.name} has other files than the manifest of --like names")
    package = Package(item, found.version, tuple(files), limits)
    counts: Counter[str] = Counter()
    num_english = 0
    part, record_file = _part(home, item.id), _record_file(home, item.id)
    with new_file(part) as aside, gzip.open(aside, "wb", compresslevel=1) as file:
        for row in _named(corpus.read(package), item):
            counts[_kind(row)] += 1
            num_english += isinstance(row, Aligned) and row.lang == ENGLISH
            file.write(to_line(row).encode("utf-8", "replace"))
        if corpus.only_free and not is_free(package.licence):
            raise RefusedPackage(
                f"its files name no free licence ({package.licence or 'none at all'}), so no "
                "rows are made of it"
            )
        # An older record must not stand for the new rows, should the run end before their own.
        record_file.unlink(missing_ok=True)
    record = {
        "id": item.id,
        "purl": purl(item, found.version, hosts.suite),
        "version": found.version,
        "files": [
            {"name": path_name, "bytes": path.stat().st_size, "sha256": sums[path_name]}
            for path, path_name in files
        ],
        "checked_against_index": bool(found.files),
        "licence": package.licence,
        "members": package.num_members,
        "read": dict(counts),
        "aligned_english": num_english,
        "method": corpus.method,
    }
    for path, _ in files:
        if path.parent == work:
            path.unlink()
    _write_json(record_file, record)
    return record


def _assembled(
    corpus: Corpus,
    home: Path,
    records: Sequence[dict[str, Any]],
    failed: dict[str, str],
    say: Callable[[str], None],
    progress: bool | None,
) -> dict[str, int]:
    """Write the files of a corpus unless they are there already; return their rows by kind."""
    manifest, before = planned(corpus, records, failed), read_manifest(home)
    if before.get("inputs") == manifest["inputs"]:
        fault = mismatch(before, home)
        if fault is None:
            say(f"{home} is built already")
            return dict(before["counts"])
        say(f"{home} is assembled again: {fault}")
    (home / MANIFEST).unlink(missing_ok=True)  # while the files change, none describes them
    parts = [_part_of(home, record) for record in records]
    account = assemble(corpus, parts, home, progress=progress)
    _write_json(home / MANIFEST, with_results(manifest, account, home))
    return dict(account.kept)


def _named(rows: Iterator[Row], item: Wanted) -> Iterator[Row]:
    """Pass rows on; an error of a reader at hostile content is a fault of the package."""
    try:
        yield from rows
    except (ValueError, LookupError, RecursionError, MemoryError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise ArchiveError(f"{item.name} is not built as expected: {error!r}") from error


def _kind(row: Row) -> str:
    if isinstance(row, Pair):
        return "pairs"
    if isinstance(row, Aligned):
        return "aligned"
    return "text" if isinstance(row, Text) else "triples"


def _part(home: Path, package_id: str) -> Path:
    """Return the file of a package's rows; names that differ have files that differ."""
    plain = re.sub(r"[^A-Za-z0-9.+_-]", "_", package_id)
    if plain != package_id.replace(":", "_", 1):
        plain += "-" + hashlib.sha256(package_id.encode()).hexdigest()[:8]
    return home / "parts" / f"{plain}.jsonl.gz"


def _record_file(home: Path, package_id: str) -> Path:
    part = _part(home, package_id)
    return part.with_name(part.name.replace(".jsonl.gz", ".json"))


def _part_of(home: Path, record: dict[str, Any]) -> Part:
    read, name = record["read"], record["id"]
    path = _part(home, name)
    return Part(name, path, record["licence"], sum(read.values()), record["aligned_english"])


def _done(
    corpus: Corpus, home: Path, items: Sequence[Wanted], sums: dict[str, list[str]]
) -> dict[Wanted, dict[str, Any]]:
    """Return the records of the packages that are done.

    A package that was read from other files than `sums` names is not among them. Its rows and its
    record stay until others take their place, so that a run that wants those still has them.
    """
    done = {}
    for item in items:
        record = _record(corpus, home, item)
        if record and (item.id not in sums or sorted(sums_of(record)) == sorted(sums[item.id])):
            done[item] = record
    return done


def _record(corpus: Corpus, home: Path, item: Wanted) -> dict[str, Any] | None:
    """Return the record of a package that is done, None for one that is still to be read."""
    try:
        record: Any = json.loads(_record_file(home, item.id).read_bytes())
    except (OSError, ValueError):
        return None
    current = isinstance(record, dict) and record.get("method") == corpus.method
    there = current and record.get("id") == item.id and _part(home, item.id).is_file()
    return record if there else None


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with new_file(path) as aside:
        aside.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _alone(home: Path) -> Iterator[Path]:
    """Hold the folder of a corpus for one process, and yield an empty folder for downloads."""
    work = home / ".work"
    with locked(home, what="a build"):
        (home / "parts").mkdir(exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
