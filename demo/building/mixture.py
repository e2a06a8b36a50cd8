"""The training files: which rows go where, how many, and how they are written.

A stage's folder holds one file a group, so that a recipe can weight groups and every batch comes
from one of them. The corpora are themselves drawn with weight n^0.6 a language, so an even draw
keeps that weight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from building.corpora import Row, split_heading
from building.labelled_tasks import APPS
from building.mining import nearest
from building.text import clip, clip_code, normalise, stable_hash, weight

BODY = 420  # letters of a document, at a sentence's or line's end
NEGATIVE = 320  # letters of a hard negative
NUM_NEGATIVES = 2
QUESTION_MARKS = ("?", "？", "؟")

Record = dict[str, Any]

# Rows a group may give, by source or part; what is not named is not limited. Cloud references
# repeat themselves, single words teach little, man page options are terse.
LIMITS = {
    "cloud-api-docs/aws-parameter": 300,
    "cloud-api-docs/google-method": 200,
    "cloud-api-docs/ansible-module": 100,
    "cloud-api-docs/ansible-task": 500,
    "cloud-api-docs/awscli-example": 400,
    "manpages/option": 800,
    "cedict/edict": 600,
    "cedict": 400,
    "cedict/traditional": 300,
    "thesauri": 900,
    "dictionaries-en/gcide": 1800,
    "bio-ontologies/go-synonym": 2400,
    "debian-descriptions/short-translation": 3000,
    "code-pypi/python": 2600,
    "technical-docs/apache2-doc": 300,
}
# Rows of each file, likewise.
SIZES = {
    "documents": 10200,
    "translations": 9500,
    "pivots": 1500,
    "interface": 9500,
    "words": 3600,
    "code": 8500,
    "definitions": 5200,
    "docs": 3200,
    "manuals": 1700,
    "cloud": 700,
    "wordnet": 6000,
    "ontologies": 5000,
    "mined code": 1900,
    "mined translations": 2200,
    "pages": 1100,
    "programs": 1000,
}


@dataclass(frozen=True)
class File:
    """One training file: its place, its records, the group they come from."""

    stage: str
    name: str
    records: list[Record]


def build_files(rows: Iterable[Row], *, scale: int = 1) -> list[File]:
    """Return the training files; no record is in two of them.

    Args:
        rows: What may be trained on.
        scale: Multiplies every limit; at 1 the files are a few MB, at 100 all rows are in them.
    """
    groups = _grouped(rows, scale=scale)
    size = {name: scale * count for name, count in SIZES.items()}
    mined = {normalise(row.query) for row in groups["docs"]}
    documents = [row for row in groups["documents"] if normalise(row.query) not in mined]
    code_mined, code_plain = _cut(groups["code"], size["mined code"], share=0.18)
    moved, kept = _cut(groups["translations"], size["mined translations"], share=0.19)
    documents, code_plain, kept = (
        documents[: size["documents"]],
        code_plain[: size["code"]],
        kept[: size["translations"]],
    )
    interface, words = groups["interface"][: size["interface"]], groups["words"][: size["words"]]
    definitions = groups["definitions"][: size["definitions"]]
    pivots = _pivots(kept, size["pivots"])
    topics = [*_same_page(groups["docs"], size["pages"]), *_same_app(rows, size["programs"])]
    return [
        File("prefinetune", "documents", [_document(row) for row in documents]),
        File("prefinetune", "translations", [*_both_ways(kept), *pivots]),
        File("prefinetune", "interface", list(_both_ways(interface))),
        File("prefinetune", "words", [_pair(row, "similarity") for row in words]),
        File("prefinetune", "code", [_code(row) for row in code_plain]),
        File("prefinetune", "definitions", [_definition(row) for row in definitions]),
        File("finetune", "docs", [_document(row) for row in groups["docs"][: size["docs"]]]),
        File("finetune", "manuals", [_document(r) for r in groups["manuals"][: size["manuals"]]]),
        File("finetune", "cloud", [_document(row) for row in groups["cloud"][: size["cloud"]]]),
        File("finetune", "wordnet", [_wordnet(r) for r in groups["wordnet"][: size["wordnet"]]]),
        File(
            "finetune",
            "ontologies",
            [_ontology(row) for row in groups["ontologies"][: size["ontologies"]]],
        ),
        File("finetune", "code", _mined(code_mined, [_code(row) for row in code_mined])),
        File("finetune", "translations", _mined_translations(moved)),
        File("finetune", "topics", topics),
    ]


def _cut(rows: list[Row], count: int, *, share: float) -> tuple[list[Row], list[Row]]:
    """Return the first `count` rows, or `share` of them if that is fewer, and the others."""
    count = min(count, int(len(rows) * share))
    return rows[:count], rows[count:]


def _grouped(rows: Iterable[Row], *, scale: int) -> dict[str, list[Row]]:
    """Return the rows by group, in draw order, without repeats, within `LIMITS`."""
    groups: dict[str, list[Row]] = defaultdict(list)
    taken: dict[str, int] = defaultdict(int)
    seen: set[tuple[str, str]] = set()
    for row in sorted(rows, key=Row.order):
        key = (normalise(row.query), normalise(row.positive))
        limited = f"{row.group}:{row.source}"
        if key in seen or "" in key or taken[limited] >= scale * LIMITS.get(row.source, 10**9):
            continue
        seen.add(key)
        taken[limited] += 1
        groups[row.group].append(row)
    return groups


def _record(
    row: Row,
    task: str,
    query: str,
    positive: str,
    *,
    negatives: Sequence[str] = (),
    title: str | None = None,
    lang: str | None = None,
) -> Record:
    record: Record = {"query": query, "positive": positive}
    if negatives:
        record["negatives"] = list(negatives)
    record["task"] = task
    if title:
        record["title"] = title
    return record | {"lang": lang or row.lang, "source": row.source}


def _pair(row: Row, task: str) -> Record:
    return _record(row, task, row.query, row.positive)


def _document(row: Row) -> Record:
    """Heading → section; half of the headings that can stand alone give their page as title."""
    heading, page = split_heading(row.query)
    titled = page is not None and weight(heading) >= 16 and stable_hash("title", row.query) % 2 == 0
    asks = heading.endswith(QUESTION_MARKS) and not row.source.startswith("manpages")
    return _record(
        row,
        "question_answering" if asks else "search",
        heading if titled else row.query,
        clip(row.positive, BODY),
        negatives=[clip(text, NEGATIVE) for text in row.negatives[:NUM_NEGATIVES]],
        title=page if titled else None,
    )


def _code(row: Row) -> Record:
    code = row.positive.split("\n#")[0] if row.lang == "code-yaml" else row.positive
    return _record(row, "code", clip(row.query, 240), clip_code(code, BODY))


def _definition(row: Row) -> Record:
    return _record(row, "search", row.query, clip(row.positive, BODY))


def _wordnet(row: Row) -> Record:
    return _record(row, "search", row.query, row.positive, negatives=row.negatives[:3])


def _ontology(row: Row) -> Record:
    task = "similarity" if row.source.endswith("-synonym") else "search"
    negatives = [clip(text, NEGATIVE) for text in row.negatives[:3]]
    return _record(row, task, row.query, clip(row.positive, BODY), negatives=negatives)


def _both_ways(rows: Iterable[Row]) -> Iterator[Record]:
    """Yield each translation once; half of them ask in the other language."""
    for row in rows:
        if stable_hash("way", row.query, row.positive) % 2:
            yield _pair(row, "similarity")
        else:
            lang = row.lang.removeprefix("en-") + "-en"
            yield _record(row, "similarity", row.positive, row.query, lang=lang)


def _pivots(rows: Iterable[Row], count: int) -> list[Record]:
    """Return pairs of two other languages that translate one English text."""
    by_original: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_original[row.entity].append(row)
    records = []
    for same in by_original.values():
        for left, right in zip(same[::2], same[1::2], strict=False):
            if left.lang != right.lang:
                lang = f"{left.lang.removeprefix('en-')}-{right.lang.removeprefix('en-')}"
                records.append(
                    _record(left, "similarity", left.positive, right.positive, lang=lang)
                )
    return records[:count]


def _mined(rows: Sequence[Row], records: Sequence[Record]) -> list[Record]:
    """Return the records; the positive of the most similar query becomes the negative."""
    found: list[Record] = []
    for lang in sorted({row.lang for row in rows}):
        own = [index for index, row in enumerate(rows) if row.lang == lang]
        neighbours = nearest([rows[index].query for index in own])
        for index, other in zip(own, neighbours, strict=True):
            if other is not None:
                negative = records[own[other]]["positive"]
                record = records[index]
                head = {"query": record["query"], "positive": record["positive"]}
                found.append(head | {"negatives": [negative]} | record)
    return found


def _mined_translations(rows: Sequence[Row]) -> list[Record]:
    return _mined(rows, [_pair(row, "similarity") for row in rows])


def _same_page(rows: Sequence[Row], count: int) -> list[Record]:
    """Return two sections of one page, with a section of another page as negative."""
    by_lang: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_lang[row.lang].append(row)
    records: list[Record] = []
    for row in reversed(rows):  # `docs` took its rows from the front
        others = [other for other in by_lang[row.lang] if other.entity != row.entity]
        if others and len(records) < count:
            other = others[stable_hash("other", row.query) % len(others)]
            texts = [clip(text, 300) for text in (row.positive, row.negatives[0], other.positive)]
            records.append(_record(row, "clustering", texts[0], texts[1], negatives=[texts[2]]))
    return records


def _same_app(rows: Iterable[Row], count: int) -> list[Record]:
    """Return two messages of one program, with a message of another program as negative.

    The second message may be in another language: a topic has none. The programs of the
    evaluation tasks are left out.
    """
    by_app: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=Row.order):
        app = row.source.removeprefix("gettext-catalogues/")
        if app != row.source and app not in APPS and weight(row.query) >= 30:
            by_app[app].append(row)
    large = {app: same for app, same in sorted(by_app.items()) if len(same) >= 40}
    names = list(large)
    records: list[Record] = []
    for number in range(count):
        app = names[number % len(names)]
        other = names[(number * 7 + 1 + number // len(names)) % len(names)]
        place = 3 * (number // len(names))
        if other != app and place + 1 < len(large[app]) and place < len(large[other]):
            left, right = large[app][place], large[app][place + 1]
            negative = large[other][place].positive
            records.append(
                _record(left, "classification", left.query, right.positive, negatives=[negative])
            )
    return records


def tidy(records: Iterable[Record]) -> list[Record]:
    """Return the records that still are good pairs after clipping.

    They are sorted by language and text: readers shuffle, and alike texts side by side make the
    file a quarter smaller.
    """
    good: dict[tuple[str, str], Record] = {}
    for record in records:
        texts = [normalise(record["query"]), normalise(record["positive"])]
        negatives = [text for text in record.get("negatives", []) if normalise(text) not in texts]
        if "" in texts or texts[0] == texts[1] or ("negatives" in record and not negatives):
            continue
        # Clipping and taking a title off can make two pairs equal.
        key = (record["query"], record["positive"])
        good[key] = record | {"negatives": negatives} if negatives else record
    return sorted(good.values(), key=lambda r: (r["lang"], r["source"], r["positive"], r["query"]))
