"""Mining from records to records, with an embedder whose nearness is shared words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cross_encoder_double import cross_encoder
from training_doubles import checkpoint, toy_rows, write_lines
from word_embedder import WordEmbedder

from culet.checkpoints.embedding import read_embedding_model
from culet.data.mining.judges import CrossEncoderJudge, Grades, RescoreConfig
from culet.data.mining.pair_index import build_index
from culet.data.mining.rules import Rules
from culet.data.records import read_records
from culet.errors import CheckpointError, InputError, RecipeError
from culet.files.settings import build, to_tables
from culet.stages import mine, miner
from culet.stages.contract import run_stage
from culet.stages.mine import MineConfig, MineSource
from culet.text.prompts import Prompts


class StreamingWords(WordEmbedder):
    """The double with the streams mining reads; three texts a window."""

    def stream_query(
        self, texts: Iterable[str], *, task: str = "search", truncate_to: int | None = None
    ) -> Iterator[np.ndarray]:
        listed = list(texts)
        for first in range(0, len(listed), 3):
            yield self.encode_query(listed[first : first + 3], task=task, truncate_to=truncate_to)

    def stream_document(
        self, texts: Iterable[tuple[str | None, str]], *, truncate_to: int | None = None
    ) -> Iterator[np.ndarray]:
        listed = list(texts)
        for first in range(0, len(listed), 3):
            part = listed[first : first + 3]
            titles = [title for title, _ in part]
            yield self.encode_document(
                [text for _, text in part], titles=titles, truncate_to=truncate_to
            )


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> StreamingWords:
    embedder = StreamingWords()
    monkeypatch.setattr(mine, "load", lambda *_, **__: embedder)
    monkeypatch.setattr(mine, "read_embedding_model", lambda _: embedder)  # for its fingerprint
    return embedder


ROWS: list[dict[str, Any]] = [
    {"query": "red apple", "positive": "the red apple pie", "lang": "en", "id": 1},
    {"query": "green apple", "positive": "a green apple tart", "lang": "en"},
    {"query": "Red  Apple", "positive": "red apple jam", "lang": "en"},
    {"query": "blue sky", "positive": "blue sky over the sea", "lang": "en"},
    {"query": "blue sea", "positive": "a deep blue sea", "lang": "en"},
    {"query": "red apple", "positive": "THE RED  apple pie", "lang": "en"},
]


def go(tmp_path: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> list[Any]:
    """Mine a file and return its rows."""
    path = write_lines(tmp_path / "toys.jsonl", ROWS if rows is None else rows)
    source = {key: changes.pop(key) for key in ("task", "corpus", "within") if key in changes}
    rules, said = changes.pop("rules", {}), changes.pop("said", [])
    config = MineConfig(
        sources=(MineSource(path=path, **source),),
        rules=Rules(**{"relative_margin": None, "number": 9} | rules),
        **changes,
    )
    folder = run_stage(
        mine.STAGE, config, init=tmp_path, out=tmp_path / "out", say=said.append, name="mine"
    )
    return [
        json.loads(line)
        for part in sorted((folder / "toys").glob("part-*.jsonl"))
        for line in part.read_text().splitlines()
    ]


def report(tmp_path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text())["toys"]
    return loaded


def test_a_querys_right_documents_and_their_copies_are_no_negatives(tmp_path: Path) -> None:
    found = go(tmp_path)
    assert [row["query"] for row in found] == [row["query"] for row in ROWS]
    assert found[0]["id"] == 1  # fields of its own stay
    for row in (found[0], found[2], found[5]):  # three spellings of one query share what is right
        assert set(row["negatives"]) == {
            "a green apple tart",
            "blue sky over the sea",
            "a deep blue sea",
        }
        assert row["negatives"][0] == "a green apple tart"
    assert set(found[1]["negatives"][:2]) == {"the red apple pie", "red apple jam"}
    assert report(tmp_path)["documents"] == 5
    assert report(tmp_path)["queries"] == 4
    assert not (tmp_path / "out" / "state").exists()


def test_a_document_that_says_what_the_query_says_is_no_negative(tmp_path: Path) -> None:
    rows = [
        {"query": "one two", "positive": "one two three"},
        {"query": "four", "positive": "One  Two"},
    ]
    found = go(tmp_path, rows, task="similarity")
    assert "negatives" not in found[0]
    assert found[1]["negatives"] == ["one two three"]


def test_margins_count_from_each_records_own_positive(tmp_path: Path) -> None:
    free = go(tmp_path)
    embedder = StreamingWords()
    held = go(tmp_path, rules={"relative_margin": 0.3})
    assert sum(len(row.get("negatives", ())) for row in held) < sum(
        len(row["negatives"]) for row in free
    )
    for row in held:
        query = embedder.encode_query([row["query"]])[0]
        bound = 0.7 * float(query @ embedder.encode_document([row["positive"]])[0])
        for negative in row.get("negatives", ()):
            assert float(query @ embedder.encode_document([negative])[0]) < bound + 1e-3


def test_below_the_margins_a_record_whose_positive_is_far_gets_negatives_too(
    tmp_path: Path,
) -> None:
    rows = [
        {"query": "one two three", "positive": "one of those words"},
        *({"query": f"q{i}", "positive": f"one two three {i}"} for i in range(4)),
        *({"query": f"other {i}", "positive": f"word{i} thing{i} stuff{i}"} for i in range(4)),
    ]
    rules: dict[str, Any] = {"depth": 3, "relative_margin": 0.05, "number": 2}
    with pytest.warns(UserWarning, match=r"relative_margin is against \d"):
        assert "negatives" not in go(tmp_path, rows, rules=rules)[0]
    whole, said = report(tmp_path), list[str]()
    found = go(tmp_path, rows, rules=rules | {"below_margins": True}, said=said)
    assert len(found[0]["negatives"]) == 2
    assert all(text.startswith("word") for text in found[0]["negatives"])
    # what is nearest is not a matter of the margins
    assert report(tmp_path)["nearest_above_positive"] == whole["nearest_above_positive"] == 9
    assert report(tmp_path)["mean_score"]["nearest"] == whole["mean_score"]["nearest"]
    assert report(tmp_path)["histogram"]["nearest"] == whole["histogram"]["nearest"]
    assert said[-1].endswith("for 100.0% another document is nearer than the positive")


def test_negatives_can_be_held_to_fields_of_the_record(tmp_path: Path) -> None:
    rows = [
        {"query": "red", "positive": "red apple", "lang": "en"},
        {"query": "blue", "positive": "blue apple", "lang": "en"},
        {"query": "rot", "positive": "roter apple", "lang": "de"},
        {"query": "blau", "positive": "blauer apple", "lang": "de"},
        {"query": "grau", "positive": "blue apple", "lang": "de"},
    ]
    found = go(tmp_path, rows, within=("lang",))
    assert found[0]["negatives"] == ["blue apple"]
    assert set(found[2]["negatives"]) == {"blauer apple", "blue apple"}
    with pytest.raises(InputError, match=r"toys\.jsonl:2: expected texts in lang, got \[None\]"):
        go(tmp_path, [rows[0], {"query": "q", "positive": "p"}], within=("lang",))


def test_a_corpus_apart_is_where_negatives_come_from(tmp_path: Path) -> None:
    corpus = write_lines(
        tmp_path / "corpus.jsonl",
        [
            {"text": "green apple cider", "title": "Drinks"},
            {"positive": "the red apple pie", "query": "x"},
            {"text": "Green  apple cider"},
        ],
    )
    found = go(tmp_path, corpus=(corpus,))
    assert found[0]["negatives"] == ["green apple cider"]
    assert set(found[1]["negatives"]) == {"green apple cider", "the red apple pie"}
    assert report(tmp_path)["documents"] == 2
    write_lines(corpus, [{"text": " "}])
    with pytest.raises(
        InputError, match=r"corpus\.jsonl:1: expected a text that is not blank under 'text'"
    ):
        go(tmp_path, corpus=(corpus,))


def test_given_negatives_are_documents_and_are_kept_on_request(tmp_path: Path) -> None:
    rows = [
        {
            "query": "red",
            "positive": "red apple",
            "negatives": ["red herring", "red tape"],
            "more": [1.0],
        },
        {"query": "tape", "positive": "sticky tape"},
    ]
    found = go(tmp_path, rows, rules={"number": 1})
    assert found[0]["negatives"] in (["red herring"], ["red tape"])
    assert found[0]["more"] == [1.0]
    assert found[1]["negatives"] == ["red tape"]
    kept = go(tmp_path, rows, rules={"number": 3}, keep_given=True)
    assert kept[0]["negatives"] == ["red herring", "red tape", "sticky tape"]


def test_records_without_negatives_stay_or_go(tmp_path: Path) -> None:
    rows = [
        {"query": "red", "positive": "red apple", "lang": "en"},
        {"query": "blue", "positive": "blue apple", "lang": "en"},
        {"query": "rot", "positive": "roter Apfel", "lang": "de"},
    ]
    kept = go(tmp_path, rows, within=("lang",))
    assert [row.get("negatives") for row in kept] == [["blue apple"], ["red apple"], None]
    assert go(tmp_path, rows, within=("lang",), drop_without=True) == kept[:2]
    assert report(tmp_path)["without"] == {"records": 1, "looked_at": 0}


def test_many_records_without_negatives_are_warned_of_with_the_rules_that_did_it(
    tmp_path: Path,
) -> None:
    # two records have a near document; what is looked at for the others shares no word with them
    rows = [
        {"query": "one two", "positive": "one two three"},
        {"query": "three four", "positive": "three one two four"},
        *({"query": word, "positive": f"{word} indeed"} for word in ("sun", "moon", "star")),
    ]
    message = (
        "mine toys: 3 of 5 records are without a negative: of the 12 documents that were looked "
        "at for them, min_score is against 12$"
    )
    with pytest.warns(UserWarning, match=message):
        found = go(tmp_path, rows, rules={"min_score": 0.4})
    assert ["negatives" in row for row in found] == [True, True, False, False, False]
    counted = report(tmp_path)["without"]
    assert counted == {"records": 3, "looked_at": 12, "min_score": 12}


@pytest.mark.parametrize("drop_without", [False, True])
def test_mining_that_finds_nothing_fails_and_leaves_nothing_that_looks_finished(
    tmp_path: Path, drop_without: bool
) -> None:
    message = (
        r"mine: none of 6 records got a negative: of the 21 documents that were looked at for "
        r"them, min_score is against 21, skip is against 6; loosen the rules in \[mine\.rules\] "
        r"\(depth is 50\), or name a corpus"
    )
    for _ in range(2):  # the same again says the same
        with (
            pytest.warns(UserWarning, match="6 of 6 records are without a negative"),
            pytest.raises(InputError, match=message),
        ):
            go(tmp_path, rules={"min_score": 0.99, "skip": 1}, drop_without=drop_without)
        left = {path.name for path in (tmp_path / "out").iterdir()}
        assert left == {"run.json", "recipe.toml", "state"}
    assert go(tmp_path)[0]["negatives"]


def test_where_only_right_documents_are_this_is_said(tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match="2 of 2 records"),
        pytest.raises(InputError, match="there was no document to look at but the right ones"),
    ):
        go(tmp_path, [ROWS[0], ROWS[5]])


def test_what_judges_hold_for_right_is_counted(tmp_path: Path) -> None:
    grades = [
        {"query": row["query"], "document": other["positive"], "grade": 4}
        for row in ROWS
        for other in ROWS
    ]
    path = write_lines(tmp_path / "grades.jsonl", grades)
    with (
        pytest.warns(UserWarning, match="6 of 6 records"),
        pytest.raises(InputError, match="rescore is against 21;"),
    ):
        go(tmp_path, rescore=RescoreConfig(grades=path, max_grade=3.0))


def test_one_source_without_negatives_does_not_stop_the_others(tmp_path: Path) -> None:
    some = write_lines(tmp_path / "some.jsonl", ROWS)
    none = write_lines(tmp_path / "none.jsonl", [ROWS[0]])
    config = MineConfig(
        sources=(MineSource(path=some), MineSource(path=none)), rules=Rules(relative_margin=None)
    )
    with pytest.warns(UserWarning, match="mine none: 1 of 1 records are without a negative"):
        folder = run_stage(
            mine.STAGE,
            config,
            init=tmp_path,
            out=tmp_path / "out",
            say=lambda line: None,
            name="mine",
        )
    assert len(read_records([folder])) == 7


def test_what_is_mined_is_read_as_training_records(tmp_path: Path) -> None:
    go(tmp_path, block_rows=4)
    records = read_records([tmp_path / "out" / "data" / "toys"])
    assert len(records) == 6
    assert records[0].negatives[0] == "a green apple tart"


@pytest.mark.parametrize("block_documents", [1, 2, 100])
def test_blocks_change_nothing(tmp_path: Path, block_documents: int) -> None:
    whole = go(tmp_path, toy_rows(40), rules={"number": 2})
    assert (
        go(
            tmp_path,
            toy_rows(40),
            block_documents=block_documents,
            block_rows=7,
            rules={"number": 2},
        )
        == whole
    )


# --- stopping and going on


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 3, 9, 14])
def test_a_killed_run_goes_on_where_it_stopped_and_ends_alike(
    tmp_path: Path, words: StreamingWords, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    rows = toy_rows(20)
    expected = go(tmp_path / "whole", rows, block_rows=6) if _made(tmp_path / "whole") else None
    encoded = words.num_encoded
    calls = 0
    encode, block = words._encode, miner.Miner._mine

    def tick() -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Killed

    def failing_encode(*arguments: Any) -> Any:
        tick()
        return encode(*arguments)

    def failing_block(*arguments: Any) -> Any:
        tick()
        return block(*arguments)

    monkeypatch.setattr(words, "_encode", failing_encode)
    monkeypatch.setattr(miner.Miner, "_mine", failing_block)
    with pytest.raises(Killed):
        go(tmp_path, rows, block_rows=6)
    monkeypatch.setattr(words, "_encode", encode)
    monkeypatch.setattr(miner.Miner, "_mine", block)
    assert go(tmp_path, rows, block_rows=6) == expected
    assert report(tmp_path) == report(tmp_path / "whole")
    assert words.num_encoded == 2 * encoded  # no text was embedded twice in the broken run


def _made(folder: Path) -> bool:
    folder.mkdir()
    return True


def test_a_half_written_vector_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(miner.Miner, "_mine", fail)
        with pytest.raises(Killed):
            go(tmp_path)
    vectors = tmp_path / "out" / "state" / "toys" / "documents.f16"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-5])
    with monkeypatch.context() as patch:
        patch.setattr(miner.Miner, "_mine", fail)
        with pytest.raises(Killed):
            go(tmp_path)
    assert vectors.read_bytes() == whole


def test_a_finished_stage_is_left_alone_and_other_settings_begin_anew(
    tmp_path: Path, words: StreamingWords
) -> None:
    go(tmp_path)
    before = words.num_encoded
    go(tmp_path)
    assert words.num_encoded == before
    go(tmp_path, block_documents=3)  # how, not what
    assert words.num_encoded == before
    go(tmp_path, rules={"number": 1})
    assert words.num_encoded > before


# --- judges


def test_grades_reorder_and_what_is_graded_right_is_no_negative(tmp_path: Path) -> None:
    grades = [
        ("red apple", "a green apple tart", 1, 1),
        ("red apple", "blue sky over the sea", 3, 2),
        ("red apple", "a deep blue sea", 2, 3),
    ]
    rows = [
        {"query": query, "document": document, "grade": grade, "by": by}
        for query, document, *both in grades
        for by, grade in zip(("relevance", "likelihood"), both, strict=True)
    ]
    path = write_lines(tmp_path / "grades.jsonl", rows)
    found = go(tmp_path, rescore=RescoreConfig(grades=path))
    fused = ["a deep blue sea", "blue sky over the sea", "a green apple tart"]
    assert sorted(found[0]["negatives"][:2]) == sorted(fused[:2])
    assert found[0]["negatives"][2] == fused[2]
    lowest = go(tmp_path, rescore=RescoreConfig(grades=path), rules={"number": 1, "pick": "lowest"})
    assert lowest[0]["negatives"] == ["a green apple tart"]
    right = go(tmp_path, rescore=RescoreConfig(grades=path, max_grade=1.0))
    assert right[0]["negatives"] == ["a green apple tart"]


def graded(*names: str, by: str = "") -> list[dict[str, Any]]:
    """Return grades of documents for "one two", the first the highest."""
    return [
        {"query": "one two", "document": name, "grade": -place, "by": by}
        for place, name in enumerate(names)
    ]


# from near to far, for the query "one two"
NEAR = [f"one two and {word}" for word in ("more", "more more", "much more still")]
FAR = [f"one and {word} {word}x {word}y" for word in ("sun", "moon", "star")]
TWO = [
    {"query": "one two", "positive": "one two exactly"},
    *({"query": text.split()[-1], "positive": text} for text in (*NEAR, *FAR)),
]


@pytest.mark.parametrize("with_embedder", [False, True])
def test_a_document_without_a_grade_is_no_negative_where_others_have_one(
    tmp_path: Path, with_embedder: bool
) -> None:
    grades = graded(NEAR[0], FAR[0], NEAR[1], NEAR[2])
    path, said = write_lines(tmp_path / "grades.jsonl", grades), list[str]()
    rescore = RescoreConfig(grades=path, with_embedder=with_embedder)
    rules: dict[str, Any] = {"pick": "lowest", "number": 2}
    found = go(tmp_path, TWO, rescore=rescore, rules=rules, said=said)
    assert set(found[0]["negatives"]) <= {*NEAR, FAR[0]}
    if not with_embedder:
        assert found[0]["negatives"] == NEAR[1:]
    # of the others no document has a grade: the embedder's order is all there is
    assert found[1:] == go(tmp_path, TWO, rules=rules)[1:]
    go(tmp_path, TWO, rescore=rescore, rules=rules)
    assert report(tmp_path)["rescore"] == {"ungraded_passed_over": 2, "records_ungraded": 6}
    assert said[-1].endswith(
        "; 2 documents without a grade were passed over; for 6 records none has a grade"
    )


def test_a_document_that_one_of_two_judges_has_graded_does_not_sink_for_it(tmp_path: Path) -> None:
    names = (*NEAR, *FAR)
    grades = graded(*names, by="relevance")
    grades += [row for row in graded(*names, by="likelihood") if row["grade"] != -1]
    path = write_lines(tmp_path / "grades.jsonl", grades)
    found = go(tmp_path, TWO, rescore=RescoreConfig(grades=path))
    assert found[0]["negatives"] == list(names)
    assert report(tmp_path)["rescore"]["ungraded_passed_over"] == 0


def test_grades_that_are_none_are_named(tmp_path: Path) -> None:
    path = tmp_path / "grades.jsonl"
    write_lines(path, [{"query": "a", "document": "b", "grade": "good"}])
    with pytest.raises(
        InputError, match=r"grades\.jsonl:1: expected a finite number under 'grade', got 'good'"
    ):
        Grades(path)
    write_lines(path, [{"query": "a", "grade": 1}])
    with pytest.raises(InputError, match=r"grades\.jsonl:1: expected a text .* under 'document'"):
        Grades(path)
    write_lines(path, [{"query": "a", "document": "b", "grade": 2}])
    assert [opinion.tolist() for opinion in Grades(path)("a", ["b"])] == [[2.0]]
    assert np.isnan(Grades(path)("x", ["b"])[0]).all()


def test_a_cross_encoder_that_is_not_there_is_named(tmp_path: Path) -> None:
    rescore = RescoreConfig(cross_encoder=tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no cross-encoder: it has no config.json"):
        go(tmp_path, rescore=rescore)


# --- settings and input


def test_a_recipe_table_becomes_the_settings() -> None:
    table = {
        "sources": [{"path": "folder/wordnet/pairs.jsonl.gz"}, {"path": "b.jsonl", "task": "code"}],
        "rules": {"number": 5, "pick": "lowest", "absolute_margin": 0.1},
        "rescore": {"grades": "g.jsonl"},
    }
    config = build(MineConfig, table, where="mine")
    assert [source.label for source in config.sources] == ["wordnet", "b"]
    assert build(MineConfig, to_tables(config), where="mine") == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "at least one source is needed"),
        ({"block_rows": 0}, "block_rows and block_documents must be at least 1, got 0"),
        ({"sources": (MineSource(Path("a.jsonl")),) * 2}, "different names.*'a', 'a'"),
        ({"seed": -1}, r"seed must be from 0 to 2\^63 - 1, got -1"),
        ({"rescore": RescoreConfig(max_grade=1.0)}, "rescore needs a cross_encoder or grades"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        MineConfig(**{"sources": (MineSource(Path("a.jsonl")),)} | changes)


def test_a_bad_line_stops_the_stage_or_is_left_out(tmp_path: Path) -> None:
    rows: list[Any] = [*ROWS, {"query": "no positive"}]
    with pytest.raises(InputError, match=r"toys\.jsonl:7: expected a text .* under 'positive'"):
        go(tmp_path, rows)
    assert len(go(tmp_path, rows, skip_bad_records=True)) == 6


def test_a_field_that_utf8_cannot_say_is_passed_on(tmp_path: Path) -> None:
    note = "half \ud800x, \\ud800 and \U0001f600"
    assert go(tmp_path, [ROWS[0] | {"note": note}, *ROWS[1:]])[0]["note"] == note


def test_a_task_that_the_embedder_does_not_know_is_a_bad_line(
    tmp_path: Path, words: StreamingWords
) -> None:
    unknown = {"query": "odd", "positive": "odd one", "task": "nope"}
    rows = [ROWS[0], unknown, *ROWS[1:]]
    with pytest.raises(InputError, match=r"toys\.jsonl:2: unknown task 'nope'; this checkpoint kn"):
        go(tmp_path, rows)
    assert words.num_encoded == 0
    said: list[str] = []
    found = go(tmp_path, rows, skip_bad_records=True, block_rows=2, said=said)
    assert [row["query"] for row in found] == [row["query"] for row in ROWS]
    assert said[1].startswith(  # the run that stopped is kept
        f"mine toys: skipped 1 bad records of {tmp_path}/toys.jsonl, the first: "
        f"{tmp_path}/toys.jsonl:2: unknown task 'nope'"
    )
    assert all("odd" not in text for row in found for text in row["negatives"])


def test_a_title_that_the_embedder_has_no_place_for_is_a_bad_line(
    tmp_path: Path, words: StreamingWords
) -> None:
    words.prompts = Prompts.from_names({})
    rows = [*ROWS, ROWS[0] | {"title": "Fruit"}]
    with pytest.raises(InputError, match=r"toys\.jsonl:7: .* has no place for a title"):
        go(tmp_path, rows)
    assert len(go(tmp_path, rows, skip_bad_records=True)) == 6


def test_an_index_keeps_numbers_and_texts_apart(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [*ROWS, ROWS[0] | {"task": "similarity"}])
    index = build_index(tmp_path / "index", [path], task="search")
    assert index.query.tolist() == [0, 1, 0, 2, 3, 0, 4]  # another task asks another question
    assert index.queries[4] == ["similarity", "red apple"]
    assert index.positive.tolist() == [0, 1, 2, 3, 4, 0, 0]
    assert index.documents[0] == [None, None, "the red apple pie"]
    banned = index.banned(np.array([4, 0, 2]))
    assert list(zip(banned.query.tolist(), banned.document.tolist(), strict=True)) == [
        (0, 0),
        (1, 0),
        (1, 2),
        (2, 3),
    ]


def test_a_real_model_mines_through_the_default_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import culet

    monkeypatch.setattr(mine, "load", culet.load)
    monkeypatch.setattr(mine, "read_embedding_model", read_embedding_model)
    init = checkpoint(tmp_path / "checkpoint")
    path = write_lines(tmp_path / "toys.jsonl", toy_rows(12))
    config = MineConfig(sources=(MineSource(path),), rules=Rules(relative_margin=None, number=2))
    folder = run_stage(
        mine.STAGE, config, init=init, out=tmp_path / "out", say=lambda line: None, name="mine"
    )
    found = read_records([folder / "toys"])
    assert all(len(set(r.negatives)) == 2 and r.positive not in r.negatives for r in found)


def test_a_cross_encoder_reorders_and_drops_what_it_holds_for_right(tmp_path: Path) -> None:
    judge = CrossEncoderJudge(cross_encoder(tmp_path / "judge"))
    texts = ["a green apple tart", "blue sky over the sea", "a deep blue sea", "the red apple pie"]
    (scores,) = judge("red apple", texts)
    assert len(set(scores.round(6).tolist())) == 4
    expected = [texts[i] for i in np.argsort(-scores[:3], kind="stable") if scores[i] < scores[3]]
    found = go(tmp_path, rescore=RescoreConfig(cross_encoder=tmp_path / "judge"))
    assert found[0].get("negatives", []) == expected
    assert len({len(row.get("negatives", ())) for row in found}) > 1  # some were dropped
