"""A corpus that is built once more: what is there is believed only while it is what was built."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import package_doubles as doubles
import pytest
from corpus_doubles import corpus, deb, manifest, rows, run, serve

from culet.corpora.manifest import sha256_of
from culet.corpora.places import fetch
from culet.errors import InputError

ONE = {"en": "pair|a question|an answer\nfact|a|is|b\n", "de": "text|Ein Satz. \n"}
FILES = ("pairs.jsonl.gz", "text.jsonl.gz", "triples.jsonl.gz")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[doubles.Host]:
    monkeypatch.setattr(fetch, "_pause_seconds", lambda attempt: 0.0)
    with doubles.serving() as served:
        serve(served, one=deb(ONE))
        yield served


def built(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "demo").glob("*.*")}


def downloads(host: doubles.Host) -> list[str]:
    return [path.rpartition("/")[2] for path in host.asked if path.startswith("pool")]


def test_a_manifest_names_each_file_with_its_size_and_sum(
    host: doubles.Host, tmp_path: Path
) -> None:
    run(host, corpus("one"), tmp_path)
    files = built(tmp_path)
    assert manifest(tmp_path)["files"] == [
        {"name": name, "bytes": len(files[name]), "sha256": doubles.sha256(files[name])}
        for name in FILES
    ]
    serve(host, one=deb({"en": "pair|a question|an answer\n"}))
    run(host, corpus("one", method=2), tmp_path)
    assert [file["name"] for file in manifest(tmp_path)["files"]] == ["pairs.jsonl.gz"]


@pytest.mark.parametrize("content", [None, b"", b"other"], ids=["gone", "emptied", "written over"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_what_was_built_is_assembled_again(
    host: doubles.Host, tmp_path: Path, name: str, content: bytes | None
) -> None:
    run(host, corpus("one"), tmp_path)
    first = built(tmp_path)
    host.asked.clear()
    file = tmp_path / "demo" / name
    file.unlink() if content is None else file.write_bytes(content)
    again, said = run(host, corpus("one"), tmp_path)
    assert said == [f"{tmp_path / 'demo'} is assembled again: {name} gone or changed"]
    assert again.counts == {"pairs": 1, "text": 1, "triples": 1}
    assert (built(tmp_path), host.asked) == (first, [])
    assert run(host, corpus("one"), tmp_path)[1] == [f"{tmp_path / 'demo'} is built already"]


def test_a_byte_that_changed_in_place_is_seen(host: doubles.Host, tmp_path: Path) -> None:
    run(host, corpus("one"), tmp_path)
    first = built(tmp_path)
    data = bytearray(first["pairs.jsonl.gz"])
    data[-9] ^= 1
    (tmp_path / "demo" / "pairs.jsonl.gz").write_bytes(data)
    run(host, corpus("one"), tmp_path)
    assert built(tmp_path) == first


def test_a_file_that_was_not_built_does_not_pass_for_one(
    host: doubles.Host, tmp_path: Path
) -> None:
    serve(host, one=deb({"en": "pair|a question|an answer\n"}))
    run(host, corpus("one"), tmp_path)
    (tmp_path / "demo" / "text.jsonl.gz").write_bytes(b"of another corpus")
    _, said = run(host, corpus("one"), tmp_path)
    assert any("text.jsonl.gz gone or changed" in line for line in said)
    assert not (tmp_path / "demo" / "text.jsonl.gz").exists()


def test_a_file_that_cannot_be_read_is_assembled_again(
    host: doubles.Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(host, corpus("one"), tmp_path)
    failures = [OSError(5, "Input/output error")]

    def failing_once(path: Path) -> str:
        if failures:
            raise failures.pop()
        return sha256_of(path)

    monkeypatch.setattr("culet.corpora.manifest.sha256_of", failing_once)
    _, said = run(host, corpus("one"), tmp_path)
    assert "again: not all of it can be read ([Errno 5] Input/output error)" in said[0]
    assert run(host, corpus("one"), tmp_path)[1] == [f"{tmp_path / 'demo'} is built already"]


def test_a_manifest_without_sums_of_its_files_is_not_believed(
    host: doubles.Host, tmp_path: Path
) -> None:
    """As those of versions that kept none."""
    run(host, corpus("one"), tmp_path)
    first = built(tmp_path)
    host.asked.clear()
    older = {key: value for key, value in manifest(tmp_path).items() if key != "files"}
    (tmp_path / "demo" / "manifest.json").write_text(json.dumps(older))
    _, said = run(host, corpus("one"), tmp_path)
    assert said == [
        f"{tmp_path / 'demo'} is assembled again: its manifest does not say which files it has"
    ]
    assert (built(tmp_path), host.asked) == (first, [])


def test_a_part_that_is_gone_as_well_is_read_again(host: doubles.Host, tmp_path: Path) -> None:
    run(host, corpus("one"), tmp_path)
    first = built(tmp_path)
    host.asked.clear()
    (tmp_path / "demo" / "pairs.jsonl.gz").unlink()
    (tmp_path / "demo" / "parts" / "deb_one.jsonl.gz").unlink()
    run(host, corpus("one"), tmp_path)
    assert built(tmp_path) == first
    assert downloads(host) == ["one_1-1_all.deb"]


def test_a_part_with_fewer_rows_than_were_read_is_damaged(
    host: doubles.Host, tmp_path: Path
) -> None:
    run(host, corpus("one"), tmp_path)
    (tmp_path / "demo" / "pairs.jsonl.gz").unlink()
    (tmp_path / "demo" / "parts" / "deb_one.jsonl.gz").write_bytes(b"")  # whole to gzip
    with pytest.raises(
        InputError, match=r"deb_one.jsonl.gz is damaged \(0 rows in place of 3\); delete it"
    ):
        run(host, corpus("one"), tmp_path)


def test_no_record_stays_beside_the_rows_of_other_files(
    host: doubles.Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends between the rows of a package and its record."""
    run(host, corpus("one"), tmp_path)

    def ended(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("culet.corpora.build._write_json", ended)
    with pytest.raises(KeyboardInterrupt):
        run(host, corpus("one", method=2), tmp_path)
    parts = tmp_path / "demo" / "parts"
    assert [path.name for path in parts.iterdir()] == ["deb_one.jsonl.gz"]


def test_a_package_done_from_other_files_is_read_again_for_a_manifest_to_be_like(
    host: doubles.Host, tmp_path: Path
) -> None:
    two = deb({"en": "pair|both|have this\n"})
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    serve(host, one=deb(ONE), two=two)
    run(host, corpus("one", "two"), theirs)
    like = theirs / "demo" / "manifest.json"
    serve(host, one=deb({"en": "pair|a question|another answer\n"}), two=two)
    names = ["one==1-1", "two==1-1"]
    run(host, corpus(), ours, packages=names)
    first = built(ours)

    # The host still has the other files: the package is left out, as any that cannot be had.
    again, said = run(host, corpus(), ours, like=like)
    assert "has other files than the manifest" in again.failed["deb:one==1-1"]
    assert (again.counts["pairs"], [row["query"] for row in rows(ours)]) == (1, ["both"])
    assert manifest(ours)["left_out"] == again.failed
    assert not any("built already" in line for line in said)

    # What was read of them still serves whoever asks for no sums.
    host.asked.clear()
    run(host, corpus(), ours, packages=names)
    assert (built(ours), host.asked) == (first, [])

    # With their files the same bytes come out, and the record speaks of them from then on.
    serve(host, one=deb(ONE), two=two)
    assert run(host, corpus(), ours, like=like)[0].failed == {}
    assert downloads(host) == ["one_1-1_all.deb"]
    assert [built(ours)[name] for name in FILES] == [built(theirs)[name] for name in FILES]
    host.asked.clear()
    assert "built already" in run(host, corpus(), ours, packages=names)[1][0]
    assert "built already" in run(host, corpus(), ours, like=like)[1][0]
    assert host.asked == []


def test_an_index_of_another_day_is_not_the_one_of_a_manifest_to_be_like(
    host: doubles.Host, tmp_path: Path
) -> None:
    """An index has no version, so only its sum tells."""
    one, kept = corpus("index:main/lines.tar"), {}
    for name, answer in (("theirs", "an answer"), ("ours", "another answer")):
        lines = doubles.tar({"en.txt": f"pair|a question|{answer}\n"})
        host.files = dict(doubles.debian_archive({}, indices={"main/lines.tar": lines}))
        run(host, one, tmp_path / name)
        kept[name] = rows(tmp_path / name)
    assert kept["theirs"] != kept["ours"]
    like = tmp_path / "theirs" / "demo" / "manifest.json"
    again, _ = run(host, corpus(), tmp_path / "ours", like=like)
    assert "has other files than the manifest" in again.failed["index:main/lines.tar"]
