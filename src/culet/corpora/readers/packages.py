"""A package: what it is asked for by, where it was found, and what is in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from culet.corpora.places.fetch import Remote
from culet.corpora.readers.archives import DEFAULT_LIMITS, Limits, read_members
from culet.corpora.readers.licences import is_licence_file, licence_of
from culet.errors import InputError

# deb: a Debian package; src: its source; index: a file of a Debian archive's index.
KINDS = ("deb", "src", "index", "pypi", "npm")


@dataclass(frozen=True)
class Wanted:
    """A package asked for by name.

    Attributes:
        kind: One of KINDS.
        name: Its name; for an index its path below dists/SUITE.
        version: The version; "" for the newest.
    """

    kind: str
    name: str
    version: str = ""

    @property
    def id(self) -> str:
        """Its name in manifests and messages, such as "pypi:requests"."""
        return f"{self.kind}:{self.name}" + (f"=={self.version}" if self.version else "")


def wanted(spec: str, kind: str) -> Wanted:
    """Return the package that "requests", "requests==2.32.0" or "pypi:requests" names.

    Args:
        spec: The name.
        kind: The kind if none stands in front of the name; one of KINDS.

    Raises:
        InputError: For an unknown kind, or a name that no package can have.
    """
    front, colon, rest = spec.partition(":")
    if colon and "==" not in front:  # versions of Debian may have a colon of their own
        kind, spec = front, rest
    name, _, version = spec.partition("==")
    if kind not in KINDS:
        raise InputError(f"{kind!r} is no kind of package; expected one of {', '.join(KINDS)}")
    if not re.fullmatch(r"@?[A-Za-z0-9][A-Za-z0-9+._/-]*", name) or ".." in name:
        raise InputError(f"{name!r} is not the name of a package")
    if version and not re.fullmatch(r"[A-Za-z0-9.+~:!-]+", version):
        raise InputError(f"{version!r} is not a version of a package")
    return Wanted(kind, name, version)


@dataclass(frozen=True)
class Found:
    """Where a wanted package is.

    Attributes:
        wanted: What was asked for.
        version: The version found.
        files: What to download; one file, or for sources several.
        local: The files themselves, if they are on disk already.
    """

    wanted: Wanted
    version: str
    files: tuple[Remote, ...] = ()
    local: tuple[Path, ...] = ()


def purl(item: Wanted, version: str, suite: str) -> str:
    """Return a name that is the same on every mirror: a package URL (github.com/package-url)."""
    if item.kind == "index":
        return f"pkg:generic/debian/{suite}/{item.name}@{quote(version)}"
    name = quote(item.name, safe="/")
    if item.kind in ("deb", "src"):
        arch = "&arch=source" if item.kind == "src" else ""
        return f"pkg:deb/debian/{name}@{quote(version)}?distro={suite}{arch}"
    return f"pkg:{item.kind}/{name}@{quote(version)}"


@dataclass
class Package:
    """A package that is on disk, to be read once.

    Attributes:
        wanted: What was asked for.
        version: Its version.
        files: Its files and their names.
        limits: Bounds on what its archives may hold.
        licence: The licence in its own files, once `members` has passed them.
        num_members: How many members `members` has yielded.
    """

    wanted: Wanted
    version: str
    files: tuple[tuple[Path, str], ...]
    limits: Limits = DEFAULT_LIMITS
    licence: str | None = None
    num_members: int = field(default=0, init=False)

    @property
    def name(self) -> str:
        """Its name without its kind."""
        return self.wanted.name

    def members(self, matching: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Yield (name, content) of the files of all archives that match, in their order.

        Raises:
            ArchiveError: See `read_members`.
        """

        def wanted(name: str) -> bool:
            return matching(name) or is_licence_file(name)

        for path, file_name in self.files:
            for name, data in read_members(path, wanted, limits=self.limits, file_name=file_name):
                if is_licence_file(name):
                    self.licence = self.licence or licence_of(name, data)
                if matching(name):
                    self.num_members += 1
                    yield name, data
