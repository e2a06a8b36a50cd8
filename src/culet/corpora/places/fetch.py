"""Downloads that match the checksums of their index, or an error that says why not."""

from __future__ import annotations

import base64
import errno
import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from culet import __version__
from culet.errors import InputError
from culet.files.addresses import masked
from culet.files.atomic import new_file

ALGORITHMS = ("sha512", "sha256", "sha1")  # best first; sha1 is all that old npm packages have
_TRIES = 4
_OUR_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_TIMEOUT_SECONDS = 60.0
_BLOCK = 1 << 20
INDEX_BYTES = 256 << 20
PACKAGE_BYTES = 2 << 30


class FetchError(InputError):
    """Something that could not be fetched; the rest can go on."""


class MissingPackage(FetchError):
    """The index knows no such package, version or file."""


class ChecksumError(FetchError):
    """A download that does not match its index."""


class Unreachable(InputError):
    """The host does not answer at all, so nothing else will come from it either."""


@dataclass(frozen=True)
class Remote:
    """A file to download.

    Attributes:
        url: Where it is.
        name: Its file name, whose ending names the format.
        algorithm: "sha256", "sha512" or "sha1".
        digest: What it must hash to, in hex.
        size: Its length in bytes, if the index gives it.
    """

    url: str
    name: str
    algorithm: str
    digest: str
    size: int | None = None


def download(remote: Remote, to: Path, *, limit: int = PACKAGE_BYTES) -> str:
    """Write a file whole and checked, or not at all; return its SHA-256 in hex.

    Raises:
        FetchError: The host refuses it, it is larger than `limit`, or it has another checksum.
        Unreachable: The host does not answer.
    """
    if remote.algorithm not in ALGORITHMS:
        raise ChecksumError(
            f"{remote.name}: the index gives the checksum {remote.algorithm!r}; expected one of "
            f"{', '.join(ALGORITHMS)}"
        )
    if remote.size is not None and remote.size > limit:
        raise FetchError(f"{remote.name} has {remote.size:,} bytes; at most {limit:,} are read")
    check, ours = hashlib.new(remote.algorithm), hashlib.sha256()
    with new_file(to) as aside:

        def save(response: http.client.HTTPResponse) -> None:
            nonlocal check, ours
            check, ours, count = hashlib.new(remote.algorithm), hashlib.sha256(), 0
            with aside.open("wb") as file:
                while block := response.read(_BLOCK):
                    count += len(block)
                    if count > limit or (remote.size is not None and count > remote.size):
                        raise ChecksumError(f"{remote.name} is longer than the index says")
                    check.update(block)
                    ours.update(block)
                    file.write(block)

        try:
            _try(remote.url, save)
        except MissingPackage as error:
            raise MissingPackage(f"{remote.name} is in the index but not on the host") from error
        if check.hexdigest() != remote.digest.lower():
            raise ChecksumError(
                f"{remote.name}: expected {remote.algorithm} {remote.digest}, got "
                f"{check.hexdigest()}; the file was discarded; run again or ask the mirror"
            )
    return ours.hexdigest()


def get(url: str, *, accept: str = "*/*", limit: int = INDEX_BYTES) -> bytes:
    """Return what a URL holds, as bytes.

    Raises:
        MissingPackage: HTTP 404 or 410.
        FetchError: Another refusal, or more than `limit` bytes.
        Unreachable: The host does not answer.
    """
    answer = b""

    def keep(response: http.client.HTTPResponse) -> None:
        nonlocal answer
        answer = response.read(limit + 1)
        if len(answer) > limit:
            raise FetchError(f"{_place(url)} is longer than {limit:,} bytes")

    _try(url, keep, accept=accept)
    return answer


def _without_login(url: str) -> str:
    """Return a URL without user and password, which go into a header."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _place(url: str) -> str:
    """Return the path of a URL: the same on every mirror, for messages that are kept."""
    return urlsplit(url).path or "/"


def _try(url: str, use: Callable[[http.client.HTTPResponse], None], *, accept: str = "*/*") -> None:
    """Open a URL and pass the response to `use`; try again after errors that may pass."""
    request = _request(url, accept)
    for attempt in range(1, _TRIES + 1):
        try:
            with urllib.request.urlopen(
                request, timeout=_TIMEOUT_SECONDS, context=_tls()
            ) as response:
                use(response)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise MissingPackage(f"{_place(url)} does not exist (HTTP {error.code})") from error
            if error.code < 500 and error.code != 429:
                raise FetchError(f"{_place(url)}: the host answers HTTP {error.code}") from error
            reason, gone = f"HTTP {error.code}", False
        except http.client.InvalidURL:  # its text holds parts of the address
            raise InputError(f"{masked(url)!r} is not a web address; it has blanks") from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and (error.filename or error.errno in _OUR_DISK):
                raise
            reason, gone = str(getattr(error, "reason", error)) or type(error).__name__, True
        if attempt < _TRIES:
            time.sleep(_pause_seconds(attempt))
    if gone:
        raise Unreachable(
            f"cannot reach {urlsplit(_without_login(url)).netloc} ({reason}); what is done is "
            "kept. Mend the network, name another host with --pypi, --debian or --npm, or read "
            "packages on disk with --from FOLDER, and run again"
        )
    raise FetchError(f"{_place(url)}: the host answers {reason} after {_TRIES} tries")


def _pause_seconds(attempt: int) -> float:
    return float(0.5 * 2**attempt)


def _request(url: str, accept: str) -> urllib.request.Request:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # its text may hold a part of a password
        usable = False
    if not usable:
        raise InputError(f"{masked(url)!r} is not a web address; expected http:// or https://")
    request = urllib.request.Request(
        _without_login(url), headers={"User-Agent": f"culet/{__version__}", "Accept": accept}
    )
    if parts.username:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        token = base64.b64encode(secret).decode()
        # unredirected: the password is for this host and not for where it sends us
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _tls() -> ssl.SSLContext:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"):
        if (file := os.environ.get(name)) and Path(file).is_file():
            return ssl.create_default_context(cafile=file)
    return ssl.create_default_context()
