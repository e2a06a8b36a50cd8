"""An npm registry: where the archive of a package is and what it must hash to."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlsplit

from culet.corpora.places.fetch import FetchError, MissingPackage, Remote, get
from culet.corpora.places.hosts import NPM
from culet.corpora.readers.packages import Found, Wanted


class Npm:
    """Finds packages of a registry.

    Args:
        address: Its address, such as https://registry.npmjs.org.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def prepare(self, items: Iterable[Wanted]) -> None:
        """Do nothing: each package has a document of its own."""

    def find(self, item: Wanted) -> Found:
        """Return the archive of a version, or of the one tagged latest.

        Raises:
            MissingPackage: When there is no such package or version.
            FetchError: When the registry does not say where it is or what it hashes to.
        """
        document = self._document(item)
        version, dist = document.get("version"), document.get("dist")
        if not isinstance(version, str) or not isinstance(dist, dict):
            raise FetchError(f"the registry's document of {item.name} names no version and archive")
        url = dist.get("tarball")
        if not isinstance(url, str):
            raise FetchError(f"the registry names no archive of {item.name} {version}")
        # A mirror may pass the public address on; like npm itself, ask the mirror.
        if url.startswith(f"{NPM}/") and urlsplit(self._address).netloc != urlsplit(NPM).netloc:
            url = self._address + url.removeprefix(NPM)
        algorithm, digest = _checksum(dist)
        name = f"{item.name.lstrip('@').replace('/', '-')}-{version}.tgz"
        return Found(item, version, (Remote(url, name, algorithm, digest),))

    def _document(self, item: Wanted) -> dict[str, Any]:
        tag = item.version or "latest"
        address = f"{self._address}/{quote(item.name, safe='@')}/{quote(tag)}"
        try:
            document = json.loads(get(address, accept="application/json"))
        except MissingPackage as error:
            raise MissingPackage(f"npm has no package {item.name} in version {tag}") from error
        except ValueError as error:
            raise FetchError(f"the registry's document of {item.name} is not JSON") from error
        if not isinstance(document, dict):
            raise FetchError(f"the registry's document of {item.name} is no JSON object")
        return document


def _checksum(dist: dict[str, Any]) -> tuple[str, str]:
    """Return algorithm and hex digest; subresource integrity if there is one, else SHA-1."""
    for part in str(dist.get("integrity") or "").split():
        algorithm, _, value = part.partition("-")
        if algorithm in ("sha512", "sha256"):
            try:
                return algorithm, base64.b64decode(value, validate=True).hex()
            except binascii.Error:
                continue
    return ("sha1", str(dist["shasum"])) if dist.get("shasum") else ("none", "")
