from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluate_doubles import HashModel, gaussian, sentences

from culet.errors import InputError, MissingExtra
from culet.evaluate import EvalTask, Settings, TaskInfo, evaluate, evaluate_widths, protocols
from culet.evaluate.encoding import embed, narrow
from culet.evaluate.tasks import (
    ClassificationData,
    LabelledTexts,
    Pairs,
    RerankingData,
    RetrievalData,
)
from culet.vectors import similarity
from culet.vectors.codes import decode_binary, encode_binary

PAIRS = Pairs(("cat", "dog", "cat"), ("cat sat", "cat", "tree"), (3.0, 2.0, 1.0))
CORPUS = RetrievalData(
    document_ids=("d1", "d2", "d3"),
    titles=("Title", "", "Title"),
    documents=("same", "other ", "same"),
    query_ids=("q1",),
    queries=("what",),
    qrels={"q1": {"d1": 1}},
)


def _info(kind: str, metric: str, **more: object) -> TaskInfo:
    return TaskInfo("Task", kind, metric, Path(), **more)  # type: ignore[arg-type]


def _sts() -> EvalTask:
    return EvalTask(_info("sts", "cosine_spearman"), {"default": PAIRS})


def test_each_distinct_text_is_embedded_once_a_role() -> None:
    model = HashModel()
    evaluate_widths(model, _sts(), widths=(None, 32, 16), precisions=("float32", "int8"))
    assert [texts for _, texts, _ in model.calls] == [["cat", "dog", "cat sat", "tree"]]


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("sts", PAIRS, "similarity"),
        ("pair_classification", PAIRS, "similarity"),
        ("bitext", PAIRS, "search"),
        ("clustering", LabelledTexts(("x",), ("l",)), "clustering"),
        ("retrieval", CORPUS, "search"),
        ("reranking", RerankingData(("q",), (("r",),), ((),), ((1,),)), "search"),
        (
            "classification",
            ClassificationData(LabelledTexts(("x",), ("l",)), LabelledTexts(("y",), ("l",))),
            "classification",
        ),
    ],
)
def test_queries_get_the_prompt_of_their_type(kind: str, data: Pairs, expected: str) -> None:
    model = HashModel()
    embed(model, _info(kind, "x"), data, Settings())
    options = [options for side, _, options in model.calls if side == "query"]
    assert options == [{"task": expected, "instruction": None, "truncate_to": None}]


def test_searches_for_code_get_the_code_prompt() -> None:
    assert Settings().query_task(_info("retrieval", "x", languages=("python-Code",))) == "code"
    assert Settings().query_task(_info("retrieval", "x", domain=("Programming",))) == "code"
    assert Settings().query_task(_info("sts", "x", domain=("Programming",))) == "similarity"
    table = Settings(query_tasks={"Task": "fact_checking"})
    assert table.query_task(_info("retrieval", "x")) == "fact_checking"


def test_instructions_come_from_a_table_or_from_the_task() -> None:
    info = _info("sts", "x", prompt="Its own", mteb_name="Known")
    assert Settings().instruction(info) is None
    assert Settings(instructions="task").instruction(info) == "Its own"
    assert Settings(instructions={"Task": "Given"}).instruction(info) == "Given"
    assert Settings(instructions={"Known": "By MTEB name"}).instruction(info) == "By MTEB name"
    model = HashModel()
    embed(model, info, PAIRS, Settings(instructions="task"))
    assert model.calls[0][2]["instruction"] == "Its own"


def test_titles_stand_before_the_text_unless_asked_apart() -> None:
    model = HashModel()
    roles = embed(model, _info("retrieval", "x"), CORPUS, Settings())
    assert model.calls[1] == (
        "document",
        ["Title same", "other"],
        {"titles": None, "truncate_to": None},
    )
    assert roles["document"].rows.tolist() == [0, 1, 0]
    model.calls.clear()
    embed(model, _info("retrieval", "x"), CORPUS, Settings(titles="separate"))
    assert model.calls[1][1:] == (
        ["same", "other "],
        {"titles": ["Title", ""], "truncate_to": None},
    )
    with pytest.raises(InputError, match="titles must be one of joined, separate, got 'none'"):
        Settings(titles="none")  # type: ignore[arg-type]


def test_cut_vectors_are_unit_length_again() -> None:
    roles = embed(HashModel(), _info("sts", "x"), PAIRS, Settings())
    cut = narrow(roles, truncate_to=16, precision="float32")["a"].vectors
    full = roles["a"].vectors[:, :16]
    np.testing.assert_allclose(cut, full / np.linalg.norm(full, axis=1, keepdims=True), atol=1e-6)
    bits = narrow(roles, truncate_to=16, precision="binary")["a"].vectors
    np.testing.assert_array_equal(bits, decode_binary(encode_binary(full), width=16))


def test_documents_set_the_int8_ranges_of_queries() -> None:
    roles = embed(HashModel(), _info("retrieval", "x"), CORPUS, Settings())
    coded = narrow(roles, truncate_to=None, precision="int8")
    high = roles["document"].vectors.max(axis=0)
    assert np.any(roles["query"].vectors > high + 0.01)
    assert np.all(coded["query"].vectors <= high + 1e-6)


def test_results_of_several_widths_equal_those_of_one() -> None:
    texts = sentences(80, words=4)
    labels = LabelledTexts(tuple(texts), tuple(text.split()[0] for text in texts))
    protocol = {"max_documents_per_cluster": 100, "n_clusters": 2, "max_document_to_embed": 60}
    info = _info("clustering", "v_measure", protocol=protocol)
    task = EvalTask(info, {"one": labels, "two": labels})
    results = evaluate_widths(HashModel(), task, widths=(None, 16), precisions=("float32", "int8"))
    asked = [(None, "float32"), (None, "int8"), (16, "float32"), (16, "int8")]
    assert [(result.truncate_to, result.precision) for result in results] == asked
    for result in results:
        alone = evaluate(
            HashModel(), task, truncate_to=result.truncate_to, precision=result.precision
        )
        assert alone.subsets == result.subsets
    assert results[0].subsets["one"] != results[0].subsets["two"]  # the draws went on


def test_another_seed_draws_other_rows() -> None:
    texts = sentences(80, words=4)
    labels = LabelledTexts(tuple(texts), tuple(text.split()[0] for text in texts))
    info = _info("classification", "accuracy")
    task = EvalTask(info, {"default": ClassificationData(labels, labels)})
    scores = [evaluate(HashModel(), task, settings=Settings(seed=s)).main_score for s in (1, 1, 2)]
    assert scores[0] == scores[1] != scores[2]


def test_draws_hold_so_many_rows_of_each_label() -> None:
    labels = ["a"] * 10 + ["b"] * 2
    draws = protocols.draw_training_rows(labels, samples_per_label=3, num_experiments=4, seed=0)
    assert len({tuple(draw) for draw in draws}) == 4
    for draw in draws:
        assert sorted(labels[row] for row in draw) == ["a"] * 3 + ["b"] * 2
        assert len(set(draw)) == 5


def test_only_the_drawn_rows_are_embedded() -> None:
    train = LabelledTexts(tuple(f"t{n}" for n in range(100)), ("a", "b") * 50)
    test = LabelledTexts(("x", "y"), ("a", "b"))
    info = _info(
        "classification", "accuracy", protocol={"samples_per_label": 2, "n_experiments": 2}
    )
    model = HashModel()
    evaluate(model, EvalTask(info, {"default": ClassificationData(train, test)}))
    assert len(model.calls[0][1]) <= 2 * 4 + 2


def test_the_score_is_the_mean_over_subsets() -> None:
    both = {"same": Pairs(("a", "b"), ("a", "b")), "swapped": Pairs(("a", "b"), ("b", "a"))}
    result = evaluate(HashModel(), EvalTask(_info("bitext", "f1"), both))
    assert [scores["main_score"] for scores in result.subsets.values()] == [1.0, 0.0]
    assert result.main_score == 0.5


def test_paired_similarities_worked_out_by_hand() -> None:
    a = np.array([[1, 0], [0, 2], [3, 4]], dtype=np.float32)
    b = np.array([[0, 1], [0, 5], [-3, -4]], dtype=np.float32)
    assert similarity.paired_cosine(a, b).tolist() == pytest.approx([0, 1, -1], abs=1e-6)
    assert similarity.paired_dot(a, b).tolist() == [0, 10, -25]
    assert similarity.paired_manhattan(a, b).tolist() == [2, 3, 14]
    assert similarity.paired_euclidean(a, b).tolist() == pytest.approx([2**0.5, 3, 10])
    random = np.stack([gaussian(f"x {n}") for n in range(50)])
    assert set(similarity.paired_cosine(random, random).tolist()) == {1.0}


def test_of_equal_documents_the_higher_id_comes_first() -> None:
    data = RetrievalData(
        ("d2", "d10", "d1"), ("",) * 3, ("x",) * 3, ("q",), ("y",), {"q": {"d1": 1}}
    )
    same = np.stack([gaussian("x")] * 3)
    scores = protocols.retrieval(data, gaussian("y")[None], same)
    # As strings: d2, d10, d1.
    assert scores["mrr_at_10"] == pytest.approx(1 / 3)


def test_a_width_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="from 1 to the model's width 64, got 65"):
        evaluate(HashModel(), _sts(), truncate_to=65)


def test_an_unknown_metric_lists_the_known_ones() -> None:
    task = EvalTask(_info("bitext", "bleu"), {"default": PAIRS})
    with pytest.raises(InputError, match=r"unknown metric 'bleu'.*precision, recall, f1, accuracy"):
        evaluate(HashModel(), task)


def test_nan_from_the_model_is_refused() -> None:
    with pytest.raises(InputError, match="got NaN or infinity for text 1 of 4"):
        evaluate(HashModel(lambda text: gaussian(text) * np.nan), _sts())


def test_too_few_rows_from_the_model_are_refused() -> None:
    class Short(HashModel):
        def encode_query(self, texts, **options):  # type: ignore[no-untyped-def]
            return super().encode_query(texts[:-1], **options)

    with pytest.raises(
        InputError, match=r"expected 4 embeddings from the model, got shape \(3, 64\)"
    ):
        evaluate(Short(), _sts())


def test_rows_and_vectors_must_match() -> None:
    with pytest.raises(InputError, match="expected 3 embeddings for 'a'"):
        protocols.sts(PAIRS, np.zeros((2, 4), np.float32), np.zeros((3, 4), np.float32))


def test_cross_validation_is_refused_and_not_done_otherwise() -> None:
    info = _info("classification", "accuracy", protocol={"is_cross_validation": True})
    part = LabelledTexts(("x", "y"), ("a", "b"))
    with pytest.raises(InputError, match="is_cross_validation = true"):
        evaluate(HashModel(), EvalTask(info, {"default": ClassificationData(part, part)}))


def test_importing_the_evaluation_loads_no_heavy_package() -> None:
    heavy = ("torch", "sklearn", "scipy", "mteb", "pyarrow")
    code = f"import sys, culet.evaluate; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    part = LabelledTexts(("x", "y"), ("a", "b"))
    clustering = EvalTask(_info("clustering", "v_measure"), {"default": part})
    both = ClassificationData(part, part)
    classification = EvalTask(_info("classification", "accuracy"), {"default": both})
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtra, match=r"scoring clustering needs .* 'culet\[eval\]'"):
        evaluate(HashModel(), clustering)
    with pytest.raises(MissingExtra, match=r"scoring classification needs .* 'culet\[eval\]'"):
        evaluate(HashModel(), classification)
