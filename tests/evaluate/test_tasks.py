from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from evaluate_doubles import write_task

from culet.errors import InputError
from culet.evaluate.tasks import (
    ClassificationData,
    LabelledTexts,
    Pairs,
    RerankingData,
    RetrievalData,
    list_tasks,
    read_task,
    read_task_info,
)
from culet.files.rows import read_rows

CORPUS = [{"id": "d1", "title": "T", "text": "one"}, {"id": "d2", "text": "two"}]
QUERIES = [{"id": "q1", "text": "first"}, {"id": "q2", "text": "nobody judged this"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n"
RETRIEVAL = {"corpus.jsonl": CORPUS, "queries.jsonl": QUERIES, "qrels.tsv": QRELS}


def _write(folder: Path, kind: str, metric: str, files: dict[str, Any], **task: Any) -> Path:
    return write_task(folder / "Task", type=kind, metric=metric, files=files, **task)


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_sts_rows_become_pairs(tmp_path: Path, packed: bool) -> None:
    rows = [{"a": "x", "b": "y", "score": 3}, {"a": "é\u2028z", "b": "y", "score": 0.5}]
    files = {"pairs.jsonl": rows}
    folder = _write(tmp_path, "sts", "cosine_spearman", files, packed=packed)
    task = read_task(folder)
    assert task.subsets == {"default": Pairs(("x", "é\u2028z"), ("y", "y"), (3.0, 0.5))}


def test_pair_labels_and_bitext_rows(tmp_path: Path) -> None:
    rows = {"pairs.jsonl": [{"a": "x", "b": "y", "label": 1}]}
    labelled = _write(tmp_path / "1", "pair_classification", "max_ap", rows)
    assert read_task(labelled).subsets["default"] == Pairs(("x",), ("y",), (1,))
    bitext = _write(tmp_path / "2", "bitext", "f1", rows)
    assert read_task(bitext).subsets["default"] == Pairs(("x",), ("y",))


def test_classification_and_clustering_rows(tmp_path: Path) -> None:
    train, test = [{"text": "x", "label": "l"}], [{"text": "y", "label": 7}]
    files = {"train.jsonl": train, "test.jsonl": test}
    expected = LabelledTexts(("x",), ("l",)), LabelledTexts(("y",), ("7",))
    classification = _write(tmp_path / "1", "classification", "accuracy", files)
    assert read_task(classification).subsets["default"] == ClassificationData(*expected)
    clustering = _write(tmp_path / "2", "clustering", "v_measure", {"test.jsonl": test})
    assert read_task(clustering).subsets["default"] == expected[1]


def test_retrieval_files_leave_out_queries_nobody_judged(tmp_path: Path) -> None:
    task = read_task(_write(tmp_path, "retrieval", "ndcg_at_10", RETRIEVAL))
    assert task.subsets["default"] == RetrievalData(
        document_ids=("d1", "d2"),
        titles=("T", ""),
        documents=("one", "two"),
        query_ids=("q1",),
        queries=("first",),
        qrels={"q1": {"d1": 2, "d2": 0}},
    )


def test_reranking_gains_are_one_without_grades(tmp_path: Path) -> None:
    rows = [
        {"query": "q", "positive": ["r", "s"], "negative": [], "grades": [2.0, 1.0]},
        {"query": "p", "positive": ["r"], "negative": ["w"]},
    ]
    task = read_task(_write(tmp_path, "reranking", "map_at_1000", {"test.jsonl": rows}))
    assert task.subsets["default"] == RerankingData(
        ("q", "p"), (("r", "s"), ("r",)), ((), ("w",)), ((2, 1), (1,))
    )


SUBSETS = [{"name": "one", "n": 1}, {"name": "two", "n": 1}]


def test_rows_go_to_their_subset_and_the_filter_keeps_the_named(tmp_path: Path) -> None:
    rows = [{"a": "2", "b": "2", "subset": "two"}, {"a": "1", "b": "1", "subset": "one"}]
    folder = _write(tmp_path, "bitext", "f1", {"pairs.jsonl": rows}, subsets=SUBSETS)
    task = read_task(folder)
    assert list(task.subsets) == ["one", "two"]
    assert task.subsets["two"] == Pairs(("2",), ("2",))
    assert list(read_task(folder, subsets=["two", "elsewhere"]).subsets) == ["two"]
    with pytest.raises(InputError, match=r"at least one of its subsets one, two, got three"):
        read_task(folder, subsets=["three"])


def test_a_retrieval_subset_is_a_folder(tmp_path: Path) -> None:
    files = {
        f"{subset}/{name}": rows for subset in ("one", "two") for name, rows in RETRIEVAL.items()
    }
    folder = _write(tmp_path, "retrieval", "ndcg_at_10", files, subsets=SUBSETS)
    assert list(read_task(folder).subsets) == ["one", "two"]


def test_task_json_settings_and_prompt(tmp_path: Path) -> None:
    folder = _write(
        tmp_path,
        "retrieval",
        "ndcg_at_10",
        RETRIEVAL,
        mteb_name="SciFact",
        fidelity="near, part of the subsets",
        mteb_protocol={"prompt": {"query": "Find it"}, "n_clusters": 3},
    )
    info = read_task_info(folder)
    assert (info.prompt, info.protocol, info.comparable) == ("Find it", {"n_clusters": 3}, True)
    assert [task.name for task in list_tasks(tmp_path)] == ["Task"]


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "..",
        ".",
        "",
        "/tmp/evil",
        "a/b",
        "a\\b",
        "C:a",
        "a\x1b[2J",
        "a\nb",
        "x" * 201,
        "\udc80",
        3,
    ],
)
@pytest.mark.parametrize("key", ["name", "mteb_name", "subset"])
def test_a_name_that_could_lead_elsewhere_is_refused(
    tmp_path: Path, key: str, name: object
) -> None:
    named = {"subsets": [{"name": name}]} if key == "subset" else {key: name}
    folder = _write(tmp_path, "sts", "cosine_spearman", {}, **named)
    with pytest.raises(InputError, match=r"task\.json: .*(cannot name a file|expected a string)"):
        list_tasks(tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == ["Task"]


def test_unknown_type_lists_the_known_ones(tmp_path: Path) -> None:
    folder = _write(tmp_path, "summary", "x", {})
    with pytest.raises(
        InputError, match=r"unknown task type 'summary'.*retrieval, sts, pair_class"
    ):
        read_task(folder)


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of task folders"):
        list_tasks(tmp_path)
    with pytest.raises(InputError, match=r"a task folder needs a task.json"):
        read_task(tmp_path)


@pytest.mark.parametrize(
    ("kind", "files", "message"),
    [
        ("sts", {"pairs.jsonl": "{\n"}, r"pairs.jsonl.gz:1: expected a JSON object"),
        ("sts", {"pairs.jsonl": "[1]\n"}, r":1: expected a JSON object, got \[1\]"),
        (
            "sts",
            {"pairs.jsonl": [{"a": "x", "b": None, "score": 1}]},
            r":1: expected a string under 'b'",
        ),
        (
            "sts",
            {"pairs.jsonl": [{"a": "x", "b": "y", "score": 1}, {"a": "x", "b": "y", "score": "4"}]},
            r":2: expected a finite number under 'score', got '4'",
        ),
        (
            "pair_classification",
            {"pairs.jsonl": [{"a": "x", "b": "y", "label": 2}]},
            r":1: expected one of 0, 1 under 'label', got 2",
        ),
        (
            "clustering",
            {"test.jsonl": [{"text": "x"}]},
            r":1: expected a label .* under 'label', got nothing",
        ),
        (
            "clustering",
            {"test.jsonl": []},
            "expected rows of the subset 'default' in test, found none",
        ),
        ("clustering", {}, r"test.jsonl: no such file, nor test.jsonl.gz"),
        (
            "reranking",
            {"test.jsonl": [{"query": "q", "positive": [], "negative": ["w"]}]},
            r":1: expected a list of at least 1 strings under 'positive'",
        ),
        (
            "reranking",
            {"test.jsonl": [{"query": "q", "positive": ["r"], "negative": [], "grades": [1, 2]}]},
            r":1: expected a list of 1 gains",
        ),
        (
            "retrieval",
            RETRIEVAL | {"corpus.jsonl": [*CORPUS, {"id": "d1", "text": "again"}]},
            r"corpus.jsonl.gz:3: expected an id of its own .* got 'd1'",
        ),
        (
            "retrieval",
            RETRIEVAL | {"qrels.tsv": QRELS + "q1\td9\t1\n"},
            r"qrels.tsv.gz:4: expected the id of a document, got 'd9'",
        ),
        (
            "retrieval",
            RETRIEVAL | {"qrels.tsv": QRELS + "q9\td1\t1\n"},
            r"qrels.tsv.gz:4: expected the id of a query, got 'q9'",
        ),
        (
            "retrieval",
            RETRIEVAL | {"qrels.tsv": QRELS + "q1\td1\t0.5\n"},
            r"qrels.tsv.gz:4: expected a whole number as gain, got 0.5",
        ),
        (
            "retrieval",
            RETRIEVAL | {"qrels.tsv": QRELS + "q1 d1 1\n"},
            r"qrels.tsv.gz:4: expected 3 tab-separated columns, got 1",
        ),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(
    tmp_path: Path, kind: str, files: dict[str, Any], message: str
) -> None:
    folder = _write(tmp_path, kind, "ndcg_at_10", files)
    with pytest.raises(InputError, match=message):
        read_task(folder)


def test_a_row_of_an_unlisted_subset_is_refused(tmp_path: Path) -> None:
    rows = {"pairs.jsonl": [{"a": "x", "b": "y", "subset": "three"}]}
    folder = _write(tmp_path, "bitext", "f1", rows, subsets=SUBSETS)
    with pytest.raises(InputError, match=r":1: expected one of one, two under 'subset'"):
        read_task(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            gzip.compress(b"")[:10] + b"\xff" * 50,
            r"gz:1: cannot be read: Error -3",
        ),
        (
            gzip.compress(b"[" * 200_000),
            r"gz:1: expected a JSON object, got .*recursion",
        ),
    ],
    ids=["damaged", "deep"],
)
def test_rows_that_cannot_be_unpacked_or_parsed_are_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "pairs.jsonl.gz").write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_rows([tmp_path / "pairs.jsonl.gz"]))


def test_a_cut_off_gzip_file_is_refused(tmp_path: Path) -> None:
    rows = [{"a": f"{n}", "b": "y"} for n in range(500)]
    folder = _write(tmp_path, "bitext", "f1", {"pairs.jsonl": rows})
    path = folder / "pairs.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(
        InputError, match=r"pairs.jsonl.gz:\d+: cannot be read: Compressed file ended"
    ):
        read_task(folder)


def _beir(folder: Path, *, header: bool = True, whole: bool = False) -> Path:
    def ident(letter: str, number: int) -> Any:
        return number if whole else f"{letter}{number}"

    (folder / "qrels").mkdir(parents=True)
    documents = [
        {"_id": ident("d", 1), "title": "only a title", "text": ""},
        {"_id": ident("d", 2), "title": "only a title too"},
        {"_id": ident("d", 3), "title": "", "text": ""},
        {"_id": ident("d", 4), "text": "a text", "metadata": {"url": "x"}},
    ]
    queries = [{"_id": ident("q", 7), "text": "q"}, {"_id": ident("q", 8), "text": "of train"}]
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    judged = f"{ident('q', 7)}\t{ident('d', 1)}\t1\n"
    head = "query-id\tcorpus-id\tscore\n" if header else ""
    (folder / "qrels" / "test.tsv").write_text(head + judged)
    (folder / "qrels" / "train.tsv").write_text(f"{head}{ident('q', 8)}\t{ident('d', 2)}\t1\n")
    return folder


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_a_data_set_in_beirs_layout_is_a_retrieval_task(
    tmp_path: Path, header: bool, whole: bool
) -> None:
    _beir(tmp_path / "scifact", header=header, whole=whole)
    (info,) = list_tasks(tmp_path)
    assert (info.name, info.type, info.metric, info.split) == (
        "scifact",
        "retrieval",
        "ndcg_at_10",
        "test",
    )
    data = read_task(info.folder).subsets["default"]
    assert isinstance(data, RetrievalData)
    q, d = ("", "") if whole else ("q", "d")
    assert data.document_ids == (f"{d}1", f"{d}2", f"{d}3", f"{d}4")
    assert data.titles == ("only a title", "only a title too", "", "")
    assert data.documents == ("", "", "", "a text")
    assert data.query_ids == (f"{q}7",)
    assert data.qrels == {f"{q}7": {f"{d}1": 1}}
