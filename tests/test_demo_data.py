from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from culet.evaluate.tasks import list_tasks, read_task
from culet.text.prompts import TASKS

DEMO = Path(__file__).parents[1] / "demo"
DATA = DEMO / "data"
sys.path.insert(0, str(DEMO))

from building.corpora import Row, split_heading  # noqa: E402
from building.held_out import Blocklist, overlap, split, translated_sections  # noqa: E402
from building.mining import nearest  # noqa: E402
from building.text import (  # noqa: E402
    clip,
    clip_code,
    is_contents,
    is_navigation,
    lost_accents,
    normalise,
)

TRAIN_FILES = sorted([*DATA.glob("prefinetune/*.gz"), *DATA.glob("finetune/*.gz")])
MEGABYTE = 1_000_000


def records(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def eval_texts() -> Iterator[str]:
    for path in sorted(DATA.glob("eval/**/*.jsonl.gz")):
        for record in records(path):
            for key in ("text", "title", "a", "b", "query"):
                if record.get(key):
                    yield record[key]
            yield from record.get("positive", [])
            yield from record.get("negative", [])


def train_texts() -> Iterator[str]:
    for path in TRAIN_FILES:
        for record in records(path):
            yield from (record["query"], record["positive"], *record.get("negatives", []))
            if "title" in record:
                yield record["title"]


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return json.loads((DATA / "manifest.json").read_text(encoding="utf-8"))


# The committed data


def test_no_text_of_the_evaluation_stands_in_training():
    assert overlap(train_texts(), eval_texts()) == set()


def test_manifest_tells_rows_bytes_and_digest_of_every_file(manifest):
    told = {entry["path"]: entry for entry in manifest["files"]}
    for path in TRAIN_FILES:
        entry = told[str(path.relative_to(DATA))]
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry["bytes"] == path.stat().st_size
        assert entry["rows"] == sum(1 for _ in records(path))
    for folder in DATA.glob("eval/*"):
        for name, digest in told[f"eval/{folder.name}"]["sha256"].items():
            assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_every_source_has_a_licence(manifest):
    licences = (DEMO / "LICENCES.md").read_text(encoding="utf-8")
    sources = {source.split("/")[0] for entry in manifest["files"] for source in entry["sources"]}
    assert len(sources) > 10
    assert {source for source in sources if f"## {source}\n" not in licences} == set()


def test_training_records_are_pairs_with_a_known_task():
    for path in TRAIN_FILES:
        for record in records(path):
            query, positive = normalise(record["query"]), normalise(record["positive"])
            assert query
            assert positive
            assert query != positive
            assert record["task"] in TASKS
            assert (path.parent.name == "finetune") == bool(record.get("negatives"))
            assert positive not in map(normalise, record.get("negatives", []))


def test_no_pair_stands_twice_in_a_file():
    for path in TRAIN_FILES:
        pairs = Counter((record["query"], record["positive"]) for record in records(path))
        assert [pair for pair, count in pairs.items() if count > 1] == []


def test_training_is_multilingual_and_not_mostly_english():
    counts = Counter(r["lang"] for r in records(DATA / "prefinetune" / "documents.jsonl.gz"))
    assert len(counts) > 40
    assert counts["en"] < sum(counts.values()) / 3


def test_bundle_stays_small():
    assert sum(path.stat().st_size for path in TRAIN_FILES) < 9 * MEGABYTE
    assert sum(p.stat().st_size for p in DATA.glob("eval/**/*") if p.is_file()) < 1.5 * MEGABYTE
    assert sum(1 for _ in eval_texts()) < 12_500


def test_evaluation_reads_every_task_and_six_types_are_covered():
    found = list_tasks(DATA / "eval")
    for info in found:
        assert read_task(info.folder).subsets
    assert len(found) >= 10
    assert {info.type for info in found} == {
        "retrieval",
        "reranking",
        "bitext",
        "pair_classification",
        "classification",
        "clustering",
    }


# The pieces that build it


def test_normalised_texts_differ_only_in_letters_and_digits():
    assert normalise("  The  „Größe“,\nAPI_v2! ") == "the grösse api v2"
    assert normalise("—…") == ""


def test_clip_ends_at_a_sentence_and_counts_ideographs_double():
    assert clip("One two. Three four. Five six.", 22) == "One two. Three four."
    assert clip("一二三。四五六。七八九。", 16) == "一二三。四五六。"
    assert clip("short", 22) == "short"


def test_clipped_code_keeps_whole_lines():
    assert clip_code("def f():\n    a = 1   \n    return a\n", 24) == "def f():\n    a = 1"


def test_junk_is_recognised():
    assert is_contents("1.1. Scope\n1.2. Organisation\n1.3. Conventions")
    assert not is_contents("Version 1.1.\nIt works.\nAnd how.")
    assert is_navigation("From cppreference.com\nC++\nLanguage")
    gone = (
        "As seguintes op es s o usadas para a configura o do programa e n o devem ser mudadas " * 2
    )
    assert lost_accents(gone, "pt")
    assert not lost_accents(gone, "en")


def test_heading_is_split_from_its_page():
    assert split_heading("Inserting rows (Tables)") == ("Inserting rows", "Tables")
    assert split_heading("Inserting rows") == ("Inserting rows", None)


def row(query: str, positive: str, **fields: Any) -> Row:
    defaults: dict[str, Any] = {
        "negatives": (),
        "lang": "en",
        "source": "libreoffice-help/heading-section",
        "group": "documents",
        "entity": normalise(query),
    }
    return Row(query, positive, **(defaults | fields))


def pair(english: str, other: str, lang: str) -> Row:
    source = "libreoffice-help/paragraph-translation"
    return row(english, other, lang=f"en-{lang}", group="translations", source=source)


ENGLISH = "Choose the column you want to sort by."
GERMAN = "Wählen Sie die Spalte, nach der sortiert wird."
FRENCH = "Choisissez la colonne qui sert au tri du tableau."


def test_split_keeps_a_page_together_in_all_its_languages():
    rows = []
    for number in range(200):
        english, german = f"Page number {number}", f"Seite Nummer {number}"
        rows.append(row(english, f"English text {number}", source="gettext-catalogues/x"))
        rows.append(
            row(german, f"Deutscher Text {number}", lang="de", source="gettext-catalogues/x")
        )
        rows.append(pair(english, german, "de"))
    held, rest = split(rows, seed=1)
    titles = {row.entity for row in held if row.group == "documents"}
    assert titles
    assert titles.isdisjoint(row.entity for row in rest if row.source == "gettext-catalogues/x")


def test_blocklist_follows_translations_through_english():
    rows = [pair(ENGLISH, GERMAN, "de"), pair(ENGLISH, FRENCH, "fr")]
    blocklist = Blocklist([GERMAN], rows)
    section = row("Trier un tableau", f"Ouvrez le menu.\n{FRENCH}", lang="fr")
    free = row("Imprimer", "Ouvrez le menu et choisissez une imprimante.", lang="fr")
    assert list(blocklist.clean([*rows, section, free])) == [free]


def test_blocked_negative_leaves_its_row():
    blocklist = Blocklist([GERMAN], [])
    kept = row("Drucken", "Öffnen Sie das Menü.", negatives=(GERMAN, "Schließen Sie das Fenster."))
    assert [r.negatives for r in blocklist.clean([kept])] == [("Schließen Sie das Fenster.",)]


def test_overlap_sees_equal_texts_and_equal_beginnings():
    long = "word " * 40
    assert overlap(["A  text."], ["a text", "another"]) == {"a text"}
    assert len(overlap([long + "one end"], [long + "another end"])) == 1
    assert overlap(["one"], ["two"]) == set()


def test_headings_that_name_one_section_make_cross_lingual_queries():
    sorting = row("Sorting (Tables)", "Choose a column.")
    rows = [sorting, row("Notes (A)", "First."), row("Notes (B)", "Second.")]
    rows += [pair("Sorting", "Sortieren", "de"), pair("Notes", "Hinweise", "de")]
    assert translated_sections(rows) == [(sorting, [rows[3]])]


def test_nearest_shares_rare_words_but_is_no_paraphrase():
    keys = [
        "sort the table by a column",
        "hide a column of the table",
        "sort the table by one column",
        "print the page",
    ]
    assert nearest(keys)[0] == 1
    assert nearest(["alone", "apart"]) == [None, None]
