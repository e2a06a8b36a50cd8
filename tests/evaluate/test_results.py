from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from evaluate_doubles import HashModel, gaussian, grid, sentences, write_task
from mteb.cache import ResultCache
from mteb.models.model_meta import ModelMeta
from mteb.results import TaskResult as MtebResult

from culet.errors import InputError
from culet.evaluate import Settings, TaskInfo, evaluate_folder, read_results
from culet.evaluate.results import (
    result_path,
    revision_name,
    revision_of,
    subset_languages,
    task_name,
)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A retrieval task with two subsets under an MTEB name, an STS task and a broken one."""
    folder = tmp_path / "tasks"
    files: dict[str, object] = {}
    for subset in ("deu_Latn-eng_Latn", "eng_Latn-eng_Latn"):
        corpus = [{"id": f"d{n}", "text": text} for n, text in enumerate(sentences(12))]
        files[f"{subset}/corpus.jsonl"] = corpus
        files[f"{subset}/queries.jsonl"] = [{"id": "q1", "text": corpus[3]["text"]}]
        files[f"{subset}/qrels.tsv"] = "query-id\tcorpus-id\tscore\nq1\td3\t1\n"
    write_task(
        folder / "Retrieval",
        type="retrieval",
        metric="ndcg_at_10",
        mteb_name="BelebeleRetrieval",
        mteb_revision="75b399394a9803252cfec289d103de462763db7c",
        fidelity="near",
        languages=["deu-Latn", "eng-Latn"],
        subsets=[{"name": "deu_Latn-eng_Latn"}, {"name": "eng_Latn-eng_Latn"}],
        files=files,
    )
    pairs = [
        {"a": a, "b": b, "score": n} for n, (a, b) in enumerate(zip("abcd", "bcda", strict=True))
    ]
    write_task(
        folder / "Sts",
        type="sts",
        metric="cosine_spearman",
        mteb_protocol={"prompt": "Compare"},
        files={"pairs.jsonl": pairs},
    )
    broken = {"pairs.jsonl": [{"a": "x", "b": "y"}]}
    write_task(folder / "Broken", type="sts", metric="cosine_spearman", files=broken)
    return folder


def test_one_failing_task_stops_no_other(tasks: Path, tmp_path: Path) -> None:
    done = evaluate_folder(HashModel(), tasks, tmp_path / "out", name="me/hash", revision="r1")
    assert [result.info.name for result in done.results] == ["Retrieval", "Sts"]
    assert list(done.failures) == ["Broken"]
    assert "pairs.jsonl.gz:1: expected a finite number under 'score'" in done.failures["Broken"]
    names = sorted(path.name for path in (tmp_path / "out/me__hash/r1").iterdir())
    assert names == ["BelebeleRetrieval.json", "Sts.json", "model_meta.json"]


@pytest.mark.parametrize(
    "rows",
    [
        [{"a": a, "b": a * 2, "score": 1} for a in "abcd"],  # constant gold scores
        [{"a": "x", "b": "x", "score": n} for n in range(4)],  # constant predictions
        [{"a": "x", "b": "y", "score": 1}],
    ],
)
def test_a_score_that_is_no_number_fails_its_task_and_enters_no_mean(
    tasks: Path, tmp_path: Path, rows: list[dict[str, object]]
) -> None:
    files = {"pairs.jsonl": rows}
    write_task(tasks / "Broken", type="sts", metric="cosine_spearman", files=files)
    for _ in range(2):  # nothing is left that a second run would read back
        done = evaluate_folder(HashModel(), tasks, tmp_path / "out", name="me/hash", revision="r1")
        assert [result.info.name for result in done.results] == ["Retrieval", "Sts"]
        assert "its score is not a number, so it is left out" in done.failures["Broken"]
    written = (tmp_path / "out").rglob("*.json")
    assert not any("NaN" in path.read_text() for path in written)


def test_an_empty_text_is_scored_like_any_other(tmp_path: Path) -> None:
    corpus = [{"id": "d1", "text": "", "title": "only a title"}, {"id": "d2", "text": ""}]
    corpus += [{"id": f"e{n}", "text": text} for n, text in enumerate(sentences(5))]
    pairs = [{"a": a, "b": b, "score": n} for n, (a, b) in enumerate([("", "x"), ("y", ""), "zz"])]
    labelled = [{"text": text, "label": n % 2} for n, text in enumerate(["", "a", "b", ""] * 5)]
    ranked = [{"query": "", "positive": [""], "negative": ["a", "b"]}]
    for kind, metric, files in (
        (
            "retrieval",
            "ndcg_at_10",
            {
                "corpus.jsonl": corpus,
                "queries.jsonl": [{"id": "q1", "text": ""}],
                "qrels.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
            },
        ),
        ("sts", "cosine_spearman", {"pairs.jsonl": pairs}),
        ("reranking", "map_at_1000", {"test.jsonl": ranked}),
        ("classification", "accuracy", {"train.jsonl": labelled, "test.jsonl": labelled}),
    ):
        write_task(tmp_path / "tasks" / kind, type=kind, metric=metric, files=files)
    done = evaluate_folder(
        HashModel(lambda text: grid(text or "nothing")),
        tmp_path / "tasks",
        tmp_path / "out",
        name="m",
        revision="r",
    )
    assert done.failures == {}
    assert len(done.results) == 4


def test_any_exception_of_a_model_is_isolated(tasks: Path, tmp_path: Path) -> None:
    def fail(text: str) -> None:
        raise KeyError(text)

    done = evaluate_folder(HashModel(fail), tasks, tmp_path, name="m", revision="r", only=["Sts"])
    assert done.failures == {"Sts": "KeyError: 'a'"}
    assert not list(tmp_path.glob("local__m/*"))


def test_mteb_reads_the_results(tasks: Path, tmp_path: Path) -> None:
    done = evaluate_folder(
        HashModel(), tasks, tmp_path / "results", name="me/hash", revision="r1", types=["retrieval"]
    )
    path = tmp_path / "results/me__hash/r1/BelebeleRetrieval.json"
    theirs = MtebResult.from_disk(path)
    assert theirs.task_name == "BelebeleRetrieval"
    assert theirs.get_score() == pytest.approx(done.results[0].main_score)
    assert theirs.get_score(languages=["deu"]) == pytest.approx(
        done.results[0].subsets["deu_Latn-eng_Latn"]["main_score"]
    )
    meta = (path.parent / "model_meta.json").read_text()
    assert ModelMeta.model_validate_json(meta).name == "me/hash"
    loaded = ResultCache(tmp_path).load_results(models=["me/hash"], include_remote=False)
    (model,) = loaded.model_results
    assert (model.model_name, model.model_revision) == ("me/hash", "r1")
    assert [result.task_name for result in model.task_results] == ["BelebeleRetrieval"]


def test_a_second_run_reads_back_what_is_there(tasks: Path, tmp_path: Path) -> None:
    options = {"name": "me/hash", "revision": "r1", "only": ["Retrieval", "Sts"]}
    first = evaluate_folder(HashModel(), tasks, tmp_path / "out", **options)
    model, seen = HashModel(), []
    second = evaluate_folder(
        model, tasks, tmp_path / "out", **options, on_result=lambda r: seen.append(r.info.name)
    )
    assert model.calls == []
    assert second.skipped == ("Retrieval", "Sts") == tuple(seen)
    assert second.results == first.results
    assert read_results(tmp_path / "out/me__hash/r1", tasks) == list(first.results)


@pytest.mark.parametrize(
    "change",
    [
        {"revision": "r2"},
        {"name": "me/other"},
        {"settings": Settings(seed=7)},
        {"settings": Settings(instructions="task")},
        {"widths": [16]},
        {"precisions": ["int8"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_result_made_otherwise_is_not_taken_for_this_one(
    tasks: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    options: dict[str, object] = {"name": "me/hash", "revision": "r1", "only": ["Sts"]}
    evaluate_folder(HashModel(), tasks, tmp_path, **options)  # type: ignore[arg-type]
    model = HashModel()
    again = evaluate_folder(model, tasks, tmp_path, **(options | change))  # type: ignore[arg-type]
    assert len(model.calls) == 1
    assert again.skipped == ()


class Computing(HashModel):
    """A model that says what it computes with, and whose vectors follow from it."""

    def __init__(self, precision: str, backend: str = "openvino") -> None:
        super().__init__(lambda text: gaussian(f"{text} {backend} {precision}"))
        self.backend = backend
        self.precision = precision


ENGINES = [("float32", "openvino"), ("int4", "openvino"), ("float32", "torch"), ("int4", "torch")]


def test_another_precision_or_backend_has_results_of_its_own(tasks: Path, tmp_path: Path) -> None:
    options = {"name": "me/hash", "revision": "r1", "only": ["Sts"]}
    scores = set()
    for engine in ENGINES:
        model = Computing(*engine)
        done = evaluate_folder(model, tasks, tmp_path, **options)
        assert (len(model.calls), done.skipped) == (1, ())
        scores.add(done.results[0].main_score)
    assert len(scores) > 1
    for engine in ENGINES:
        assert evaluate_folder(Computing(*engine), tasks, tmp_path, **options).skipped == ("Sts",)
    folders = sorted(path.name for path in (tmp_path / "me__hash").iterdir())
    assert folders == ["r1", "r1-in-int4", "r1-torch", "r1-torch-in-int4"]
    path = tmp_path / "me__hash/r1-torch-in-int4/Sts.json"
    said = json.loads(path.read_text())["culet"]
    assert (said["backend"], said["computed_in"], said["precision"]) == ("torch", "int4", "float32")


def test_a_result_of_an_unknown_or_another_precision_is_computed_anew(
    tasks: Path, tmp_path: Path
) -> None:
    options = {"name": "me/hash", "revision": "r1", "only": ["Sts"]}
    evaluate_folder(Computing("float32"), tasks, tmp_path, **options)
    path = tmp_path / "me__hash/r1/Sts.json"
    whole = json.loads(path.read_text())
    others = [dict(whole["culet"]), whole["culet"] | {"computed_in": "int4"}]
    del others[0]["computed_in"]
    for other in others:
        path.write_text(json.dumps(whole | {"culet": other}))
        model = Computing("float32")
        assert evaluate_folder(model, tasks, tmp_path, **options).skipped == ()
        assert len(model.calls) == 1
        assert len(read_results(path.parent, tasks)) == 1


def test_a_task_of_the_same_name_with_other_rows_is_evaluated_anew(
    tasks: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(tasks, theirs)
    pairs = theirs / "Sts/pairs.jsonl.gz"
    rows = gzip.decompress(pairs.read_bytes()).splitlines(keepends=True)
    pairs.write_bytes(gzip.compress(b"".join(rows[:-1])))
    options = {"name": "me/hash", "revision": "r1", "only": ["Sts"]}
    ours = evaluate_folder(HashModel(), tasks, tmp_path / "out", **options)
    other = evaluate_folder(HashModel(), theirs, tmp_path / "out", **options)
    assert other.skipped == ()
    assert other.results[0].subsets != ours.results[0].subsets


def test_another_choice_of_subsets_is_evaluated_anew(tasks: Path, tmp_path: Path) -> None:
    options = {"name": "me/hash", "revision": "r1", "types": ["retrieval"]}
    one = evaluate_folder(HashModel(), tasks, tmp_path, **options, subsets=["eng_Latn-eng_Latn"])
    assert list(one.results[0].subsets) == ["eng_Latn-eng_Latn"]
    both = evaluate_folder(HashModel(), tasks, tmp_path, **options)
    assert both.skipped == ()
    assert len(both.results[0].subsets) == 2


def test_a_half_written_result_is_computed_anew(tasks: Path, tmp_path: Path) -> None:
    options = {"name": "me/hash", "revision": "r1", "only": ["Sts"]}
    evaluate_folder(HashModel(), tasks, tmp_path, **options)
    path = tmp_path / "me__hash/r1/Sts.json"
    whole = path.read_text()
    path.write_text(whole[:40])
    assert evaluate_folder(HashModel(), tasks, tmp_path, **options).skipped == ()
    assert json.loads(path.read_text())["scores"] == json.loads(whole)["scores"]
    path.write_text(whole[:40])
    with pytest.raises(InputError, match="expected a result written by culet"):
        read_results(path.parent, tasks)


def test_widths_and_precisions_go_to_revisions_of_their_own(tasks: Path, tmp_path: Path) -> None:
    model = HashModel()
    done = evaluate_folder(
        model,
        tasks,
        tmp_path,
        name="hash",
        revision="r1",
        only=["Sts"],
        widths=(None, 16),
        precisions=("float32", "int8"),
    )
    assert len(model.calls) == 1
    assert len(done.results) == 4
    folders = sorted(path.name for path in (tmp_path / "local__hash").iterdir())
    assert folders == ["r1", "r1-16d", "r1-16d-int8", "r1-int8"]
    meta = json.loads((tmp_path / "local__hash/r1-16d/model_meta.json").read_text())
    assert (meta["revision"], meta["embed_dim"]) == ("r1-16d", 16)


def test_only_comparable_scores_stand_under_the_mteb_name() -> None:
    info = TaskInfo("Ours", "sts", "x", Path(), mteb_name="Theirs")
    assert task_name(info) == "Ours"
    comparable = TaskInfo("Ours", "sts", "x", Path(), mteb_name="Theirs", comparable=True)
    assert task_name(comparable) == "Theirs"
    expected = Path("out/a__b/r-64d-binary/Theirs.json")
    assert result_path("out", comparable, "a/b", "r", 64, "binary") == expected
    assert revision_name("r", None, "float32") == "r"
    engine = revision_of("r", backend="torch", computed_in="bfloat16")
    assert revision_name(engine, 256, "int8") == "r-torch-in-bfloat16-256d-int8"


def test_a_width_or_precision_that_comes_twice_is_scored_once(tasks: Path, tmp_path: Path) -> None:
    options = {"name": "m", "revision": "r", "only": ["Sts"]}
    twice = {"widths": [16, None, 16], "precisions": ["int8", "int8"]}
    done = evaluate_folder(HashModel(), tasks, tmp_path, **options, **twice)  # type: ignore[arg-type]
    assert [(r.truncate_to, r.precision) for r in done.results] == [(16, "int8"), (None, "int8")]


def test_languages_of_a_subset_come_from_its_name() -> None:
    languages = ("sqi-Latn", "eng-Latn", "ace-Latn", "ace-Arab")
    info = TaskInfo("T", "sts", "x", Path(), languages=languages)
    assert subset_languages(info, "sqi-eng") == ["sqi-Latn", "eng-Latn"]
    assert subset_languages(info, "ace_Arab") == ["ace-Arab"]
    assert subset_languages(info, "en-ar") == list(languages)
    assert subset_languages(info, "default") == list(languages)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"only": ["Nope"]}, "unknown task Nope; the folder has Broken, Retrieval, Sts"),
        ({"types": ["ranking"]}, "unknown type ranking; the folder has retrieval, sts"),
    ],
)
def test_unknown_names_list_the_known_ones(
    tasks: Path, tmp_path: Path, wanted: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_folder(HashModel(), tasks, tmp_path, name="m", revision="r", **wanted)  # type: ignore[arg-type]


def test_a_folder_without_results_is_refused(tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected results of the tasks"):
        read_results(tmp_path, tasks)
