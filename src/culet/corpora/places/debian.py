"""A Debian archive: its release file, its indices, and where packages of a name are.

The checksums form a chain: dists/SUITE/InRelease names the SHA-256 of every index, and an index
that of every package. The signature of InRelease is not checked; over plain http the chain shows
damage and not malice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from culet.corpora.places.fetch import FetchError, MissingPackage, Remote, download, get
from culet.corpora.readers.archives import open_unpacked
from culet.corpora.readers.packages import Found, Wanted

_Order = list[tuple[list[int], int]]
_ENDINGS = (".xz", ".gz", ".bz2", "")
_INDEX_BYTES = 2 << 30  # unpacked
_MAX_LINE = 1 << 20
_PACKAGES = "main/binary-amd64/Packages"  # packages for all machines stand in it too
_SOURCES = "main/source/Sources"


class DebianArchive:
    """Finds packages, sources and index files of one release.

    Args:
        address: The folder with dists/ and pool/.
        suite: The release.
        work: A folder for index files.
        say: Takes lines for the person watching, when something takes long.
    """

    def __init__(
        self, address: str, suite: str, work: Path, *, say: Callable[[str], None] = print
    ) -> None:
        self._address, self._suite, self._work, self._say = address, suite, work, say
        self._release: dict[str, tuple[str, int]] = {}  # path below dists/SUITE: SHA-256, size
        self._date = ""
        self._found: dict[Wanted, Found] = {}

    def prepare(self, items: Iterable[Wanted]) -> None:
        """Look all of them up at once; an index is read once, as a stream."""
        items = set(items)
        if binaries := {item.name: item for item in items if item.kind == "deb"}:
            for stanza in self._stanzas(_PACKAGES, ("Package", "Version", "Filename", "SHA256")):
                self._keep(binaries, stanza, lambda s: [(s["SHA256"], 0, s["Filename"])])
        if sources := {item.name: item for item in items if item.kind == "src"}:
            fields = ("Package", "Version", "Directory", "Checksums-Sha256")
            for stanza in self._stanzas(_SOURCES, fields):
                self._keep(sources, stanza, _source_files)

    def find(self, item: Wanted) -> Found:
        """Return where a package is.

        Raises:
            MissingPackage: When the release has no such package, version or index.
        """
        if item.kind == "index":
            return self._index(item)
        if item not in self._found:
            named = f"the package {item.name}" if item.kind == "deb" else f"the source {item.name}"
            raise MissingPackage(
                f"Debian {self._suite} does not have {named}"
                + (f" in version {item.version}" if item.version else "")
            )
        return self._found[item]

    def _keep(
        self,
        wanted: dict[str, Wanted],
        stanza: dict[str, str],
        files: Callable[[dict[str, str]], list[tuple[str, int, str]]],
    ) -> None:
        item = wanted.get(stanza.get("Package", ""))
        if item is None or (item.version and item.version != stanza.get("Version")):
            return
        version = stanza.get("Version", "")
        earlier = self._found.get(item)
        if earlier is not None and sort_key(earlier.version) > sort_key(version):
            return
        try:
            remotes = tuple(
                Remote(
                    f"{self._address}/{path}",
                    path.rpartition("/")[2],
                    "sha256",
                    digest,
                    size or None,
                )
                for digest, size, path in files(stanza)
            )
        except (KeyError, ValueError) as error:
            raise FetchError(f"the index entry of {item.name} is damaged: {error!r}") from error
        self._found[item] = Found(item, version, remotes)

    def _index(self, item: Wanted) -> Found:
        release = self._read_release()
        for ending in _ENDINGS:
            if entry := release.get(item.name + ending):
                digest, size = entry
                url = f"{self._address}/dists/{self._suite}/{item.name}{ending}"
                remote = Remote(url, item.name.rpartition("/")[2] + ending, "sha256", digest, size)
                return Found(item, self._date, (remote,))
        raise MissingPackage(f"Debian {self._suite} does not have the index {item.name}")

    def _stanzas(self, path: str, fields: Sequence[str]) -> Iterator[dict[str, str]]:
        (remote,) = self._index(Wanted("index", path)).files
        self._say(f"reading the index {path} of Debian {self._suite}")
        file = self._work / path.replace("/", "_")
        download(remote, file)
        yield from stanzas(file, remote.name, fields)
        file.unlink(missing_ok=True)

    def _read_release(self) -> dict[str, tuple[str, int]]:
        if not self._release:
            url = f"{self._address}/dists/{self._suite}/InRelease"
            try:
                text = get(url, limit=16 << 20).decode("utf-8", "replace")
            except MissingPackage as error:
                raise MissingPackage(
                    f"{error}; expected a Debian archive with the release {self._suite!r}"
                ) from error
            _, _, sums = text.partition("\nSHA256:\n")
            for line in sums.split("\n"):
                if not line.startswith(" "):
                    break
                if match := re.fullmatch(r" ([0-9a-f]{64})\s+(\d+)\s+(\S+)", line):
                    self._release[match[3]] = match[1], int(match[2])
            date = re.search(r"^Date: (.+)$", text, re.MULTILINE)
            self._date = date[1].strip() if date else ""
            if not self._release:
                raise FetchError(f"the release file of Debian {self._suite} names no SHA256 sums")
        return self._release


def stanzas(file: Path, name: str, fields: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the entries of a Debian index, as a stream; each with the wanted fields it has.

    Args:
        file: The index.
        name: Its file name, whose ending names the compression.
        fields: Names of fields; one that ends in "*" stands for all with this beginning.

    Raises:
        ArchiveError: When the file is damaged.
    """
    exact = {field.encode(): field for field in fields if not field.endswith("*")}
    starts = tuple(field[:-1].encode() for field in fields if field.endswith("*"))
    stanza: dict[str, list[str]] = {}
    last: str | None = None
    with open_unpacked(file, name, _INDEX_BYTES) as stream:
        while raw := stream.readline(_MAX_LINE):
            if raw[:1] in b" \t" and raw.strip():
                if last is not None:
                    stanza[last].append(raw.decode("utf-8", "replace").rstrip("\n"))
            elif not raw.strip():
                if stanza:
                    yield _joined(stanza)
                stanza, last = {}, None
            else:
                field, _, value = raw.partition(b":")
                last = exact.get(field)
                if last is None and starts and field.startswith(starts):
                    last = field.decode("ascii", "replace")
                if last is not None:
                    stanza[last] = [value.decode("utf-8", "replace").strip()]
    if stanza:
        yield _joined(stanza)


def _joined(stanza: dict[str, list[str]]) -> dict[str, str]:
    return {field: "\n".join(lines) for field, lines in stanza.items()}


def sort_key(version: str) -> tuple[int, _Order, _Order]:
    """Return a key that puts Debian versions into their order (deb-version(7))."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch) if epoch.isdigit() else 0, _order(upstream), _order(revision)


def _order(text: str) -> _Order:
    """Return runs of non-digits and of digits in turn; "~" sorts even before the end."""

    def place(char: str) -> int:
        return -1 if char == "~" else ord(char) + (0 if char.isalpha() else 1 << 21)

    pairs = re.findall(r"(\D*)(\d*)", text)
    return [([*map(place, words), 0], int(digits or 0)) for words, digits in pairs]


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _source_files(stanza: dict[str, str]) -> list[tuple[str, int, str]]:
    """Return the upstream archives and Debian's own files, without patches and signatures."""
    rows = (line.split() for line in stanza["Checksums-Sha256"].split("\n") if line.strip())
    return [
        (digest, int(size), f"{stanza['Directory']}/{file}")
        for digest, size, file in rows
        if re.search(r"\.tar\.(?:gz|xz|bz2|zst)$", file)
    ]
