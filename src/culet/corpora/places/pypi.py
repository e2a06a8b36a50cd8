"""A Python package index: which file of a project to read (PEP 503, PEP 691, PEP 440)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from culet.corpora.places.fetch import ALGORITHMS, FetchError, MissingPackage, Remote, get
from culet.corpora.readers.packages import Found, Wanted

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


@dataclass(frozen=True)
class _File:
    name: str
    url: str
    algorithm: str
    digest: str
    yanked: bool


class PyPI:
    """Finds projects of a simple index.

    Args:
        address: Its address, such as https://pypi.org/simple.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def prepare(self, items: Iterable[Wanted]) -> None:
        """Do nothing: each project has a page of its own."""

    def find(self, item: Wanted) -> Found:
        """Return the file to read: of the newest release, a pure wheel, else the source.

        Raises:
            MissingPackage: When there is no such project or version, or no file to read.
            FetchError: When the index is not one.
        """
        page = f"{self._address}/{canonicalize_name(item.name)}/"
        files: dict[Version, list[tuple[int, _File]]] = {}
        try:
            listed = _listed(page)
        except MissingPackage as error:
            raise MissingPackage(f"the index has no project {item.name}") from error
        for file in listed:
            if (known := _version_and_rank(file.name)) is not None:
                version, rank = known
                if not file.yanked or item.version:
                    files.setdefault(version, []).append((rank, file))
        if item.version:
            files = {v: f for v, f in files.items() if str(v) == item.version}
        if not files:
            pinned = f" in version {item.version}" if item.version else ""
            raise MissingPackage(f"the index has no wheel or source of {item.name}{pinned}")
        newest = max(files, key=lambda version: (not version.is_prerelease, version))
        _, chosen = min(files[newest], key=lambda ranked: (ranked[0], ranked[1].name))
        remote = Remote(chosen.url, chosen.name, chosen.algorithm, chosen.digest)
        return Found(item, str(newest), (remote,))


def _version_and_rank(name: str) -> tuple[Version, int] | None:
    """Return the version of a file and its rank (0 is preferred), None for other files."""
    try:
        if name.endswith(".whl"):
            _, version, _, tags = parse_wheel_filename(name)
            return version, 0 if any(t.platform == "any" for t in tags) else 2
        return parse_sdist_filename(name)[1], 1
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None


def _listed(page: str) -> list[_File]:
    answer = get(page, accept=_ACCEPT).decode("utf-8", "replace")
    if not answer.lstrip().startswith("{"):
        links = _Links(page)
        links.feed(answer)
        return links.files
    try:
        listed = json.loads(answer)["files"]
        return [
            _File(
                str(file["filename"]),
                urljoin(page, str(file["url"])),
                *_best(file["hashes"]),
                yanked=bool(file.get("yanked")),
            )
            for file in listed
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise FetchError(f"the page of a project is no simple index (PEP 691): {error}") from error


def _best(hashes: dict[str, str]) -> tuple[str, str]:
    return next(((name, hashes[name]) for name in ALGORITHMS if name in hashes), ("none", ""))


class _Links(HTMLParser):
    """The links of a project's page (PEP 503)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._page = page
        self.files: list[_File] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a" and (href := values.get("href")):
            url, fragment = urldefrag(urljoin(self._page, href))
            name = unquote(urlsplit(url).path.rpartition("/")[2])
            algorithm, _, digest = fragment.partition("=")
            known = (algorithm, digest) if algorithm in ALGORITHMS else ("none", "")
            self.files.append(_File(name, url, *known, yanked="data-yanked" in values))
