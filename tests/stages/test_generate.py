"""Training data from a language model: questions, what is read from answers, and the stage."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endpoint_double import Stub, serving

from culet.data.endpoints.chat import ChatEndpoint
from culet.data.endpoints.synthesis import (
    ClassificationConfig,
    GradesConfig,
    QueriesConfig,
    Shot,
    classification_rows,
    drawn_examples,
    grade_question,
    query_question,
    read_example,
    read_grade,
    read_json,
    read_list,
    read_queries,
)
from culet.data.ledger import read_ledger
from culet.data.mining.judges import Grades
from culet.data.records import read_records
from culet.errors import InputError, Interrupted, RecipeError
from culet.files.settings import build, to_tables
from culet.stages import generate, prepare
from culet.stages.contract import run_stage
from culet.stages.generate import GenerateConfig, PairGradesConfig
from culet.stages.prepare import DataSourceConfig, PrepareConfig

DOCUMENTS = [{"text": f"The {w} is a stone.", "lang": "en"} for w in ("opal", "beryl", "agate")]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub()) as server:
        server.reply = reply
        yield server


@pytest.fixture
def endpoint(stub: Stub) -> ChatEndpoint:
    return ChatEndpoint(stub.url, "small", input_price=1.0, output_price=1.0)


def reply(question: str, number: int) -> str:
    """ChatAnswer as a model would: by what is asked."""
    document = question.rpartition("Document:\n")[2]
    if question.startswith("Write a query"):
        return f'Sure!\n```json\n{{"queries": ["what is {document.split()[1]}?"]}}\n```'
    if "agate" in question:
        return '{"grade": 1}'
    if question.startswith("Grade"):
        return '{"grade": 4}' if question.startswith("Grade how well") else '{"grade": "3"}'
    if question.startswith("List"):
        return json.dumps({"list": [f"film {i}" for i in range(20)]})
    assert question.startswith("Write one of")
    return json.dumps({"text": question.split(", in ")[1][:60] + question.rpartition("class ")[2]})


def lines(path: Path, values: list[Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def run(config: GenerateConfig, out: Path) -> int:
    """Run the stage and return the number of rows it recorded."""
    assert run_stage(generate.STAGE, config, out=out, name="made") == out / "data"
    return int(json.loads((out / "done.json").read_text())["rows"])


def rows_of(out: Path) -> list[dict[str, Any]]:
    text = (out / "data" / "rows.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Here you are:\n```json\n{"a": [1]}\n```\nAnything else?', {"a": [1]}),
        ("{broken} [2]", [2]),
        (" 3 ", "3"),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_json_is_found_in_any_answer(answer: str, value: Any) -> None:
    assert read_json(answer) == value


@pytest.mark.parametrize(
    ("answer", "grade"),
    [
        ('{"grade": 3}', 3),
        ('{"grade": "2"}', 2),
        ("4", 4),
        ('{"grade": 2.0}', 2),
        ('{"grade": 2.5}', None),
        ('{"grade": 5}', None),
        ('{"grade": -1}', None),
        ('{"grade": true}', None),
        ('{"grade": NaN}', None),
        ('{"grade": 1e999}', None),
        ('{"grade": "' + "4" * 5000 + '"}', None),
        ("²", None),
        ("good", None),
        ("", None),
        ("{}", None),
    ],
)
def test_grades_are_whole_and_on_the_scale(answer: str, grade: int | None) -> None:
    assert read_grade(answer) == grade


def test_queries_are_read_once_each_and_as_many_as_asked() -> None:
    config = QueriesConfig(per_document=2)
    assert read_queries('{"queries": ["a", " a ", "b", "c"]}', config) == ["a", "b"]
    assert read_queries('["a", 3, ""]', config) == ["a"]
    assert read_queries('{"queries": []}', config) is None
    assert read_queries('{"queries": "a"}', config) is None
    assert read_queries("a", config) is None


def test_lists_and_examples() -> None:
    assert read_list('{"list": ["a", "a", "b", 1]}') == ["a", "b"]
    assert read_list("none") == []
    assert read_example('{"text": " t "}') == "t"
    assert read_example('{"text": ""}') is None
    assert read_example('{"text": 3}') is None
    assert read_example("t") is None


def test_half_an_emoji_is_replaced() -> None:
    half = r'["smile \ud83d", "smile \ude00", "whole \ud83d\ude00"]'
    expected = ["smile \ufffd", "whole \U0001f600"]
    assert read_queries(half, QueriesConfig(per_document=3)) == expected
    assert read_list(half) == expected
    assert read_example(r'{"text": "\udfff"}') == "\ufffd"


def test_the_question_holds_the_document_the_language_and_the_shots() -> None:
    config = QueriesConfig(2, "questions of a jeweller", (Shot("Gold melts.", "does gold melt?"),))
    text = query_question("Opals crack.", config, lang="de")[0]["content"]
    assert text.startswith("Write questions of a jeweller, ")
    assert "in the language 'de'" in text
    assert 'Document:\nGold melts.\nAnswer: {"queries": ["does gold melt?"]}' in text
    assert text.endswith("Document:\nOpals crack.")
    assert "in the language of the document" in query_question("x", config, lang=None)[0]["content"]


def test_long_documents_are_shown_in_part() -> None:
    text = grade_question("q", "d" * 10_000)[0]["content"]
    assert text.count("d" * 6000) == 1
    assert text.endswith("d\n[…]")


def test_subjects_come_from_the_tail_of_the_list() -> None:
    config = ClassificationConfig("texts", ("a", "b"), "things", tail=0.25, rows=10)
    wanted = drawn_examples([str(i) for i in range(40)], config)
    assert {int(subject) for _, subject in wanted} <= set(range(30, 40))
    assert [label for label, _ in wanted] == ["a"] * 10 + ["b"] * 10
    assert len({subject for label, subject in wanted if label == "a"}) == 10
    assert drawn_examples(["x"], config)[0] == ("a", "x")


def test_rows_join_texts_of_one_label_and_set_others_against_them() -> None:
    config = ClassificationConfig("texts", ("a", "b", "c"), "things", rows=7, negatives=2)
    texts = [(label, f"{label}{i}") for label in "abc" for i in range(4)]
    made = list(classification_rows([*texts, ("c", "c0")], config))
    assert len(made) == 7
    assert len({row["query"] for row in made}) == 7
    for row in made:
        own = row["query"][0]
        assert row["label"] == own
        assert row["positive"][0] == own
        assert row["positive"] != row["query"]
        assert [text[0] == own for text in row["negatives"]] == [False, False]
    assert list(classification_rows([("a", "a0"), ("b", "b0")], config)) == []


def test_queries_become_records(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    lines(tmp_path / "docs.jsonl", DOCUMENTS)
    (tmp_path / "source.json").write_text('{"name": "gems", "licence": "CC0-1.0"}')
    config = GenerateConfig(endpoint, (tmp_path / "docs.jsonl",), queries=QueriesConfig())
    assert run(config, tmp_path / "out") == 3
    assert rows_of(tmp_path / "out")[0] == {
        "query": "what is opal?",
        "positive": "The opal is a stone.",
        "lang": "en",
        "source": "made",
        "made_by": "small",
    }
    assert len(read_records([tmp_path / "out" / "data"])) == 3
    (entry,) = read_ledger(tmp_path / "out" / "ledger.json")
    assert (entry.licence, entry.origin, entry.made_by) == ("CC0-1.0", "gems", "small")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rows"] == {"used": 3, "written": 3}
    assert report["cost"]["asked"] == 3
    assert report["cost"]["paid"] > 0
    said: list[str] = []
    run_stage(generate.STAGE, config, out=tmp_path / "out", name="made", say=said.append)
    assert said == ["made: finished before, nothing to do"]


def test_queries_are_graded_and_low_ones_go(
    stub: Stub, endpoint: ChatEndpoint, tmp_path: Path
) -> None:
    path = lines(tmp_path / "docs.jsonl", DOCUMENTS)
    config = GenerateConfig(endpoint, (path,), queries=QueriesConfig(min_grade=3))
    run(config, tmp_path / "out")
    assert [(row["query"], row["grade"]) for row in rows_of(tmp_path / "out")] == [
        ("what is opal?", 4),
        ("what is beryl?", 4),
    ]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["answers"] == {"low grade": 1}
    assert report["examples"]["low grade"][0]["grade"] == "1"
    asked = len(stub.bodies)
    lenient = replace(config, queries=QueriesConfig(min_grade=1))
    assert run(lenient, tmp_path / "out") == 3
    assert len(stub.bodies) == asked  # the same questions, answered before


def test_answers_of_no_use_are_counted_and_shown(
    stub: Stub, endpoint: ChatEndpoint, tmp_path: Path
) -> None:
    path = lines(tmp_path / "docs.jsonl", DOCUMENTS)
    stub.reply = lambda question, number: "I cannot" if "beryl" in question else reply(question, 0)
    config = GenerateConfig(endpoint, (path,), queries=QueriesConfig())
    assert run(config, tmp_path / "out") == 2
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["answers"] == {"unusable": 1}
    assert report["examples"]["unusable"] == [{"for": f"{path}:2", "answer": "I cannot"}]
    stub.reply = lambda question, number: "no"
    with pytest.raises(InputError, match=r"no answer of other could be used.* the last: 'no'"):
        run(replace(config, endpoint=replace(endpoint, model="other")), tmp_path / "none")
    assert not (tmp_path / "none" / "data" / "rows.jsonl").exists()


def test_odd_answers_stop_no_job(stub: Stub, endpoint: ChatEndpoint, tmp_path: Path) -> None:
    odd = {"opal": '{"grade": NaN}', "beryl": "²"}

    def answer(question: str, number: int) -> str:
        if question.startswith("Write"):
            return reply(question, 0).replace("?", r" \ud83d?")
        return next((odd[w] for w in odd if w in question), '{"grade": 3}')

    stub.reply = answer
    path = lines(tmp_path / "docs.jsonl", DOCUMENTS)
    config = GenerateConfig(endpoint, (path,), queries=QueriesConfig(min_grade=3))
    assert run(config, tmp_path / "out") == 3
    assert rows_of(tmp_path / "out")[0]["query"] == ("what is opal \ufffd?")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["answers"] == {"ungraded": 2}


def test_queries_and_their_grades_share_the_parallel_requests(
    stub: Stub, endpoint: ChatEndpoint, tmp_path: Path
) -> None:
    lock, under_way, most = threading.Lock(), [0], [0]

    def slow(question: str, number: int) -> str:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.01)  # or none would meet
        with lock:
            under_way[0] -= 1
        return reply(question, number)

    stub.reply = slow
    path = lines(tmp_path / "docs.jsonl", [{"text": f"The n{i} is a stone."} for i in range(20)])
    config = GenerateConfig(
        replace(endpoint, parallel=2), (path,), queries=QueriesConfig(min_grade=3)
    )
    assert run(config, tmp_path / "out") == 20
    assert len(stub.bodies) == 40
    assert most[0] <= 2


def test_empty_answers_are_counted_apart_and_asked_for_again(
    stub: Stub, endpoint: ChatEndpoint, tmp_path: Path
) -> None:
    path = lines(tmp_path / "docs.jsonl", DOCUMENTS)
    once = replace(endpoint, retries=0)
    config = GenerateConfig(once, (path,), queries=QueriesConfig())
    stub.reply = lambda question, number: "no" if "beryl" in question else None
    words = (
        r"no answer of small could be used; .*-answers\.sqlite holds its answers, the last: 'no'"
    )
    empty = (
        "; empty answers, which are not kept: 2; run again to ask again, with a larger max_tokens"
    )
    with pytest.raises(InputError, match=words + empty):
        run(config, tmp_path / "out")
    stub.reply = lambda question, number: None if "agate" in question else reply(question, number)
    assert run(config, tmp_path / "out") == 1  # of opal; beryl was answered
    assert len(stub.bodies) == 3 + 2
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["answers"] == {"unusable": 1, "unanswered": 1}
    assert report["examples"]["unanswered"] == [{"for": f"{path}:3", "answer": ""}]


def test_a_stopped_run_goes_on_where_it_stood(
    stub: Stub, endpoint: ChatEndpoint, tmp_path: Path
) -> None:
    path = lines(tmp_path / "docs.jsonl", [{"text": f"The n{i} is a stone."} for i in range(20)])
    config = GenerateConfig(replace(endpoint, parallel=1), (path,), queries=QueriesConfig())
    stub.reply = lambda question, number: (400, "no more") if number > 7 else reply(question, 0)
    with pytest.raises(InputError, match="no more"):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out" / "data" / "rows.jsonl").exists()
    stub.reply = reply
    before = len(stub.bodies)
    assert run(config, tmp_path / "out") == 20
    assert len(stub.bodies) - before == 13


def test_ctrl_c_says_how_to_go_on(
    endpoint: ChatEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "read_queries", interrupted)
    path = lines(tmp_path / "docs.jsonl", DOCUMENTS)
    config = GenerateConfig(endpoint, (path,), queries=QueriesConfig())
    with pytest.raises(Interrupted, match="stopped; run the same again to go on"):
        run(config, tmp_path / "out")


def test_grades_are_what_the_miner_reads(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    row = {"query": "what is opal?", "positive": "An opal.", "negatives": ["An agate."]}
    path = lines(tmp_path / "pairs.jsonl", [row, row | {"query": "opal?"}])
    config = GenerateConfig(endpoint, (path,), limit=1, grades=PairGradesConfig())
    assert run(config, tmp_path / "out") == 4
    relevance, likelihood = Grades(tmp_path / "out" / "data")(
        "what is opal?", ["An opal.", "An agate."]
    )
    assert relevance.tolist() == [4.0, 1.0]
    assert likelihood.tolist() == [3.0, 1.0]


def test_classification_is_made_in_two_stages(
    stub: Stub, endpoint: ChatEndpoint, tmp_path: Path
) -> None:
    job = ClassificationConfig("reviews of a film", ("good", "bad"), "films", rows=6)
    config = GenerateConfig(endpoint, classification=job, licence="CC0-1.0")
    assert run(config, tmp_path / "out") == 6
    rows = rows_of(tmp_path / "out")
    assert {row["label"] for row in rows} == {"good", "bad"}
    assert all(row["task"] == "classification" for row in rows)
    asked = [body["messages"][0]["content"] for body in stub.bodies]
    assert asked[0].startswith("List 100 different films.")
    assert len(asked) == 1 + 12
    assert {int(text.split("film ")[-1].split(".")[0]) for text in asked[1:]} <= set(range(10, 20))
    assert read_ledger(tmp_path / "out" / "ledger.json")[0].licence == "CC0-1.0"


def test_pairs_graded_low_are_removed_in_preparation(
    stub: Stub, endpoint: ChatEndpoint, tmp_path: Path
) -> None:
    rows = [{"query": f"{w}?", "positive": f"An {w}, a stone."} for w in ("opal", "agate", "onyx")]
    path = lines(tmp_path / "gems.jsonl", [*rows, {"text": "agate"}])
    stub.reply = lambda question, number: "?" if "onyx" in question else reply(question, 0)
    source = DataSourceConfig(path, licence="MIT")
    config = PrepareConfig((source,), grades=GradesConfig(endpoint), compress=False)
    run_stage(prepare.STAGE, config, out=tmp_path / "out", name="prepare")
    assert json.loads((tmp_path / "out/done.json").read_text())["kept"] == 3
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["removed"] == {"low grade": 1}
    assert report["examples"]["low grade"][0]["query"] == "agate?"
    assert report["grades"]["graded"] == {"4": 1, "1": 1}
    assert report["grades"]["unusable"] == 1
    assert report["grades"]["cost"]["asked"] == 3
    asked = len(stub.bodies)
    strict = replace(config, grades=GradesConfig(endpoint, min_grade=4))
    run_stage(prepare.STAGE, strict, out=tmp_path / "out", name="prepare")
    assert json.loads((tmp_path / "out/done.json").read_text())["kept"] == 3
    assert len(stub.bodies) == asked


def test_recipe_tables_say_it_all(endpoint: ChatEndpoint) -> None:
    config = GenerateConfig(endpoint, (Path("a"),), queries=QueriesConfig(shots=(Shot("d", "q"),)))
    assert build(GenerateConfig, to_tables(config), where="generate") == config


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "give one table of queries, grades and classification"),
        ({"queries": {}, "grades": {}}, "give one table of"),
        ({"queries": {}}, "queries and grades need inputs"),
        ({"grades": {"by": []}, "inputs": ["a"]}, r"grades\.by must name one or more ways"),
        ({"queries": {"min_grade": 5}, "inputs": ["a"]}, r"min_grade in 0 … 4, got 1 and 5"),
        (
            {"classification": {"texts": "t", "labels": ["a"], "subjects": "s"}},
            "labels must be two or more, all different",
        ),
        (
            {"classification": {"texts": "t", "labels": ["a", "b"], "subjects": "s", "seed": -1}},
            r"seed must be from 0 to 2\^63 - 1, got -1",
        ),
        ({"queries": {}, "inputs": ["a"], "limit": -1}, "limit must not be negative, got -1; 0"),
    ],
)
def test_a_table_that_cannot_be_is_refused(table: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        build(
            GenerateConfig,
            {"endpoint": {"url": "http://x", "model": "m"}} | table,
            where="generate",
        )
