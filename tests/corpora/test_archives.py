"""Archives are read in memory; hostile ones are refused before they cost anything."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import package_doubles as doubles
import pytest

from culet.corpora.readers.archives import ArchiveError, Limits, gunzip, open_unpacked, read_members
from culet.errors import MissingExtra

FILES = {"usr/share/a.txt": "first", "usr/share/b.txt": "second\n" * 1000}


def read(path: Path, data: bytes, **settings: Limits) -> dict[str, bytes]:
    path.write_bytes(data)
    return dict(read_members(path, lambda name: True, **settings))


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2", "zst"])
def test_a_deb_is_read_whatever_it_is_packed_with(tmp_path: Path, compression: str) -> None:
    found = read(tmp_path / "x_1_all.deb", doubles.deb(FILES, compression=compression))
    assert found == {name: text.encode() for name, text in FILES.items()}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.tar.gz", doubles.tgz(FILES)),
        ("x.tgz", doubles.tgz(FILES)),
        ("x.tar.xz", lzma.compress(doubles.tar(FILES))),
        ("x.tar.bz2", bz2.compress(doubles.tar(FILES))),
        ("x.tar", doubles.tar(FILES)),
        ("x-1-py3-none-any.whl", doubles.wheel(FILES)),
    ],
)
def test_tars_and_wheels_are_read(tmp_path: Path, name: str, data: bytes) -> None:
    assert read(tmp_path / name, data) == {n: text.encode() for n, text in FILES.items()}


def test_several_xz_streams_in_a_row_are_one_file(tmp_path: Path) -> None:
    packed = doubles.tar(FILES)
    halves = lzma.compress(packed[:2000]) + b"\0" * 4 + lzma.compress(packed[2000:])
    assert read(tmp_path / "x.tar.xz", halves).keys() == FILES.keys()


def test_only_what_is_wanted_is_yielded(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(doubles.deb(FILES))
    assert [n for n, _ in read_members(path, lambda n: n.endswith("b.txt"))] == ["usr/share/b.txt"]


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../out.txt", "a/../../out.txt", "a\\..\\..\\b", "C:x"]
)
@pytest.mark.parametrize("kind", ["tar", "whl", "deb"])
def test_a_name_that_points_out_of_the_archive_refuses_it(
    tmp_path: Path, name: str, kind: str
) -> None:
    files = {"fine.txt": "fine", name: "bad"}
    if kind == "deb":  # `deb` puts "./" in front, which would hide an absolute name
        packed = lzma.compress(doubles.tar(files))
        data = doubles.ar({"debian-binary": b"2.0\n", "data.tar.xz": packed})
    else:
        data = doubles.tar(files) if kind == "tar" else doubles.wheel(files)
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(ArchiveError, match=r"points out of the archive"):
        read(inside / f"x.{kind}", data)
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", f"x.{kind}"]


def test_links_are_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    links = {"usr/link.txt": str(secret), "usr/up.txt": "../../secret.txt"}
    assert read(tmp_path / "x.deb", doubles.deb(FILES, links=links)).keys() == FILES.keys()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(secret))
    assert read(tmp_path / "x.whl", packed.getvalue()) == {}


def test_a_large_member_is_passed_over_and_a_large_archive_refused(tmp_path: Path) -> None:
    limits = Limits(member_bytes=100, archive_bytes=10_000, members=10)
    assert read(tmp_path / "x.deb", doubles.deb(FILES), limits=limits) == {
        "usr/share/a.txt": b"first"
    }
    bomb = doubles.tgz({f"{n}.txt": "0" * 3000 for n in range(4)})
    with pytest.raises(ArchiveError, match=r"x.tgz: unpacks to more than 10,000 bytes"):
        read(tmp_path / "x.tgz", bomb, limits=limits)
    many = doubles.tgz({f"{n}.txt": "0" for n in range(11)})
    with pytest.raises(ArchiveError, match=r"holds more than 10 members"):
        read(tmp_path / "x.tgz", many, limits=limits)
    with pytest.raises(ArchiveError, match=r"unpacks to more than 10,000 bytes"):
        read(tmp_path / "x.whl", doubles.wheel({"a": "0" * 20_000}), limits=limits)


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    zeros = gzip.compress(b"\0" * (64 << 20))  # 64 MB in 64 KB
    header = tarfile.TarInfo("x.txt")
    header.size = 8 << 30
    bomb = gzip.compress(header.tobuf(tarfile.GNU_FORMAT)) + zeros
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 60 << 20
    named = gzip.compress(long_name.tobuf(tarfile.GNU_FORMAT)) + zeros
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match=r"unpacks to more than"):
            read(tmp_path / "a.tgz", bomb)
        with pytest.raises(ArchiveError, match=r"unpacks to more than its headers say"):
            read(tmp_path / "b.tgz", named)
        with pytest.raises(ArchiveError, match=r"unpacks to more than 1,000 bytes"):
            gunzip(zeros, 1000)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_zip_that_lies_about_lengths_is_refused(tmp_path: Path) -> None:
    data = doubles.wheel({"a.txt": "0123456789"})
    central = data.rindex(b"PK\x01\x02")
    short = data[: central + 24] + (5).to_bytes(4, "little") + data[central + 28 :]
    with pytest.raises(ArchiveError, match=r"x.whl: "):
        read(tmp_path / "x.whl", short)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("x.deb", b"no archive at all", "does not begin like an ar archive"),
        ("x.deb", doubles.ar({"debian-binary": b"2.0\n"}), "holds no data.tar"),
        ("x.deb", doubles.ar({"data.tar.xz": b"damaged"}), "cannot be read as an archive"),
        ("x.deb", b"!<arch>\n" + b"x" * 60, "has a damaged ar header"),
        ("x.tar.gz", doubles.tgz(FILES)[:-40], "cannot be read as an archive"),
        ("x.tar.xz", lzma.compress(doubles.tar(FILES))[:-40], "cannot be read as an archive"),
        ("x.whl", b"PK\x03\x04 not", "cannot be read as an archive"),
        ("x.rar", b"Rar!", "expected a .deb, .whl, .zip or .tar"),
    ],
)
def test_a_damaged_archive_is_named(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    with pytest.raises(ArchiveError, match=f"{name}.*{why}"):
        read(tmp_path / name, data)


def test_without_zstandard_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = doubles.deb(FILES, compression="zst")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtra, match=r"culet\[corpora\]"):
        read(tmp_path / "x.deb", data)


def test_an_index_is_a_bounded_stream(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_bytes(bz2.compress(b"line\n" * 1000))
    with open_unpacked(path, "Packages.bz2", 10_000) as stream:
        assert sum(1 for _ in stream) == 1000
    with (
        pytest.raises(ArchiveError, match=r"Packages.bz2: unpacks to more"),
        open_unpacked(path, "Packages.bz2", 4000) as stream,
    ):
        stream.read()
