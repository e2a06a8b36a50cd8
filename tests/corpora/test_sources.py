"""Each source, read from a small package of its kind."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import package_doubles as doubles
from package_doubles import message_catalogue

from culet.corpora.catalogue import find
from culet.corpora.readers.packages import Package, wanted
from culet.corpora.rows import Aligned, Pair, Row, Text, Triple


def read(
    name: str, spec: str, file: str, data: bytes, folder: Path, more: dict[str, bytes] | None = None
) -> tuple[list[Row], Package]:
    corpus = find(name)
    files = []
    for title, content in {file: data, **(more or {})}.items():
        (folder / title).write_bytes(content)
        files.append((folder / title, title))
    package = Package(wanted(spec, corpus.kind), "1", tuple(files))
    return list(corpus.read(package)), package


def pairs(rows: list[Row], part: str) -> list[tuple[str, str, str]]:
    return [(r.query, r.positive, r.lang) for r in rows if isinstance(r, Pair) and r.part == part]


def aligned(rows: list[Row]) -> dict[tuple[str, str], str]:
    return {(r.key, r.lang): r.text for r in rows if isinstance(r, Aligned)}


def texts(rows: list[Row]) -> Iterator[Text]:
    return (row for row in rows if isinstance(row, Text))


NOUNS = """  1 This is the licence.
00000001 03 n 02 dog 0 domestic_dog 0 002 @ 00000003 n 0000 \
! 00000002 n 0101 | a tame animal; "the dog barked"
00000002 03 n 01 cat 0 001 @ 00000003 n 0000 | a small animal
00000003 03 n 01 animal 0 000 | a living thing; "all animals are equal"- G.Orwell
00000004 03 n 01 dog 1 001 @ 00000005 n 0000 | a bad man
00000005 03 n 01 man 0 000 | a grown person
"""


def test_wordnet_gives_definitions_with_the_other_meanings_against_them(tmp_path: Path) -> None:
    data = doubles.deb({"usr/share/wordnet/data.noun": NOUNS, "usr/share/wordnet/index.noun": "x"})
    rows, _ = read("wordnet", "wordnet-base", "wordnet-base_1_all.deb", data, tmp_path)
    found = {row.query: row for row in rows if isinstance(row, Pair)}
    dog = found["dog (noun)"]
    assert dog.positive in ("a tame animal", "a bad man")
    first = next(r for r in rows if isinstance(r, Pair) and r.positive == "a tame animal")
    assert first.negatives == ("a bad man", "a small animal")  # another meaning, then a sister
    assert found["the dog barked"].positive == "dog: a tame animal"
    assert found["the dog barked"].negatives == ("dog: a bad man",)
    assert found["a tame animal"].positive == "dog, domestic dog"
    assert found["a tame animal"].negatives == ("cat",)
    assert found["all animals are equal"].positive == "animal: a living thing"
    facts = {(row.s, row.r, row.o) for row in rows if isinstance(row, Triple)}
    assert facts == {
        ("dog", "synonym", "domestic dog"),
        ("dog", "hypernym", "animal"),
        ("dog", "antonym", "cat"),
        ("cat", "hypernym", "animal"),
        ("dog", "hypernym", "man"),
    }


def test_iso_codes_gives_names_and_facts(tmp_path: Path) -> None:
    country = {"name": "Germany", "alpha_2": "DE", "alpha_3": "DEU", "numeric": "276"}
    region = {"name": "Hesse", "code": "DE-HE", "type": "Land"}
    base = "usr/share/iso-codes/json"
    locale = "usr/share/locale"
    data = doubles.deb(
        {
            f"{base}/iso_3166-1.json": json.dumps({"3166-1": [country]}),
            f"{base}/iso_3166-2.json": json.dumps({"3166-2": [region]}),
            f"{base}/schema-3166-1.json": "{}",
            f"{locale}/fr/LC_MESSAGES/iso_3166-1.mo": message_catalogue((b"Germany", b"Allemagne")),
            f"{locale}/en_GB/LC_MESSAGES/iso_3166-1.mo": message_catalogue((b"Germany", b"G")),
        }
    )
    rows, _ = read("iso-codes", "iso-codes", "iso-codes_1_all.deb", data, tmp_path)
    assert pairs(rows, "iso_3166-1") == [("Germany", "Allemagne", "en-fr")]
    facts = {(row.s, row.r, row.o) for row in rows if isinstance(row, Triple)}
    assert {("Germany", "country two-letter code", "DE"), ("Germany", "is a", "country")} <= facts
    assert {("Hesse", "part of", "Germany"), ("Hesse", "is a", "land")} <= facts


def translation(lang: str, short: str, *paragraphs: str) -> str:
    body = "\n .\n".join(f" {paragraph}" for paragraph in paragraphs)
    return f"Package: demo\nDescription-md5: abc\nDescription-{lang}: {short}\n{body}\n\n"


def test_descriptions_are_joined_by_their_sum_and_place(tmp_path: Path) -> None:
    english = translation(
        "en", "a drawing tool", "It draws lines on paper.\n for you", "It is fast and very small."
    )
    english += translation("en", "transitional package", "This can be removed.").replace(
        "abc", "def"
    )
    german = translation(
        "de", "ein Zeichenprogramm", "Es zieht Linien auf Papier.", "Es ist schnell und klein."
    )
    keys: dict[str, set[str]] = {}
    for code, text in {"en": english, "de": german}.items():
        rows, package = read(
            "debian-descriptions",
            f"main/i18n/Translation-{code}",
            f"Translation-{code}.xz",
            lzma.compress(text.encode()),
            tmp_path,
        )
        keys[code] = {key for key, _ in aligned(rows)}
        if code == "en":
            assert package.num_members == 2
            body = "It draws lines on paper. for you\nIt is fast and very small."
            assert pairs(rows, "title-body") == [("a drawing tool", body, "en")]
    assert keys["en"] == keys["de"] == {"abc#short", "abc#2#0", "abc#2#1"}


PAGE = """<html><head><title>x</title></head><body><header><p>Help</p></header>
<meta itemprop="keywords" content="cells; merging"><meta itemprop="keywords" content="tables">
<h1 id="hd_id1">{title}</h1><p id="par_id2" class="paragraph">{first}</p>
<h2 id="hd_id3">{second}</h2><p id="par_id4">{text}</p>
<div><p class="embedded" id="par_id5">other page</p></div></body></html>"""


def test_libreoffice_help_is_aligned_by_ids(tmp_path: Path) -> None:
    words = {
        "en-US": ("Merging Cells", "Select the cells you want to have merged into one cell.",
                  "To split cells", "Place the cursor in the cell that you want to split."),
        "de": ("Zellen verbinden", "Wählen Sie die Zellen aus, die Sie verbinden möchten.",
               "Zellen teilen", "Setzen Sie den Cursor in die Zelle, die geteilt werden soll."),
    }  # fmt: skip
    found: dict[str, dict[tuple[str, str], str]] = {}
    for code, (title, first, second, text) in words.items():
        page = PAGE.format(title=title, first=first, second=second, text=text)
        path = f"usr/share/libreoffice/help/{code}/text/swriter/guide/merge.html"
        rows, _ = read(
            "libreoffice-help", f"libreoffice-help-{code.lower()}", f"{code}.deb",
            doubles.deb({path: page}), tmp_path,
        )  # fmt: skip
        lang = "en" if code == "en-US" else code
        found[lang] = aligned(rows)
        assert pairs(rows, "heading-section") == [
            (title, first, lang), (f"{second} ({title})", text, lang),
        ]  # fmt: skip
        whole = f"{title}\n{first}\n{text}"
        assert pairs(rows, "keywords-page") == [("cells  merging, tables", whole, lang)]
        assert next(texts(rows)).text == f"{title}\n{first}\n{second}\n{text}"
    key = "text/swriter/guide/merge.html#par_id2"
    assert found["en"][key, "en"] == words["en-US"][1]
    assert found["de"][key, "de"] == words["de"][1]


MALLARD = """<page xmlns="http://projectmallard.org/1.0/" id="x"><info><desc>{desc}</desc>
<credit><name>Somebody</name></credit></info><title>{title}</title><p>{text}</p>{more}
<section><title>{inner}</title><p>{last}</p></section></page>"""


def test_desktop_help_is_paired_where_the_documents_have_the_same_shape(tmp_path: Path) -> None:
    long = "and this goes on so that the section is long enough to be of use"
    english = {
        "desc": "How to print a page on paper.",
        "title": "Print",
        "text": f"Press it {long}.",
        "inner": "Booklets",
        "last": f"Choose the sides {long}.",
    }
    german = {name: f"Deutsch {text}" for name, text in english.items()}
    page = "gnome-help/print.page"
    data = doubles.deb(
        {
            f"usr/share/help/C/{page}": MALLARD.format(**english, more=""),
            f"usr/share/help/de/{page}": MALLARD.format(**german, more=""),
            f"usr/share/help/fr/{page}": MALLARD.format(**german, more="<p>One more.</p>"),
            f"usr/share/help/en_GB/{page}": MALLARD.format(**english, more=""),
            "usr/share/doc/HTML/en/demo/index.docbook": (
                '<!DOCTYPE book [<!ENTITY demo "Demo">]><book><bookinfo><title>&demo;</title>'
                f"</bookinfo><chapter><title>Using &demo;</title><para>&kde; runs {long}.</para>"
                "</chapter></book>"
            ),
        }
    )
    rows, _ = read("desktop-help", "gnome-user-docs", "x.deb", data, tmp_path)
    found = aligned(rows)
    english_keys = {key for key, lang in found if lang == "en" and "print" in key}
    assert english_keys == {key for key, lang in found if lang == "de"}
    assert not english_keys & {key for key, lang in found if lang == "fr"}
    titles = pairs(rows, "title-body")
    assert ("Print", f"Press it {long}.", "en") in titles
    assert ("Booklets (Print)", f"Choose the sides {long}.", "en") in titles
    assert ("Using Demo", f"KDE runs {long}.", "en") in titles
    assert not any("Somebody" in text for text in found.values())


def test_manual_pages_give_purpose_sections_and_options(tmp_path: Path) -> None:
    page = (
        ".TH DEMO 1\n.SH BEZEICHNUNG\ndemo \\- zeigt etwas\n.SH BESCHREIBUNG\n"
        "Dieses Programm zeigt etwas auf dem Bildschirm, was niemand sonst zeigen kann.\n"
        ".TP\n.B \\-a\nZeigt alles, auch das, was verborgen ist.\n"
        ".TP\n1.\nErster Schritt von den vielen.\n"
        ".SH AUTOR\nGeschrieben von jemandem, den niemand kennt und der viel Zeit hatte.\n"
    )
    data = doubles.deb({"usr/share/man/de/man1/demo.1": page, "usr/share/man/de/other.txt": "x"})
    rows, _ = read("manpages", "manpages-de", "x.deb", data, tmp_path)
    ((query, positive, lang),) = pairs(rows, "name-description")
    assert (query, lang) == ("demo: zeigt etwas", "de")
    assert positive.startswith("Dieses Programm zeigt etwas")
    assert [row[0] for row in pairs(rows, "section")] == ["demo: BESCHREIBUNG (zeigt etwas)"]
    options = [("demo -a", "Zeigt alles, auch das, was verborgen ist.", "de")]
    assert pairs(rows, "option") == options


CODE = '''
def add(first, second):
    """Add two numbers to each other."""
    total = first + second
    return total
'''
SCRIPT = (
    "/**\n * Adds two numbers to each other.\n */\nfunction add(a, b) {\n  return a + b + 1;\n}\n"
)


def test_code_is_read_from_wheels_with_their_licence(tmp_path: Path) -> None:
    files = {
        "demo/x.py": CODE,
        "demo/tests/test_x.py": CODE,
        "demo-1.dist-info/METADATA": "License: MIT\n\n",
    }
    rows, package = read(
        "code-pypi", "demo", "demo-1-py3-none-any.whl", doubles.wheel(files), tmp_path
    )
    assert [row.query for row in rows if isinstance(row, Pair)] == [
        "Add two numbers to each other."
    ]
    assert package.licence == "MIT"


def test_code_is_read_from_npm_without_bundles(tmp_path: Path) -> None:
    files = {
        "package/package.json": '{"license": "ISC"}',
        "package/lib/add.js": SCRIPT,
        "package/dist/add.min.js": SCRIPT,
        "package/lib/packed.js": SCRIPT.replace("\n", " ") * 20,
    }
    rows, package = read("code-npm", "demo", "demo-1.tgz", doubles.tgz(files), tmp_path)
    assert [row.lang for row in rows if isinstance(row, Pair)] == ["code-javascript"]
    assert package.licence == "ISC"


def test_code_is_read_from_debian_sources_with_debians_papers(tmp_path: Path) -> None:
    go = "// Adds two numbers to each other.\nfunc add(a, b int) int {\n\treturn a + b + 1\n}\n"
    upstream = lzma.compress(doubles.tar({"demo-1/add.go": go, "demo-1/lib/add.py": CODE}))
    papers = lzma.compress(doubles.tar({"debian/copyright": "Format: x\nLicense: BSD-3-clause\n"}))
    rows, package = read(
        "code-debian", "demo", "demo_1.orig.tar.xz", upstream, tmp_path,
        {"demo_1-1.debian.tar.xz": papers},
    )  # fmt: skip
    assert [row.lang for row in rows if isinstance(row, Pair)] == ["code-go", "code-python"]
    assert package.licence == "BSD-3-clause"


def base64_digits(value: int) -> str:
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return (base64_digits(value // 64) if value >= 64 else "") + digits[value % 64]


def test_a_dictionary_gives_words_and_translations(tmp_path: Path) -> None:
    entries = {
        "00databaseinfo": "made by somebody\n",
        "Haus": "Haus /haʊs/ <neut, n>\n1. [archi.] house <n>, home\n         Note: x\n",
        "haus": "",
        "leer": "leer <adj>\n         Note: nothing\n",
    }
    text, index, start = b"x" * 100, "", 100
    for word, entry in entries.items():
        size = len(entry.encode()) or len(entries["Haus"].encode())
        at = start if entry else start - size
        index += f"{word}\t{base64_digits(at)}\t{base64_digits(size)}\n"
        text += entry.encode()
        start += len(entry.encode())
    base = "usr/share/dictd/freedict-deu-eng"
    data = doubles.deb({f"{base}.index": index, f"{base}.dict.dz": gzip.compress(text)})
    rows, _ = read("freedict", "dict-freedict-deu-eng", "x.deb", data, tmp_path)
    assert rows == [Pair("Haus", "house, home", "de-en", "dictionary")]


def test_a_thesaurus_gives_synonyms_and_broader_terms(tmp_path: Path) -> None:
    text = "ISO8859-1\nhaus|1\n-|Haus|Gebäude (fachspr.)|Bauwerk (Oberbegriff)|... gefällig?\n"
    data = doubles.deb({"usr/share/mythes/th_de_DE_v2.dat": text.encode("latin-1")})
    rows, _ = read("thesauri", "mythes-de", "x.deb", data, tmp_path)
    assert rows == [
        Triple("haus", "synonym (de)", "Gebäude"),
        Triple("haus", "hypernym (de)", "Bauwerk"),
        Pair("haus", "Gebäude", "de", "synonyms"),
    ]


def test_a_thesaurus_that_counts_its_meanings_wrongly_is_read_to_the_end(tmp_path: Path) -> None:
    text = "UTF-8\nafgå|3\n|fratræde\n|sejle (underbegreb)\nafdø|0\n|dø\n|7\n|år\n"
    data = doubles.deb({"usr/share/mythes/th_da_DK.dat": text.encode()})
    rows, _ = read("thesauri", "mythes-da", "x.deb", data, tmp_path)
    assert rows == [
        Triple("afgå", "synonym (da)", "fratræde"),
        Pair("afgå", "fratræde", "da", "synonyms"),
        Triple("sejle", "hypernym (da)", "afgå"),
        Triple("afdø", "synonym (da)", "dø"),
        Pair("afdø", "dø", "da", "synonyms"),
    ]


def test_catalogues_give_messages_without_marks_and_without_persons(tmp_path: Path) -> None:
    catalogue = message_catalogue(
        (b"_Open the <b>file</b>", "Datei ö_ffnen".encode()),
        (b"translator-credits", b"Jemand <jemand@example.org>"),
        (b"Write to x@example.org now", b"Schreiben"),
        (b"%s has %d of %s", b"%s hat %d von %s"),
    )
    japanese = message_catalogue((b"&Open the file", "ファイルを開く(&O)".encode()))
    data = doubles.deb(
        {
            "usr/share/locale/de/LC_MESSAGES/demo.mo": catalogue,
            "usr/share/locale/ja/LC_MESSAGES/demo.mo": japanese,
            "usr/share/locale/en_GB/LC_MESSAGES/demo.mo": catalogue,
        }
    )
    rows, _ = read("gettext-catalogues", "demo", "x.deb", data, tmp_path)
    assert pairs(rows, "messages") == [
        ("Open the file", "Datei öffnen", "en-de"),
        ("Open the file", "ファイルを開く", "en-ja"),
    ]


def test_the_index_of_debian_gives_facts(tmp_path: Path) -> None:
    text = "Package: demo\nSection: text\nMaintainer: Somebody <s@example.org>\n"
    text += "Depends: libc6 (>= 2), one | two\nTag: role::program, implemented-in::c,\n use::TODO\n"
    rows, _ = read(
        "debian-facts", "main/binary-amd64/Packages", "Packages", text.encode(), tmp_path
    )
    assert {(row.r, row.o) for row in rows if isinstance(row, Triple)} == {
        ("is in the section", "text"),
        ("depends on", "libc6"),
        ("depends on", "one"),
        ("depends on", "two"),
        ("is a", "program"),
        ("is implemented in", "c"),
    }
