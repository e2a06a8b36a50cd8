"""Retrieval and re-ranking: a query and the documents it is to find."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from building.corpora import Row, split_heading
from building.task import BODY, ISO, Task, distinct, row_sizes
from building.text import clip, clip_code, normalise, weight

DOC_LANGUAGES = ("en", "de", "es", "fr", "ja", "ru")
CROSS_CORPUS = 450
RERANK_LANGUAGES = ("en", "de", "es", "fr", "ja", "ru")
MANUALS = frozenset(
    {"libreoffice-help/heading-section", "desktop-help/title-body", "desktop-help/summary-page"}
    | {f"debian-manuals/{part}" for part in ("handbook", "installation-guide", "debian-reference")}
    | {f"debian-manuals/{part}" for part in ("debian-faq", "debian-edu-doc", "anarchism")}
    | {"manpages/section", "manpages/name-description"}
)


def docs_retrieval(rows: Sequence[Row]) -> Task:
    """Heading → section of a manual, each language alone."""
    files: dict[str, list[dict[str, Any]]] = {}
    rows = [row for row in rows if row.source in MANUALS]
    for lang in DOC_LANGUAGES:
        pairs = []
        for row in rows:
            if row.lang == lang and weight(row.query) >= 12:
                heading, page = split_heading(row.query)
                query, title = (
                    (heading, page) if page and weight(heading) >= 16 else (row.query, "")
                )
                pairs.append((query, title or "", clip(row.positive, BODY)))
        files |= _retrieval(pairs, queries=70, corpus=210, folder=f"{lang}/")
    return Task(
        "DocsRetrieval",
        "retrieval",
        "ndcg_at_10",
        tuple(ISO[lang] for lang in DOC_LANGUAGES),
        ("libreoffice-help", "desktop-help", "debian-manuals", "manpages"),
        "heading of a software manual's section -> the section, in six languages",
        files,
        {"subsets": _subset_sizes(files, "queries")},
    )


def code_retrieval(rows: Sequence[Row]) -> Task:
    """Comment → function, all programming languages in one corpus."""
    pairs: list[tuple[str, str, str]] = []
    by_lang: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if weight(row.query) >= 40:
            by_lang[row.lang].append(row)
    for lang in sorted(by_lang):
        taken = by_lang[lang][:64]
        pairs += [(clip(row.query, 200), "", clip_code(row.positive, 420)) for row in taken]
    pairs = sorted(pairs, key=lambda pair: normalise(pair[0])[::-1])  # languages mixed
    return Task(
        "CodeRetrieval",
        "retrieval",
        "ndcg_at_10",
        tuple(sorted(lang.removeprefix("code-") for lang in by_lang)),
        ("code-debian", "code-npm", "code-pypi", "cloud-api-docs"),
        "documentation comment -> the function it stands above, thirteen languages in one corpus",
        _retrieval(pairs, queries=200, corpus=720),
    )


def definition_retrieval(rows: Sequence[Row]) -> Task:
    """Word or term → its definition."""
    quotas = {
        "wordnet/definition": 260,
        "bio-ontologies/go-definition": 120,
        "bio-ontologies/hpo-definition": 120,
        "dictionaries-en/foldoc": 60,
        "dictionaries-en/gcide": 180,
    }
    pairs = []
    for source, count in quotas.items():
        chosen = [row for row in rows if row.source == source and weight(row.positive) > 30]
        pairs += [(row.query, "", clip(row.positive, BODY)) for row in chosen[:count]]
    pairs.sort(key=lambda pair: normalise(pair[0])[::-1])
    return Task(
        "DefinitionRetrieval",
        "retrieval",
        "ndcg_at_10",
        ("eng-Latn",),
        ("wordnet", "bio-ontologies", "dictionaries-en"),
        "word or scientific term -> its definition",
        _retrieval(pairs, queries=200, corpus=720),
    )


def package_retrieval(documents: Sequence[Row], interface: Sequence[Row]) -> Task:
    """Summary of a package in another language → its English description."""
    bodies = [
        row
        for row in documents
        if row.source == "debian-descriptions/title-body" and row.lang == "en"
    ]
    body_of = {normalise(row.query): row for row in bodies}
    pairs, langs = [], set()
    seen: set[str] = set()
    for row in interface:
        key = normalise(row.query)
        if row.source.endswith("/short-translation") and key in body_of and key not in seen:
            seen.add(key)
            langs.add(row.lang.removeprefix("en-"))
            pairs.append((row.positive, "", clip(body_of[key].positive, BODY)))
    num_queries = len(pairs)
    pairs += [
        (row.query, "", clip(row.positive, BODY))
        for row in bodies
        if normalise(row.query) not in seen
    ]
    return Task(
        "PackageRetrieval",
        "retrieval",
        "ndcg_at_10",
        ("eng-Latn", *sorted(ISO.get(lang, lang) for lang in langs)),
        ("debian-descriptions",),
        "one-line summary of a Debian package in another language -> its English description",
        _retrieval(pairs, queries=min(num_queries, 200), corpus=600),
    )


def cross_lingual_retrieval(
    sections: Sequence[tuple[Row, list[Row]]], documents: Sequence[Row]
) -> Task:
    """Heading in another language → the English section, among other English sections."""
    corpus: list[dict[str, Any]] = []
    queries: list[dict[str, Any]] = []
    qrels: list[dict[str, Any]] = []
    langs: set[str] = set()
    seen: set[str] = set()
    asked = {normalise(section.positive): rows for section, rows in sections}
    others = [row for row in documents if row.source in MANUALS and row.lang == "en"]
    for row in distinct([section for section, _ in sections] + others, CROSS_CORPUS):
        corpus.append({"id": f"d{len(corpus)}", "title": "", "text": clip(row.positive, BODY)})
        for translation in sorted(asked.get(normalise(row.positive), []), key=Row.order)[:2]:
            key = normalise(translation.positive)
            if key in seen or key == translation.entity:
                continue
            seen.add(key)
            langs.add(translation.lang.removeprefix("en-"))
            queries.append({"id": f"q{len(queries)}", "text": translation.positive})
            qrels.append({"query-id": queries[-1]["id"], "corpus-id": corpus[-1]["id"], "score": 1})
    corpus.sort(key=lambda document: normalise(document["text"]))
    return Task(
        "CrossLingualRetrieval",
        "retrieval",
        "ndcg_at_10",
        ("eng-Latn", *sorted(ISO.get(lang, lang) for lang in langs)),
        ("libreoffice-help", "desktop-help", "debian-manuals"),
        "heading of a manual's section in another language -> the English section",
        {"corpus": corpus, "queries": queries, "qrels": qrels},
    )


def docs_reranking(rows: Sequence[Row]) -> Task:
    """Heading → its section among the sections of the same page."""
    records = []
    for lang in RERANK_LANGUAGES:
        chosen = [row for row in rows if row.lang == lang and weight(row.query) >= 12]
        records += [_candidates(row, subset=lang) for row in distinct(chosen, 30)]
    return Task(
        "DocsReranking",
        "reranking",
        "map_at_1000",
        tuple(ISO[lang] for lang in RERANK_LANGUAGES),
        ("docs-hard-negatives",),
        "heading -> its section among the sections of the same page or manual",
        {"test": records},
        {"subsets": row_sizes(records), "n_candidates": _num_candidates(records)},
    )


def term_reranking(rows: Sequence[Row]) -> Task:
    """Term of an ontology → its definition among those of sibling terms."""
    chosen = [row for row in rows if row.source.endswith("-definition") and len(row.negatives) >= 3]
    records = [_candidates(row) for row in distinct(chosen, 120)]
    return Task(
        "TermReranking",
        "reranking",
        "map_at_1000",
        ("eng-Latn",),
        ("bio-ontologies",),
        "biomedical term -> its definition among the definitions of its sibling terms",
        {"test": records},
        {"n_candidates": _num_candidates(records)},
    )


def _retrieval(
    pairs: Iterable[tuple[str, str, str]], *, queries: int, corpus: int, folder: str = ""
) -> dict[str, list[dict[str, Any]]]:
    """Return corpus, queries and qrels; the first pairs are asked, the others are distractors."""
    documents: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    qrels: list[dict[str, Any]] = []
    seen: set[str] = set()
    for query, title, text in pairs:
        keys = {normalise(query), normalise(text)}
        if len(documents) == corpus or "" in keys or keys & seen:
            continue
        seen |= keys
        number = len(documents)
        documents.append({"id": f"d{number}", "title": title, "text": text})
        if len(asked) < queries:
            asked.append({"id": f"q{number}", "text": query})
            qrels.append({"query-id": f"q{number}", "corpus-id": f"d{number}", "score": 1})
    documents.sort(key=lambda document: normalise(document["text"]))  # ids tell nothing by order
    return {f"{folder}corpus": documents, f"{folder}queries": asked, f"{folder}qrels": qrels}


def _candidates(row: Row, *, subset: str | None = None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "query": row.query,
        "positive": [clip(row.positive, BODY)],
        "negative": [clip(text, BODY) for text in row.negatives],
    }
    return record if subset is None else record | {"subset": subset}


def _num_candidates(records: Iterable[dict[str, Any]]) -> int:
    return sum(len(record["positive"]) + len(record["negative"]) for record in records)


def _subset_sizes(files: dict[str, list[dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    return [
        {
            "name": key.split("/")[0],
            "n": len(records),
            "n_corpus": len(files[key.split("/")[0] + "/corpus"]),
        }
        for key, records in files.items()
        if key.endswith("/" + name)
    ]
