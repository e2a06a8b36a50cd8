from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from evaluate_doubles import HashModel, gaussian, sentences
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import EncoderProtocol
from mteb.types import PromptType
from word_embedder import WordEmbedder

import culet
from culet.errors import InputError, MissingExtra
from culet.evaluate import EvalTask, TaskInfo, evaluate
from culet.evaluate.mteb import MtebEncoder, query_task
from culet.evaluate.tasks import Pairs


def _metadata(task_type: str, main_score: str, **more: Any) -> TaskMetadata:
    return TaskMetadata(
        name="InMemory",
        description="A task made for a test.",
        type=task_type,
        main_score=main_score,
        eval_langs=["eng-Latn"],
        dataset={"path": "none", "revision": "none"},
        category="t2t",
        **more,
    )


def _task(kind: type, task_type: str, main_score: str, dataset: Any) -> Any:
    task = type("InMemory", (kind,), {"metadata": _metadata(task_type, main_score)})()
    task.dataset, task.data_loaded = dataset, True
    return task


def _sts() -> tuple[Any, Pairs]:
    a, b = sentences(30, seed=1), sentences(30, seed=2)
    b[:4] = a[:4]
    score = [float(n % 5) for n in range(30)]
    rows = Dataset.from_dict({"sentence1": a, "sentence2": b, "score": score})
    task = _task(AbsTaskSTS, "STS", "cosine_spearman", DatasetDict(test=rows))
    return task, Pairs(tuple(a), tuple(b), tuple(score))


def _run(encoder: MtebEncoder, task: Any) -> Any:
    logging.getLogger("mteb").setLevel(logging.ERROR)
    results = mteb.evaluate(encoder, [task], cache=None, show_progress_bar=False, co2_tracker=False)
    return results.task_results[0]


def test_it_is_an_encoder_to_mteb() -> None:
    encoder = MtebEncoder(HashModel(), name="hash", revision="r1")
    assert isinstance(encoder, EncoderProtocol)
    assert (encoder.mteb_model_meta.name, encoder.mteb_model_meta.revision) == ("local/hash", "r1")


@pytest.mark.parametrize(
    ("loaded_by", "name"),
    [
        ("google/embeddinggemma-300m", "google/embeddinggemma-300m"),
        ("culet-default", "local/culet-default"),
        ("/somewhere/runs/gem", "local/gem"),
        ("runs/demo/gem/", "local/gem"),
    ],
)
def test_an_embedder_brings_name_and_revision(loaded_by: str, name: str) -> None:
    embedder = WordEmbedder("f1")
    embedder.name = loaded_by
    embedder.backend = "openvino"
    meta = MtebEncoder(embedder).mteb_model_meta
    assert (meta.name, meta.revision) == (name, "f1")
    embedder.precision = "int4"
    assert MtebEncoder(embedder, truncate_to=32).mteb_model_meta.revision == "f1-in-int4-32d"
    own = MtebEncoder(embedder, name="me/model", revision="1").mteb_model_meta
    assert (own.name, own.revision) == ("me/model", "1")


def test_a_model_without_a_name_asks_for_one() -> None:
    message = r"since HashModel has none of its own; give MtebEncoder\(\.\.\., name='organisation/"
    with pytest.raises(InputError, match=message):
        MtebEncoder(HashModel())


DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.filterwarnings("ignore:The task 'STSBenchmark' is superseded")
def test_the_program_of_the_docs_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = PROGRAMS
    results: list[Any] = []
    get_tasks, evaluate_with_mteb = mteb.get_tasks, mteb.evaluate

    def tasks_at_hand(**wanted: Any) -> Any:
        tasks = get_tasks(**wanted)
        for task in tasks:
            task.dataset, task.data_loaded = _sts()[0].dataset, True
        return tasks

    def quietly(*arguments: Any, **options: Any) -> None:
        quiet = {"cache": None, "show_progress_bar": False, "co2_tracker": False}
        results.append(evaluate_with_mteb(*arguments, **options, **quiet))

    monkeypatch.setattr(culet, "load", lambda path: WordEmbedder(path))
    monkeypatch.setattr(mteb, "get_tasks", tasks_at_hand)
    monkeypatch.setattr(mteb, "evaluate", quietly)
    exec(compile(program, str(DOCS), "exec"), {})
    (result,) = results[0].task_results
    assert result.task_name == "STSBenchmark"
    assert -1 <= result.get_score() <= 1


def test_mteb_evaluate_gives_culets_own_score() -> None:
    task, data = _sts()
    encoder = MtebEncoder(HashModel(), name="me/hash", revision="r1", truncate_to=32)
    theirs = _run(encoder, task)
    info = TaskInfo("InMemory", "sts", "cosine_spearman", Path())
    ours = evaluate(HashModel(), EvalTask(info, {"default": data}), truncate_to=32)
    assert theirs.get_score() == pytest.approx(ours.main_score, abs=1e-6)
    entry = theirs.scores["test"][0]
    assert entry["spearman"] == pytest.approx(entry["cosine_spearman"], abs=1e-6)


def test_prompts_follow_the_task_type_and_instructions_the_task() -> None:
    task, _ = _sts()
    model = HashModel()
    _run(MtebEncoder(model, name="me/hash"), task)
    assert [options["task"] for _, _, options in model.calls] == ["similarity"] * 2
    assert [options["instruction"] for _, _, options in model.calls] == [None] * 2
    model.calls.clear()
    _run(MtebEncoder(model, name="me/hash", instructions={"InMemory": "Compare"}), task)
    assert [options["instruction"] for _, _, options in model.calls] == ["Compare"] * 2


def test_documents_are_embedded_as_documents_with_their_title() -> None:
    split = {
        "corpus": Dataset.from_dict(
            {"id": ["d1", "d2"], "title": ["T", ""], "text": ["one", "two"]}
        ),
        "queries": Dataset.from_dict({"id": ["q1"], "text": ["which"]}),
        "relevant_docs": {"q1": {"d1": 1}},
        "top_ranked": None,
    }
    model = HashModel()
    task = _task(AbsTaskRetrieval, "Retrieval", "ndcg_at_10", {"default": {"test": split}})
    result = _run(MtebEncoder(model, name="me/hash"), task)
    calls = {side: (texts, options) for side, texts, options in model.calls}
    assert calls["document"][0] == ["T one", "two"]
    assert calls["query"][0] == ["which"]
    assert calls["query"][1]["task"] == "search"
    assert 0.0 < result.get_score() <= 1.0


def test_classification_runs() -> None:
    texts = sentences(60, words=2)
    rows = Dataset.from_dict({"text": texts, "label": [int(text[5]) for text in texts]})
    data = DatasetDict(train=rows, test=rows)
    model = HashModel()
    task = _task(AbsTaskClassification, "Classification", "accuracy", data)
    assert _run(MtebEncoder(model, name="me/hash"), task).get_score() > 0.5
    assert {options["task"] for _, _, options in model.calls} == {"classification"}


@pytest.mark.parametrize(
    ("task_type", "domains", "expected"),
    [
        ("Clustering", None, "clustering"),
        ("BitextMining", None, "search"),
        ("PairClassification", ["Programming"], "similarity"),
        ("Retrieval", ["Programming", "Written"], "code"),
        ("Reranking", ["News"], "search"),
        ("Regression", None, "search"),
    ],
)
def test_prompt_task_of_each_type(task_type: str, domains: list[str] | None, expected: str) -> None:
    assert query_task(_metadata(task_type, "x", domains=domains)) == expected


def test_similarities_are_cosines_of_whatever_is_given() -> None:
    encoder = MtebEncoder(HashModel(), name="me/hash")
    a = np.stack([gaussian("a"), 3 * gaussian("b")])
    expected = np.stack([gaussian("a"), gaussian("b")]) @ gaussian("a")
    np.testing.assert_allclose(encoder.similarity(a, gaussian("a"))[:, 0], expected, atol=1e-6)
    assert encoder.similarity_pairwise(a, a).tolist() == [1.0, 1.0]


def test_encode_puts_batches_together_in_order() -> None:
    batches = [{"text": ["a", "b"]}, {"text": ["c"]}]
    metadata = _metadata("Retrieval", "ndcg_at_10")
    encoder = MtebEncoder(HashModel(), name="me/hash", truncate_to=8)
    for prompt in (PromptType.query, PromptType.document, None):
        vectors = encoder.encode(
            batches,
            task_metadata=metadata,
            hf_split="test",
            hf_subset="default",
            prompt_type=prompt,
            batch_size=32,
        )
        np.testing.assert_array_equal(vectors, np.stack([gaussian(t)[:8] for t in "abc"]))


def test_without_mteb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb.models.model_meta", None)
    with pytest.raises(MissingExtra, match=r"running mteb's tasks needs .* 'culet\[mteb\]'"):
        MtebEncoder(HashModel(), name="me/hash")
