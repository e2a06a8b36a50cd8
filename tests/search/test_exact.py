from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from word_embedder import WordEmbedder

from culet.errors import InputError
from culet.search.documents import Chunk
from culet.search.exact import search, search_corpus
from culet.search.vector_cache import cache_path
from culet.text.prompts import Prompts

CHUNKS = [
    Chunk("a.md", 1, 2, "Planets", "mars is the red planet"),
    Chunk("a.md", 4, 5, None, "venus is hot"),
    Chunk("b.md", 1, 1, None, "how to bake bread"),
    Chunk("c.md", 1, 1, None, "venus is hot"),
]


def find(question: str, embedder: WordEmbedder | None = None, **options: object) -> list[str]:
    hits = search(embedder or WordEmbedder(), CHUNKS, question, **options)  # type: ignore[arg-type]
    return [f"{hit.chunk.path}:{hit.chunk.first_line}" for hit in hits.hits]


def test_the_nearest_chunk_comes_first() -> None:
    assert find("bake bread")[0] == "b.md:1"
    assert find("red planet", k=1) == ["a.md:1"]


def test_scores_are_cosines_of_the_vectors_and_fall() -> None:
    embedder = WordEmbedder()
    hits = search(embedder, CHUNKS, "red planet")  # type: ignore[arg-type]
    query = embedder.encode_query(["red planet"])
    document = embedder.encode_document([CHUNKS[0].text], titles=["Planets"])
    assert hits.hits[0].score == pytest.approx(float((query @ document.T)[0, 0]), abs=1e-6)
    scores = [hit.score for hit in hits.hits]
    assert scores == sorted(scores, reverse=True)
    assert (hits.question, hits.num_chunks, len(hits.hits)) == ("red planet", 4, 4)


def test_equal_chunks_keep_the_order_of_the_corpus() -> None:
    assert find("venus hot", k=2) == ["a.md:4", "c.md:1"]


def test_equal_chunks_are_embedded_once() -> None:
    hits = search(WordEmbedder(), CHUNKS, "venus")  # type: ignore[arg-type]
    assert hits.num_embedded == 3


def test_a_narrower_search_compares_narrower_unit_vectors() -> None:
    embedder = WordEmbedder()
    hits = search(embedder, CHUNKS, "venus is hot", truncate_to=32, k=1)  # type: ignore[arg-type]
    query = embedder.encode_query(["venus is hot"], truncate_to=32)
    document = embedder.encode_document(["venus is hot"], truncate_to=32)
    assert hits.hits[0].score == pytest.approx(float((query @ document.T)[0, 0]), abs=1e-6)


def test_a_title_without_a_place_in_the_prompt_goes_in_front_of_the_text() -> None:
    embedder = WordEmbedder(prompts=Prompts.from_names({}))
    assert find("planets", embedder)[0] == "a.md:1"


def test_no_chunks_give_no_hits() -> None:
    assert search(WordEmbedder(), [], "venus").hits == ()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        (" ", {}, "the question is blank"),
        ("x", {"k": 0}, "k must be at least 1, got 0"),
        ("x", {"task": "seek"}, "unknown task 'seek'"),
        ("x", {"truncate_to": 48}, r"one of \(64, 32\), got 48"),
    ],
)
def test_a_wrong_request_is_refused_before_the_corpus_is_embedded(
    question: str, options: dict[str, object], message: str
) -> None:
    embedder = WordEmbedder()
    with pytest.raises(InputError, match=message):
        find(question, embedder, **options)
    assert embedder.num_encoded == 0


def test_a_second_search_embeds_only_what_changed(tmp_path: Path) -> None:
    cache = tmp_path / "cache.npz"
    first = search(WordEmbedder(), CHUNKS, "venus", cache=cache)  # type: ignore[arg-type]
    again = search(WordEmbedder(), CHUNKS, "venus", cache=cache)  # type: ignore[arg-type]
    assert (first.num_embedded, again.num_embedded) == (3, 0)
    assert again.hits == first.hits
    changed = [*CHUNKS[:3], Chunk("c.md", 1, 1, None, "new words")]
    assert search(WordEmbedder(), changed, "x", cache=cache).num_embedded == 1  # type: ignore[arg-type]
    retitled = [Chunk("a.md", 1, 2, "Stars", CHUNKS[0].text), *changed[1:]]
    assert search(WordEmbedder(), retitled, "x", cache=cache).num_embedded == 1  # type: ignore[arg-type]


def test_a_corpus_is_searched_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corpus = tmp_path / "docs"
    corpus.mkdir()
    (corpus / "a.md").write_text("# Bread\nhow to bake")
    (corpus / "b.png").write_bytes(b"\0")
    embedder = WordEmbedder()
    hits, read = search_corpus(embedder, corpus, "bake")  # type: ignore[arg-type]
    assert (hits.hits[0].chunk.path, hits.num_embedded) == ("a.md", 1)
    assert [skipped.path for skipped in read.skipped] == ["b.png"]
    assert cache_path(embedder, corpus).is_file()
    assert search_corpus(embedder, corpus, "bake")[0].num_embedded == 0  # type: ignore[arg-type]
    other = WordEmbedder("another model")
    assert search_corpus(other, corpus, "bake")[0].num_embedded == 1  # type: ignore[arg-type]
    coarse = WordEmbedder(precision="int4")
    assert search_corpus(coarse, corpus, "bake")[0].num_embedded == 1  # type: ignore[arg-type]
    assert search_corpus(coarse, corpus, "bake")[0].num_embedded == 0  # type: ignore[arg-type]
    assert search_corpus(embedder, corpus, "bake")[0].num_embedded == 0  # type: ignore[arg-type]
    hits, _ = search_corpus(embedder, corpus, "bake", cached=False)  # type: ignore[arg-type]
    assert hits.num_embedded == 1


def test_chunks_fit_the_model(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(["some words in a line of text"] * 100))
    embedder = WordEmbedder()
    embedder.max_length = 30
    hits, corpus = search_corpus(embedder, tmp_path, "words", cached=False)  # type: ignore[arg-type]
    assert max(len(chunk.text) for chunk in corpus.chunks) <= 60 * 3 // 2
    assert hits.num_chunks == len(corpus.chunks) > 20


def test_a_corpus_without_text_says_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"\0")
    with pytest.raises(InputError, match="no text to search; 1 file left out"):
        search_corpus(WordEmbedder(), tmp_path, "x")  # type: ignore[arg-type]


def test_scores_do_not_depend_on_the_cache(tmp_path: Path) -> None:
    plain = search(WordEmbedder(), CHUNKS, "hot mars")  # type: ignore[arg-type]
    cache = tmp_path / "c.npz"
    search(WordEmbedder(), CHUNKS[:2], "x", cache=cache)  # type: ignore[arg-type]
    mixed = search(WordEmbedder(), CHUNKS, "hot mars", cache=cache)  # type: ignore[arg-type]
    assert np.array_equal([hit.score for hit in plain.hits], [hit.score for hit in mixed.hits])


def test_chunks_that_were_cut_are_told_in_one_sentence() -> None:
    long = [Chunk("a.txt", i, i, None, f"{i} " + "word " * 99) for i in range(300)]
    reported: list[str] = []
    search(WordEmbedder(), long, "word", report=reported.append)  # type: ignore[arg-type]
    assert reported == [
        "while embedding the corpus: 128 of 128 texts were cut (and 2 more batches like this one)"
    ]
