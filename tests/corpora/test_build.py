"""A corpus is built package by package: resumable, isolated, the same from the same packages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import package_doubles as doubles
import pytest
from corpus_doubles import corpus, deb, manifest, read_lines, rows, run, serve

from culet.cli import main as cli
from culet.corpora import catalogue
from culet.corpora.build import build
from culet.corpora.corpus import Corpus
from culet.corpora.places import fetch
from culet.corpora.places.hosts import Hosts
from culet.corpora.readers.archives import Limits
from culet.corpora.readers.packages import Package
from culet.corpora.rows import Row
from culet.data.records import read_records
from culet.errors import InputError


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[doubles.Host]:
    monkeypatch.setattr(fetch, "_pause_seconds", lambda attempt: 0.0)
    with doubles.serving() as served:
        yield served


def test_packages_become_pairs_texts_and_facts_with_a_manifest(
    host: doubles.Host, tmp_path: Path
) -> None:
    one = deb(
        {"en": "pair|what is it|it is this|it is that\nkey|k|The house is big\nfact|a|is|b\n"}
    )
    two = deb({"de": "key|k|Das Haus ist groß\nkey|other|Ohne Gegenstück\ntext|Ein Satz. \n"})
    serve(host, one=one, two=two)
    built, _ = run(host, corpus("two", "one"), tmp_path)
    assert built.counts == {"pairs": 2, "text": 1, "triples": 1}
    assert built.failed == {}
    assert rows(tmp_path) == [
        {
            "query": "The house is big",
            "positive": "Das Haus ist groß",
            "lang": "en-de",
            "source": "demo/parallel",
        },
        {
            "query": "what is it",
            "positive": "it is this",
            "negatives": ["it is that"],
            "lang": "en",
            "source": "demo/line",
        },
    ]
    assert rows(tmp_path, "triples") == [{"s": "a", "r": "is", "o": "b"}]
    assert rows(tmp_path, "text")[0]["lang"] == "de"
    stored = manifest(tmp_path)
    assert stored["counts"] == {"pairs": 2, "text": 1, "triples": 1}
    assert stored["languages"] == {"en-de": 1, "en": 1}
    entry = {package["id"]: package for package in stored["packages"]}["deb:one"]
    assert entry["purl"] == "pkg:deb/debian/one@1-1?distro=bookworm"
    assert (entry["version"], entry["licence"], entry["method"]) == ("1-1", "MIT", 1)
    assert entry["files"] == [
        {"name": "one_1-1_all.deb", "bytes": len(one), "sha256": doubles.sha256(one)}
    ]
    assert entry["read"] == {"pairs": 1, "aligned": 1, "triples": 1}
    assert entry["kept"] == {"pairs": 1, "triples": 1}
    assert entry["checked_against_index"] is True
    assert "127.0.0.1" not in json.dumps(stored)
    assert len(read_records([tmp_path / "demo" / "pairs.jsonl.gz"])) == 2


def test_what_is_done_is_not_asked_for_again(host: doubles.Host, tmp_path: Path) -> None:
    serve(host, one=deb({"en": "pair|a question|an answer\n"}), two=deb({"en": "pair|b|bb\n"}))
    run(host, corpus("one"), tmp_path)
    first = (tmp_path / "demo" / "pairs.jsonl.gz").read_bytes()
    host.asked.clear()
    built, said = run(host, corpus("one"), tmp_path)
    assert (host.asked, built.counts["pairs"]) == ([], 1)
    assert any("built already" in line for line in said)
    built, _ = run(host, corpus("one", "two"), tmp_path)
    assert built.counts["pairs"] == 2
    assert [path for path in host.asked if path.startswith("pool")] == ["pool/main/two_1-1_all.deb"]
    # another method reads everything again
    run(host, corpus("one", method=2), tmp_path)
    assert host.asked[-1] == "pool/main/one_1-1_all.deb"
    assert (tmp_path / "demo" / "pairs.jsonl.gz").read_bytes() == first


def test_other_rules_assemble_again_without_reading_again(
    host: doubles.Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(host, one=deb({"en": "pair|a question|an answer\n"}))
    run(host, corpus("one"), tmp_path)
    host.asked.clear()
    monkeypatch.setattr("culet.corpora.manifest.RULES", 1000)
    monkeypatch.setattr("culet.corpora.assemble.fault_of_pair", lambda *_: "all of them")
    built, _ = run(host, corpus("one"), tmp_path)
    assert (built.counts["pairs"], host.asked) == (0, [])
    assert manifest(tmp_path)["dropped"] == {"all of them": 1}
    assert not (tmp_path / "demo" / "pairs.jsonl.gz").exists()


def test_the_same_packages_give_the_same_bytes(host: doubles.Host, tmp_path: Path) -> None:
    serve(host, one=deb({"en": "pair|a|b\nfact|a|b|c\n", "de": "text|Haus \n"}))
    for name in ("first", "second"):
        run(host, corpus("one"), tmp_path / name)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "demo").glob("*.*")}
        for name in ("first", "second")
    )
    assert first == second
    assert len(first) == 3


def test_what_is_wrong_with_a_package_does_not_stop_the_others(
    host: doubles.Host, tmp_path: Path
) -> None:
    good = deb({"en": "pair|a question|an answer\n"})
    serve(host, good=good, damaged=good[:200], odd=deb({"en": "nonsense\n"}), changed=good)
    host.files["pool/main/changed_1-1_all.deb"] = deb({"en": "pair|evil|evil twin\n"})
    names = ("damaged", "changed", "missing", "odd", "good")
    built, said = run(host, corpus(*names), tmp_path)
    assert built.counts["pairs"] == 1
    assert built.failed.keys() == {"deb:damaged", "deb:changed", "deb:missing", "deb:odd"}
    assert "damaged_1-1_all.deb" in built.failed["deb:damaged"]
    assert "expected sha256" in built.failed["deb:changed"]
    assert "does not have the package missing" in built.failed["deb:missing"]
    assert "odd is not built as expected: ValueError('no kind nonsense')" in built.failed["deb:odd"]
    assert manifest(tmp_path)["left_out"] == built.failed
    assert len([line for line in said if "is left out" in line]) == 4
    serve(host, **dict.fromkeys(("damaged", "changed", "missing", "odd", "good"), good))
    built, _ = run(host, corpus(*names), tmp_path)  # mended, they are read
    assert built.failed == {}
    assert built.counts["pairs"] == 1  # four times the same row
    assert manifest(tmp_path)["dropped"] == {"repeated": 4}


def test_packages_without_a_free_licence_are_left_out_where_anyone_publishes(
    host: doubles.Host, tmp_path: Path
) -> None:
    lines = {"en": "pair|a question|an answer\n"}
    serve(host, free=deb(lines), closed=deb(lines, "All rights reserved."))
    built, _ = run(host, corpus("closed", "free", only_free=True), tmp_path)
    assert built.failed.keys() == {"deb:closed"}
    assert "name no free licence (none at all)" in built.failed["deb:closed"]
    assert rows(tmp_path)[0]["licence"] == "MIT"


def test_rows_that_cannot_be_used_are_dropped_and_counted(
    host: doubles.Host, tmp_path: Path
) -> None:
    english = "pair|a question|an answer\npair|a question|an answer\npair|same|Same\npair|a|…\n"
    english += "pair|tags|some <b>bold</b> text\npair|a question|another answer\n"
    german = "pair|wie|This is the text that you will not want to see in German\n"
    japanese = "pair|日本語の質問です|only Latin letters\n"
    serve(host, one=deb({"en": english, "de": german, "ja": japanese}))
    built, _ = run(host, corpus("one", same_query=1), tmp_path)
    assert built.counts["pairs"] == 1
    assert manifest(tmp_path)["dropped"] == {
        "same query": 2,
        "same": 1,
        "empty": 1,
        "markup": 1,
        "english": 1,
        "script": 1,
    }


def test_a_bomb_among_the_packages_is_refused_alone(host: doubles.Host, tmp_path: Path) -> None:
    serve(host, bomb=deb({"en": "x" * 100_000}), good=deb({"en": "pair|a|b\n"}))
    limits = Limits(archive_bytes=50_000)
    built, _ = run(host, corpus("bomb", "good"), tmp_path, limits=limits)
    assert "unpacks to more than 50,000 bytes" in built.failed["deb:bomb"]
    assert built.counts["pairs"] == 1


def test_packages_on_disk_need_no_network(host: doubles.Host, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "one_1%3a1-1_all.deb").write_bytes(deb({"en": "pair|a question|an answer\n"}))
    built, _ = run(host, corpus("one", "two"), tmp_path, folder=shelf)
    assert host.asked == []
    assert built.counts["pairs"] == 1
    assert "holds no file that is the package deb:two" in built.failed["deb:two"]
    entry = manifest(tmp_path)["packages"][0]
    assert (entry["version"], entry["checked_against_index"]) == ("1:1-1", False)
    assert (shelf / "one_1%3a1-1_all.deb").is_file()


def test_no_network_stops_and_keeps_what_is_done(host: doubles.Host, tmp_path: Path) -> None:
    serve(host, one=deb({"en": "pair|a question|an answer\n"}))
    run(host, corpus("one"), tmp_path)
    with doubles.serving() as other:
        gone = other.address
    with pytest.raises(InputError, match=r"cannot reach 127.0.0.1"):
        build(
            corpus("one", "two"),
            tmp_path,
            hosts=Hosts(debian=gone),
            say=lambda _: None,
            progress=False,
        )
    assert len(rows(tmp_path)) == 1
    assert list((tmp_path / "demo").glob(".work")) == []


def test_a_damaged_part_says_which_file_to_delete(host: doubles.Host, tmp_path: Path) -> None:
    serve(host, one=deb({"en": "pair|a|b\n"}), two=deb({"en": "pair|c|d\n"}))
    run(host, corpus("one"), tmp_path)
    part = tmp_path / "demo" / "parts" / "deb_one.jsonl.gz"
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"deb_one.jsonl.gz is damaged .*delete it"):
        run(host, corpus("one", "two"), tmp_path)
    assert not (tmp_path / "demo" / "manifest.json").exists()
    part.unlink()
    assert run(host, corpus("one", "two"), tmp_path)[0].counts["pairs"] == 2


def test_two_builds_of_one_corpus_do_not_meet(host: doubles.Host, tmp_path: Path) -> None:
    serve(host, one=deb({"en": "pair|a|b\n"}))
    met: list[str] = []

    def read(package: Package) -> Iterator[Row]:
        with pytest.raises(InputError, match=r"is in use by a build of another process"):
            run(host, corpus("one"), tmp_path)
        met.append(package.name)
        yield from read_lines(package)

    run(host, Corpus("demo", "", "MIT", "deb", ("one",), read), tmp_path)
    assert met == ["one"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot create .*file"):
        build(corpus("one"), tmp_path / "file", say=lambda _: None)


def test_nothing_of_a_package_is_run(host: doubles.Host, tmp_path: Path) -> None:
    """An sdist whose setup.py, __init__ and conftest would each leave a file if they ran."""
    mark = tmp_path / "ran"
    harm = f"import pathlib\npathlib.Path({str(mark)!r}).write_text('ran')\n"
    function = 'def add(first, second):\n    """Add two numbers to each other."""\n'
    function += "    total = first + second\n    return total\n"
    sdist = doubles.tgz(
        {
            "evil-1.0/PKG-INFO": "Metadata-Version: 2.1\nName: evil\nLicense: MIT\n",
            "evil-1.0/setup.py": harm,
            "evil-1.0/evil/__init__.py": harm + function,
            "evil-1.0/evil/sitecustomize.py": harm,
        }
    )
    host.files = {"simple/evil/": doubles.simple_page({"evil-1.0.tar.gz": sdist})}
    host.files["files/evil-1.0.tar.gz"] = sdist
    built, _ = run(host, catalogue.find("code-pypi"), tmp_path, packages=["evil"])
    assert built.counts["pairs"] == 1
    assert not mark.exists()
    manifest_ = json.loads((tmp_path / "code-pypi" / "manifest.json").read_text())
    assert manifest_["packages"][0]["purl"] == "pkg:pypi/evil@1.0"


def test_a_manifest_is_followed_to_the_byte_or_refused(host: doubles.Host, tmp_path: Path) -> None:
    serve(host, one=deb({"en": "pair|a question|an answer\n"}))
    run(host, corpus("one"), tmp_path / "theirs")
    like = tmp_path / "theirs" / "demo" / "manifest.json"
    built, _ = run(host, corpus(), tmp_path / "ours", like=like)
    assert built.counts["pairs"] == 1
    ours, theirs = (tmp_path / name / "demo" / "pairs.jsonl.gz" for name in ("ours", "theirs"))
    assert ours.read_bytes() == theirs.read_bytes()
    serve(host, one=deb({"en": "pair|a question|another answer\n"}))
    built, _ = run(host, corpus(), tmp_path / "later", like=like)
    assert "has other files than the manifest" in built.failed["deb:one==1-1"]
    with pytest.raises(InputError, match=r"by method 1 and rules 1; this is demo by method 2 and"):
        run(host, corpus(method=2), tmp_path / "method", like=like)
    older = tmp_path / "older.json"
    older.write_text(json.dumps(json.loads(like.read_text()) | {"rules": 0}))
    with pytest.raises(InputError, match=r"by method 1 and rules 0; this is demo by method 1 and"):
        run(host, corpus(), tmp_path / "rules", like=older)
    with pytest.raises(InputError, match=r"pairs.jsonl.gz is not a manifest of a corpus"):
        run(host, corpus(), tmp_path / "wrong", like=theirs)


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import corpus_doubles as tests
from culet.corpora.build import build
from culet.corpora.corpus import Corpus

def read(package):
    for row in tests.read_lines(package):
        yield row
        if package.name == "slow" and {slow}:
            print("reading", flush=True)
            time.sleep(60)

one = Corpus("demo", "", "MIT", "deb", ("quick", "slow", "last"), read)
build(one, Path({out!r}), folder=Path({shelf!r}), say=lambda text: None, progress=False)
"""


def test_kill_9_loses_the_package_at_hand_and_no_other(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name in ("quick", "slow", "last"):
        (shelf / f"{name}_1_all.deb").write_bytes(deb({"en": f"pair|ask {name}|say {name} so\n"}))
    names = {
        "tests": str(Path(__file__).parents[1] / "doubles"),
        "out": str(tmp_path),
        "shelf": str(shelf),
    }

    def start(slow: bool) -> subprocess.Popen[str]:
        code = KILLED.format(**names, slow=slow)
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    with start(slow=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        os.kill(process.pid, signal.SIGKILL)
    parts = tmp_path / "demo" / "parts"
    assert sorted(path.name for path in parts.glob("*.json")) == ["deb_quick.json"]
    assert not (tmp_path / "demo" / "pairs.jsonl.gz").exists()
    before = (parts / "deb_quick.jsonl.gz").stat().st_mtime_ns
    time.sleep(0.01)
    with start(slow=False) as process:
        assert process.wait() == 0
    assert (parts / "deb_quick.jsonl.gz").stat().st_mtime_ns == before
    assert sorted(row["query"] for row in rows(tmp_path)) == ["ask last", "ask quick", "ask slow"]
    assert not list((tmp_path / "demo").rglob("*.partial"))


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run_cli(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["culet", "corpus", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        shown = capsys.readouterr()
        return int(exit_.value.code or 0), shown.out, shown.err

    return run_cli


def test_the_list_shows_every_corpus_with_its_licence(call: Call) -> None:
    code, out, _ = call("--list")
    assert code == 0
    for one in catalogue.CORPORA.values():
        assert f"{one.name}\n    {one.about}\n    licence: {one.licence}" in out
    assert len(json.loads(call("--list", "--json")[1])) == len(catalogue.CORPORA) >= 8


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("nonsense", "--out", "x"), "there is no corpus 'nonsense'; the known are code-debian,"),
        ((), "give the NAME of a corpus; the known are code-debian,"),
        (("wordnet",), "give the folder the corpora are written to: --out FOLDER"),
        (
            ("wordnet", "iso-codes", "--out", "x", "--package", "y"),
            "are for one corpus; give one NAME",
        ),
        (("wordnet", "--out", "x", "--package", "y", "--like", "z"), "exclude each other"),
    ],
)
def test_what_is_missing_on_the_command_line_is_named(
    call: Call, arguments: tuple[str, ...], why: str
) -> None:
    code, _, err = call(*arguments)
    assert code == 2
    assert why in err


def test_the_verb_builds_and_exits_with_1_where_a_package_is_left_out(
    call: Call, host: doubles.Host, tmp_path: Path
) -> None:
    data = b'  1 licence\n00001740 03 n 01 entity 0 000 | that which is perceived; "an entity"\n'
    serve(host, **{"wordnet-base": doubles.deb({"usr/share/wordnet/data.noun": data})})
    common = ("wordnet", "--out", tmp_path, "--debian", host.address, "--quiet")
    code, out, err = call(*common, "--json", "--package", "wordnet-base")
    assert (code, json.loads(out)[0]["counts"]["pairs"]) == (0, 3)
    code, _, err = call(*common, "--package", "nothing")
    assert code == 1
    assert "1 package left out; the manifest says why" in err
