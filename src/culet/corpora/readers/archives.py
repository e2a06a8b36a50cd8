"""Archives read as a stream of (name, bytes), with nothing unpacked and nothing run.

What comes from outside may be hostile, so every number is bounded before anything is allocated:
bytes of a member, bytes and members of an archive, memory of a decompressor. An archive with a name
that points out of it (absolute, or with "..") is refused; links and devices are skipped, since the
file they point to is in the archive anyway. Nothing is ever written to disk.

Formats: .deb (ar(5) with a data.tar inside; deb(5)), .tar with gzip, bzip2, xz or zstd, .whl/.zip.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, cast

from culet.errors import InputError, MissingExtra, need

_BLOCK = 1 << 20
_HEADER_BYTES = 1 << 20  # of one tar member, with its extended headers
_DECODER_MEMORY = 512 << 20  # xz -9 needs 65 MB
_DAMAGE = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, struct.error)


class ArchiveError(InputError):
    """An archive that is damaged, hostile, or of a kind that is not read."""


@dataclass(frozen=True)
class Limits:
    """Bounds on what an archive may hold.

    Attributes:
        member_bytes: Larger members are skipped.
        archive_bytes: All members together, unpacked.
        members: Number of members.
    """

    member_bytes: int = 32 << 20
    archive_bytes: int = 4 << 30
    members: int = 400_000


DEFAULT_LIMITS = Limits()


def read_members(
    path: Path,
    wanted: Callable[[str], bool],
    *,
    limits: Limits = DEFAULT_LIMITS,
    file_name: str | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yield the regular files of an archive that are wanted, in its order.

    Args:
        path: The archive.
        wanted: Whether to read a member, by its name ("usr/share/doc/x/copyright").
        limits: Bounds on what the archive may hold.
        file_name: Its name if the file on disk has another one; the ending names the format.

    Raises:
        ArchiveError: Unknown ending, damaged content, a name that points out of the archive, or
            more than the limits allow.
    """
    name = file_name or path.name
    try:
        if name.endswith(".deb"):
            yield from _deb_members(path, wanted, limits)
        elif name.endswith((".whl", ".zip")):
            yield from _zip_members(path, wanted, limits)
        elif tar_compression(name) is not None:
            with path.open("rb") as file:
                yield from _tar_members(file, name, wanted, limits)
        else:
            raise ArchiveError(
                f"{name}: expected a .deb, .whl, .zip or .tar with .gz, .bz2, .xz or .zst"
            )
    except ArchiveError as error:
        raise ArchiveError(f"{name}: {error}") if name not in str(error) else error from None
    except MissingExtra:
        raise
    except (*_DAMAGE, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise ArchiveError(f"{name}: cannot be read as an archive: {error}") from error


def tar_compression(name: str) -> str | None:
    """Return "", "gz", "bz2", "xz" or "zst" for the name of a tar, None for another name."""
    for ending, kind in {
        ".tar": "",
        ".tar.gz": "gz",
        ".tgz": "gz",
        ".tar.bz2": "bz2",
        ".tar.xz": "xz",
        ".tar.lzma": "xz",
        ".tar.zst": "zst",
    }.items():
        if name.endswith(ending):
            return kind
    return None


@contextmanager
def open_unpacked(path: Path, name: str, limit: int) -> Iterator[io.BufferedReader]:
    """Open a single compressed file (.xz, .gz, .bz2 or none by its name) as a bounded stream.

    Raises:
        ArchiveError: When it is damaged or longer than `limit` bytes.
    """
    kind = name.rpartition(".")[2]
    try:
        with path.open("rb") as file:
            plain = _Bounded(_decoder(file, kind if kind in ("xz", "gz", "bz2", "zst") else ""))
            plain.allow(limit)
            yield io.BufferedReader(plain, _BLOCK)
    except ArchiveError as error:
        raise ArchiveError(f"{name}: {error}") from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ArchiveError(f"{name}: is damaged: {error}") from error


def gunzip(data: bytes, limit: int = DEFAULT_LIMITS.member_bytes) -> bytes:
    """Return the content of gzip data.

    Raises:
        ArchiveError: When it is damaged or unpacks to more than `limit` bytes.
    """
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(data)).read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveError(f"gzip data is damaged: {error}") from error
    if len(unpacked) > limit:
        raise ArchiveError(f"gzip data unpacks to more than {limit:,} bytes")
    return unpacked


class _Tally:
    """How many members and bytes of an archive were seen."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.members = self.bytes = 0

    def member(self, name: str, size: int) -> str:
        """Count a member and return its name without "./"; refuse what no honest archive has."""
        self.members += 1
        if self.members > self.limits.members:
            raise ArchiveError(f"holds more than {self.limits.members:,} members")
        self.bytes += max(size, 0)
        if self.bytes > self.limits.archive_bytes:
            raise ArchiveError(f"unpacks to more than {self.limits.archive_bytes:,} bytes")
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or "\0" in name or name[1:2] == ":":
            raise ArchiveError(f"the member {name!r} points out of the archive; nothing was read")
        return str(path)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Bounded(io.RawIOBase):
    """A stream that gives at most what the last call of `allow` allowed."""

    def __init__(self, source: _Readable) -> None:
        self._source = source
        self._left = 0

    def allow(self, count: int) -> None:
        """Let this many more bytes be read, beginning now."""
        self._left = count

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > _BLOCK:
            size = _BLOCK
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ArchiveError("unpacks to more than its headers say, or than is allowed")
        return data

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Decoded:
    """An xz or bzip2 file, decoded a bounded piece at a time."""

    def __init__(self, file: _Readable, new: Callable[[], _Decompressor]) -> None:
        self._file, self._new, self._decoder = file, new, new()
        self._started = False

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        while True:
            rest = b""
            if self._decoder.eof:  # several streams may stand one after another
                rest = self._decoder.unused_data.lstrip(b"\0") or self._file.read(_BLOCK).lstrip(
                    b"\0"
                )
                if not rest:
                    return b""
                self._decoder = self._new()
            elif self._decoder.needs_input:
                rest = self._file.read(_BLOCK)
                if not rest:
                    raise EOFError("the compressed data ends too early")
            data = self._decoder.decompress(rest, max_length=size)
            if data:
                return data


def _decoder(file: _Readable, kind: str) -> _Readable:
    if kind == "xz":
        return _Decoded(file, lambda: lzma.LZMADecompressor(memlimit=_DECODER_MEMORY))
    if kind == "bz2":
        return _Decoded(file, bz2.BZ2Decompressor)
    if kind == "gz":
        return gzip.GzipFile(fileobj=cast(IO[bytes], file))
    if kind == "zst":
        return _zstandard(file)
    return file


def _zstandard(file: _Readable) -> _Readable:
    purpose = "reading a package compressed with zstd"
    zstandard = need("zstandard", extra="corpora", purpose=purpose)
    decoder = zstandard.ZstdDecompressor(max_window_size=_DECODER_MEMORY >> 1)
    stream: _Readable = decoder.stream_reader(cast(IO[bytes], file), read_across_frames=True)
    return stream


def _tar_members(
    file: _Readable, name: str, wanted: Callable[[str], bool], limits: Limits
) -> Iterator[tuple[str, bytes]]:
    plain = _Bounded(_decoder(file, tar_compression(name) or ""))
    tally, unread = _Tally(limits), 0
    # A header may announce a long name of any length, so headers have an allowance of their own.
    plain.allow(_HEADER_BYTES)
    with tarfile.open(fileobj=plain, mode="r|") as tar:
        while True:
            plain.allow(unread + _HEADER_BYTES)
            member = tar.next()
            if member is None:
                return
            tar.members = []  # type: ignore[attr-defined]  # a stream is read once; keeping all headers would fill the memory
            unread = member.size if member.isreg() else 0
            inner = tally.member(member.name, member.size if member.isreg() else 0)
            if member.isreg() and member.size <= limits.member_bytes and wanted(inner):
                plain.allow(member.size + _HEADER_BYTES)
                content = tar.extractfile(member)
                data = content.read(member.size) if content else b""
                if len(data) < member.size:
                    raise ArchiveError(f"ends in the middle of {inner}")
                unread = 0
                yield inner, data


def _zip_members(
    path: Path, wanted: Callable[[str], bool], limits: Limits
) -> Iterator[tuple[str, bytes]]:
    tally = _Tally(limits)
    with zipfile.ZipFile(path) as archive:
        entries = [(tally.member(i.filename, i.file_size), i) for i in archive.infolist()]
        for name, info in entries:
            mode = info.external_attr >> 16
            if info.is_dir() or (mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG)):
                continue
            if info.file_size > limits.member_bytes or not wanted(name):
                continue
            with archive.open(info) as content:
                data = content.read(info.file_size + 1)
            if len(data) != info.file_size:
                raise ArchiveError(f"{name} is not as long as the archive says")
            yield name, data


def _deb_members(
    path: Path, wanted: Callable[[str], bool], limits: Limits
) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        for name, start, size in _ar_entries(file):
            if name.startswith("data.tar"):
                file.seek(start)
                yield from _tar_members(_Slice(file, size), name, wanted, limits)
                return
    raise ArchiveError("holds no data.tar; expected a Debian package")


def _ar_entries(file: IO[bytes]) -> Iterator[tuple[str, int, int]]:
    """Yield (name, first byte, length) of the members of an ar archive."""
    if file.read(8) != b"!<arch>\n":
        raise ArchiveError("does not begin like an ar archive; expected a Debian package")
    while header := file.read(60):
        if len(header) < 60 or header[58:] != b"`\n":
            raise ArchiveError("has a damaged ar header")
        size = int(header[48:58])
        if size < 0:
            raise ArchiveError("has a damaged ar header")
        start = file.tell()
        yield header[:16].decode("ascii", "replace").rstrip().rstrip("/"), start, size
        file.seek(start + size + size % 2)


class _Slice(io.RawIOBase):
    """The next `size` bytes of a file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        count = self._left if size is None or size < 0 else min(size, self._left)
        data = self._file.read(count)
        self._left -= len(data)
        return data

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)
