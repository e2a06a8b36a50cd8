"""Packages come from where this machine's tools take them, unless something else is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import package_doubles as doubles
import pytest

from culet.corpora.places import fetch
from culet.corpora.places.debian import DebianArchive, sort_key
from culet.corpora.places.fetch import (
    ChecksumError,
    FetchError,
    MissingPackage,
    Remote,
    Unreachable,
    download,
    get,
)
from culet.corpora.places.hosts import DEBIAN, NPM, PYPI, find_hosts
from culet.corpora.places.local import Folder
from culet.corpora.places.npm import Npm
from culet.corpora.places.pypi import PyPI
from culet.corpora.readers.packages import Wanted, purl, wanted
from culet.errors import InputError


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[doubles.Host]:
    monkeypatch.setattr(fetch, "_pause_seconds", lambda attempt: 0.0)
    with doubles.serving() as served:
        yield served


def machine(root: Path, files: dict[str, str]) -> dict[str, Path]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"home": root / "home", "root": root}


def test_where_nothing_is_set_the_hosts_are_the_public_ones(tmp_path: Path) -> None:
    hosts = find_hosts(environment={}, home=tmp_path, root=tmp_path)
    assert (hosts.pypi, hosts.debian, hosts.npm, hosts.suite) == (PYPI, DEBIAN, NPM, "bookworm")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("etc/apt/sources.list", "# old\ndeb [arch=amd64] http://a.example/debian bookworm main\n"),
        (
            "etc/apt/sources.list.d/d.sources",
            "Types: deb\nURIs: http://a.example/debian\nSuites: x\n",
        ),
    ],
)
def test_the_machines_own_settings_are_used(tmp_path: Path, name: str, text: str) -> None:
    other = "deb http://archive.example/ubuntu jammy main\n"
    files = {
        "etc/apt/sources.list": other,
        name: text,
        "etc/pip.conf": "[global]\nindex-url = https://pip.example/simple/\n",
        "home/.npmrc": "audit=false\nregistry=https://npm.example/\n",
    }
    hosts = find_hosts(environment={}, **machine(tmp_path, files))
    assert hosts.debian == "http://a.example/debian"
    assert hosts.pypi == "https://pip.example/simple"
    assert hosts.npm == "https://npm.example"


def test_what_is_asked_for_comes_first_then_the_environment(tmp_path: Path) -> None:
    files = {"etc/pip.conf": "[global]\nindex-url = https://pip.example/simple\n"}
    env = {"CULET_DEBIAN": "http://env.example/debian", "PIP_INDEX_URL": "https://env.example/s"}
    where = machine(tmp_path, files)
    hosts = find_hosts(pypi="https://asked.example/simple", environment=env, **where)
    assert (hosts.pypi, hosts.debian) == ("https://asked.example/simple", env["CULET_DEBIAN"])
    assert find_hosts(environment=env, **where).pypi == "https://env.example/s"


def test_a_download_is_checked_and_whole_or_not_there(host: doubles.Host, tmp_path: Path) -> None:
    data, to = b"package" * 1000, tmp_path / "package"
    host.files = {"x.deb": data}
    right = Remote(f"{host.address}/x.deb", "x.deb", "sha256", doubles.sha256(data), len(data))
    assert download(right, to) == doubles.sha256(data)
    assert to.read_bytes() == data
    for wrong, why in [
        (Remote(right.url, "x.deb", "sha256", "0" * 64), "x.deb: expected sha256 000.* got"),
        (Remote(right.url, "x.deb", "sha256", right.digest, 10), "is longer than the index says"),
        (Remote(right.url, "x.deb", "md5", "0" * 32), "'md5'; expected one of sha512, sha256"),
    ]:
        to.unlink(missing_ok=True)
        with pytest.raises(ChecksumError, match=why):
            download(wrong, to)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(FetchError, match=r"has 9,999,999,999 bytes; at most"):
        download(Remote(right.url, "x.deb", "sha256", right.digest, 9_999_999_999), to)


def test_errors_of_the_host_are_told_apart(host: doubles.Host) -> None:
    host.files = {"broken": 503, "forbidden": 403, "long": b"x" * 100}
    with pytest.raises(MissingPackage, match=r"/nothing does not exist \(HTTP 404\)"):
        get(f"{host.address}/nothing")
    with pytest.raises(FetchError, match=r"/forbidden: the host answers HTTP 403"):
        get(f"{host.address}/forbidden")
    with pytest.raises(FetchError, match=r"/broken: the host answers HTTP 503 after 4 tries"):
        get(f"{host.address}/broken")
    assert host.asked.count("broken") == 4
    assert host.asked.count("forbidden") == 1
    with pytest.raises(FetchError, match=r"/long is longer than 10 bytes"):
        get(f"{host.address}/long", limit=10)
    with pytest.raises(InputError, match=r"not a web address; expected http"):
        get("file:///etc/passwd")


def test_without_a_network_the_message_says_what_to_do(host: doubles.Host) -> None:
    closed = host.address
    with doubles.serving() as other:
        closed = other.address
    with pytest.raises(Unreachable, match=r"cannot reach 127.0.0.1.*what is done is kept.*--from"):
        get(f"{closed}/x")


def test_a_password_goes_into_the_header_and_not_into_messages(host: doubles.Host) -> None:
    host.files = {"x": b"x", "secret": 403}
    address = host.address.replace("http://", "http://me:pass%40word@")
    get(f"{address}/x")
    assert host.headers["Authorization"] == "Basic bWU6cGFzc0B3b3Jk"
    with pytest.raises(FetchError) as error:
        get(f"{address}/secret")
    assert "pass" not in str(error.value)


def test_a_debian_archive_is_followed_from_its_release_file(
    host: doubles.Host, tmp_path: Path
) -> None:
    debs = {"one": ("1.0-1", b"deb of one"), "two": ("2:2.0~rc1-1", b"deb of two")}
    sources = (
        "Package: three\nVersion: 3-1\nDirectory: pool/t\nChecksums-Sha256:\n"
        f" {'a' * 64} 10 three_3.orig.tar.xz\n {'b' * 64} 5 three_3.orig.tar.xz.asc\n"
        f" {'c' * 64} 20 three_3-1.debian.tar.xz\n {'d' * 64} 9 three_3-1.dsc\n"
    )
    host.files = dict(doubles.debian_archive(debs, indices={"main/source/Sources": sources}))
    archive = DebianArchive(host.address, "bookworm", tmp_path, say=lambda _: None)
    one, three = Wanted("deb", "one"), Wanted("src", "three")
    archive.prepare([one, three])
    found = archive.find(one)
    assert (found.version, found.files[0].digest) == ("1.0-1", doubles.sha256(b"deb of one"))
    download(found.files[0], tmp_path / "one")
    assert [(f.name, f.size) for f in archive.find(three).files] == [
        ("three_3.orig.tar.xz", 10),
        ("three_3-1.debian.tar.xz", 20),
    ]
    with pytest.raises(MissingPackage, match=r"Debian bookworm does not have the package four"):
        archive.find(Wanted("deb", "four"))
    with pytest.raises(MissingPackage, match=r"does not have the index main/i18n/Translation-xx"):
        archive.find(Wanted("index", "main/i18n/Translation-xx"))
    index = archive.find(Wanted("index", "main/source/Sources"))
    assert index.version == "Sat, 01 Jan 2022 00:00:00 UTC"


def test_an_index_that_was_changed_on_its_way_is_refused(
    host: doubles.Host, tmp_path: Path
) -> None:
    host.files = dict(doubles.debian_archive({"one": ("1", b"x")}))
    host.files["dists/bookworm/main/binary-amd64/Packages.xz"] = b"other"
    archive = DebianArchive(host.address, "bookworm", tmp_path, say=lambda _: None)
    with pytest.raises(ChecksumError, match=r"Packages.xz: expected sha256"):
        archive.prepare([Wanted("deb", "one")])
    with pytest.raises(MissingPackage, match=r"expected a Debian archive with the release 'sid'"):
        DebianArchive(host.address, "sid", tmp_path, say=lambda _: None).prepare(
            [Wanted("deb", "one")]
        )


def test_debian_versions_have_their_own_order() -> None:
    mixed = ["1:0.1-1", "1.10-1", "1.0+b1-1", "1.0-2", "1.0~rc1-1", "1.0-1"]
    right = ["1.0~rc1-1", "1.0-1", "1.0-2", "1.0+b1-1", "1.10-1", "1:0.1-1"]
    assert sorted(mixed, key=sort_key) == right


def test_of_a_project_the_newest_pure_wheel_is_read(host: doubles.Host) -> None:
    names = [
        "demo-1.0-py3-none-any.whl",
        "demo-1.2.tar.gz",
        "demo-1.2-cp311-cp311-manylinux_2_28_x86_64.whl",
        "demo-1.2-py3-none-any.whl",
        "demo-2.0rc1-py3-none-any.whl",
        "demo-1.3.exe",
    ]
    host.files = {"simple/a-demo/": doubles.simple_page({name: name.encode() for name in names})}
    index = PyPI(f"{host.address}/simple")
    found = index.find(Wanted("pypi", "A_Demo"))
    assert (found.version, found.files[0].name) == ("1.2", "demo-1.2-py3-none-any.whl")
    assert found.files[0].digest == doubles.sha256(b"demo-1.2-py3-none-any.whl")
    assert index.find(Wanted("pypi", "a-demo", "1.0")).files[0].name == names[0]
    with pytest.raises(MissingPackage, match=r"no wheel or source of a-demo in version 9"):
        index.find(Wanted("pypi", "a-demo", "9"))
    with pytest.raises(MissingPackage, match=r"the index has no project other"):
        index.find(Wanted("pypi", "other"))


def test_an_index_may_answer_in_json_and_yanked_files_are_left(host: doubles.Host) -> None:
    files = [
        {"filename": "demo-1.tar.gz", "url": "../x/demo-1.tar.gz", "hashes": {"sha256": "a" * 64}},
        {"filename": "demo-2.tar.gz", "url": "y", "hashes": {}, "yanked": "broken"},
    ]
    host.files = {"simple/demo/": json.dumps({"files": files}).encode()}
    found = PyPI(f"{host.address}/simple").find(Wanted("pypi", "demo"))
    assert found.files[0].url == f"{host.address}/simple/x/demo-1.tar.gz"
    host.files = {"simple/demo/": b'{"nothing": 1}'}
    with pytest.raises(FetchError, match=r"no simple index"):
        PyPI(f"{host.address}/simple").find(Wanted("pypi", "demo"))


def test_an_npm_package_is_found_with_its_integrity(host: doubles.Host) -> None:
    data = doubles.tgz({"package/package.json": "{}"})
    host.files = {
        "demo/latest": doubles.npm_document("demo", "1.2.3", data, NPM),
        "@a%2Fb/latest": doubles.npm_document("@a/b", "1", data, host.address),
        "@a/b/latest": doubles.npm_document("@a/b", "1", data, host.address),
        "old/latest": json.dumps(
            {"version": "1", "dist": {"tarball": "http://x/y", "shasum": "ab" * 20}}
        ).encode(),
        "none/latest": b"[]",
    }
    registry = Npm(host.address)
    (remote,) = registry.find(Wanted("npm", "demo")).files
    # the registry names the public host, and the mirror is asked
    assert remote.url == f"{host.address}/demo/-/x.tgz"
    assert (remote.algorithm, remote.digest) == ("sha512", hashlib.sha512(data).hexdigest())
    assert registry.find(Wanted("npm", "@a/b")).files[0].name == "a-b-1.tgz"
    assert registry.find(Wanted("npm", "old")).files[0].algorithm == "sha1"
    with pytest.raises(FetchError, match=r"of none is no JSON object"):
        registry.find(Wanted("npm", "none"))
    with pytest.raises(MissingPackage, match=r"npm has no package gone in version latest"):
        registry.find(Wanted("npm", "gone"))


def test_packages_on_disk_are_found_by_their_names(tmp_path: Path) -> None:
    for name in [
        "one_1.0-1_all.deb",
        "one_1.10-1_all.deb",
        "one-more_9_all.deb",
        "Demo_X-1.0-py3-none-any.whl",
        "a-b-2.0.tgz",
        "three_3.orig.tar.xz",
        "three_3-1.debian.tar.xz",
        "host_debian_dists_bookworm_main_i18n_Translation-de.bz2",
    ]:
        (tmp_path / name).write_bytes(b"x")
    folder = Folder(tmp_path)

    def names(spec: str) -> list[str]:
        return [path.name for path in folder.find(wanted(spec, "deb")).local]

    assert names("one") == ["one_1.10-1_all.deb"]
    assert names("one==1.0-1") == ["one_1.0-1_all.deb"]
    assert names("pypi:demo.x") == ["Demo_X-1.0-py3-none-any.whl"]
    assert names("npm:@a/b") == ["a-b-2.0.tgz"]
    assert names("src:three") == ["three_3-1.debian.tar.xz", "three_3.orig.tar.xz"]
    assert len(names("index:main/i18n/Translation-de")) == 1
    with pytest.raises(MissingPackage, match=r"holds no file that is the package deb:two"):
        folder.find(Wanted("deb", "two"))
    with pytest.raises(InputError, match=r"is not a folder"):
        Folder(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("gem:rails", "'gem' is no kind of package; expected one of deb"),
        ("../../etc", "is not the name of a package"),
        ("a b", "is not the name of a package"),
        ("x==1 2", "is not a version"),
    ],
)
def test_a_name_no_package_can_have_is_refused(spec: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        wanted(spec, "deb")


def test_a_version_may_have_a_colon() -> None:
    assert (
        wanted("one==1:2-3", "deb")
        == wanted("deb:one==1:2-3", "npm")
        == Wanted("deb", "one", "1:2-3")
    )


def test_names_in_manifests_hold_on_every_mirror() -> None:
    assert purl(Wanted("npm", "@a/b"), "1", "x") == "pkg:npm/%40a/b@1"
    assert purl(Wanted("pypi", "demo"), "1", "x") == "pkg:pypi/demo@1"
    assert purl(Wanted("deb", "one"), "1:2", "sid") == "pkg:deb/debian/one@1%3A2?distro=sid"
