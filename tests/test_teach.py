"""Teaching: every text once, shards that survive a kill, and what training finds in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from endpoint_double import VectorStub as Stub
from endpoint_double import serving, vector
from training_doubles import checkpoint, toy_rows, write_lines

import culet
from culet.data.collate import check_teacher, collate
from culet.data.embedendpoint import EmbeddingClient, EmbeddingEndpoint
from culet.data.records import Record, read_records
from culet.data.source import SourceConfig, read_source
from culet.data.teacher import TeacherFile
from culet.data.teacherfolder import Spoken, TeacherFolder, spoken
from culet.errors import CheckpointError, InputError, RecipeError
from culet.prompts import Prompts
from culet.recipe import build
from culet.stages import teach
from culet.stages.teach import TaughtSource, TeachConfig
from culet.teachers import EmbedderTeacher, folder_teacher
from culet.tokenizer import TextTokenizer
from culet.tokenizer_training import byte_tokenizer

ROWS: list[dict[str, Any]] = [
    {"query": "red?", "positive": "a red apple", "negatives": ["a green tree"]},
    {"query": "red?", "positive": "a red apple", "title": "Fruit"},
    {"query": "a red apple", "positive": "green!", "task": "similarity", "negatives": ["red?"]},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub()) as running:
        yield running


def endpoint(stub: Stub, **changes: Any) -> EmbeddingEndpoint:
    return EmbeddingEndpoint(url=stub.url, model="m", **{"batch_size": 2} | changes)


def go(tmp_path: Path, rows: Sequence[Any] = ROWS, **settings: Any) -> Path:
    path = write_lines(tmp_path / "toys.jsonl", rows)
    config = TeachConfig(sources=(TaughtSource(path),), **settings)
    said: list[str] = []
    return teach.run(config, out=tmp_path / "out", say=said.append)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def unit(text: str) -> np.ndarray:
    found = np.array(vector(text), dtype=np.float32)
    return found / np.linalg.norm(found)


# --- what is embedded


def test_a_teacher_without_roles_embeds_each_text_once(tmp_path: Path, stub: Stub) -> None:
    folder = go(tmp_path, endpoint=endpoint(stub))
    expected = ["red?", "a red apple", "a green tree", "Fruit\na red apple", "green!"]
    assert sorted(stub.texts) == sorted(expected)
    done = json.loads((tmp_path / "out" / "done.json").read_text())
    assert (done["texts"], done["texts_with_repeats"], done["width"]) == (5, 8, 4)
    taught = TeacherFolder(folder)
    for text in expected:
        found = taught.vector(Spoken(None, None, text), "f:1")
        assert np.abs(found - unit(text)).max() < 1e-3  # half precision
    assert not (tmp_path / "out" / "state").exists()


def test_a_teacher_with_roles_embeds_a_text_in_each_of_them(tmp_path: Path, stub: Stub) -> None:
    asked = endpoint(stub, query_prefix="query: ", document_prefix="passage: ")
    taught = TeacherFolder(go(tmp_path, endpoint=asked))
    assert sorted(stub.texts) == sorted(
        [
            "query: red?",  # of the search records
            "passage: a red apple",
            "passage: a green tree",
            "passage: Fruit\na red apple",
            "query: a red apple",  # both sides of a symmetric task are queries
            "query: green!",
            "query: red?",  # of the symmetric task
        ]
    )
    record = Record("red?", "a red apple", ("a green tree",), origin="f:1")
    found = taught.of_record(record, "search")
    assert np.abs(found["query"] - unit("query: red?")).max() < 1e-3
    assert np.abs(found["positive"] - unit("passage: a red apple")).max() < 1e-3
    assert np.abs(found["negatives"][0] - unit("passage: a green tree")).max() < 1e-3
    with pytest.raises(InputError, match=r"f:1: .* has no vector for 'red\?'; let stage teach"):
        taught.check(record, "code")  # as a question of another task it was never embedded


def test_shards_are_ordinary_parquet_files_of_keys_and_half_precision(
    tmp_path: Path, stub: Stub
) -> None:
    folder = go(tmp_path, endpoint=endpoint(stub), shard_texts=2)
    shards = sorted(folder.glob("*.parquet"))
    assert [pq.read_metadata(shard).num_rows for shard in shards] == [2, 2, 1]
    schema = pq.read_schema(shards[0])
    assert str(schema.field("vector").type).startswith("fixed_size_list<")
    assert "halffloat" in str(schema.field("vector").type)
    key = Spoken(None, None, "red?").key(by_role=False)
    assert np.abs(TeacherFile(shards[0])[key] - unit("red?")).max() < 1e-3


def test_only_a_prefix_is_kept_on_request(tmp_path: Path, stub: Stub) -> None:
    taught = TeacherFolder(go(tmp_path, endpoint=endpoint(stub), truncate_to=2))
    prefix = np.array(vector("red?")[:2])
    found = taught.vector(Spoken(None, None, "red?"), "")
    assert taught.width == 2
    assert np.abs(found - prefix / np.linalg.norm(prefix)).max() < 1e-3
    with pytest.raises(InputError, match=r"truncate_to is 9, but m at .* gives vectors of 4"):
        go(tmp_path, endpoint=endpoint(stub), truncate_to=9)


# --- stopping and going on


def test_a_killed_run_loses_at_most_a_shard(tmp_path: Path, stub: Stub) -> None:
    rows = toy_rows(10)
    stub.reply = lambda number, texts: (400, "no", {}) if number > 3 else None
    with pytest.raises(InputError, match="refuses the request: 400"):
        go(tmp_path, rows, endpoint=endpoint(stub, batch_size=4, parallel=1), shard_texts=4)
    assert len(list((tmp_path / "out" / "vectors").glob("*.parquet"))) == 3
    first = set(stub.texts[:12])
    stub.bodies.clear()
    stub.reply = lambda number, texts: None
    folder = go(tmp_path, rows, endpoint=endpoint(stub, batch_size=4, parallel=1), shard_texts=4)
    assert len(stub.texts) == 8
    assert not first & set(stub.texts)
    taught = TeacherFolder(folder)
    for record in read_records([tmp_path / "toys.jsonl"]):
        found = taught.of_record(record, "search")
        assert np.abs(found["query"] - unit(record.query)).max() < 1e-3
        assert np.abs(found["positive"] - unit(record.positive)).max() < 1e-3
    stub.bodies.clear()
    go(tmp_path, rows, endpoint=endpoint(stub, batch_size=8), shard_texts=4)  # how, not what
    assert not stub.bodies


def test_a_vector_without_direction_is_refused(tmp_path: Path, stub: Stub) -> None:
    def zeros(number: int, texts: list[str]) -> Any:
        rows = [{"index": i, "embedding": [0.0, 0.0]} for i in range(len(texts))]
        return 200, {"data": rows}, {}

    stub.reply = zeros
    with pytest.raises(InputError, match=r"vector of text 0 of 00000\.parquet has no direction"):
        go(tmp_path, endpoint=endpoint(stub))


# --- the endpoint


def test_an_endpoint_is_asked_again_when_it_says_so(stub: Stub) -> None:
    waited: list[float] = []
    stub.reply = lambda number, texts: (429, "busy", {"Retry-After": "7"}) if number < 3 else None
    client = EmbeddingClient(endpoint(stub), sleep=waited.append)
    assert client.embed(["a", "b"]).tolist() == [vector("a"), vector("b")]
    assert waited == [7.0, 7.0]
    stub.reply = lambda number, texts: (503, "down", {})
    with pytest.raises(InputError, match=r"no answer in 3 attempts, the last: 503 .*down"):
        EmbeddingClient(endpoint(stub, retries=2), sleep=waited.append).embed(["a"])


def test_an_endpoint_gets_its_key_and_its_model(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="variable EMBED_KEY is not set"):
        EmbeddingClient(endpoint(stub, key_env="EMBED_KEY"))
    monkeypatch.setenv("EMBED_KEY", "secret")
    EmbeddingClient(endpoint(stub, key_env="EMBED_KEY")).embed(["a", "b", "c"])
    assert stub.keys == ["Bearer secret"] * 2
    assert [body["model"] for body in stub.bodies] == ["m", "m"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no json", "no answer in 3 attempts, the last: Expecting value"),
        ({"error": "x"}, "something else than vectors"),
        ({"data": [{"index": 1, "embedding": [1.0]}]}, "asked for 1 vectors"),
        ({"data": [{"index": 0, "embedding": ["x"]}]}, "something else than vectors"),
        ({"data": [{"index": 0, "embedding": [1e39]}]}, "not finite"),
    ],
)
def test_an_answer_that_is_no_vector_is_refused(stub: Stub, value: Any, message: str) -> None:
    stub.reply = lambda number, texts: (200, value, {})
    with pytest.raises(InputError, match=message):
        EmbeddingClient(endpoint(stub, retries=2), sleep=lambda s: None).embed(["a"])


# --- folders as teachers


def test_a_culet_folder_teaches_with_its_own_prompts(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model")
    taught = TeacherFolder(go(tmp_path, teacher=model))
    embedder = culet.load(model, device="cpu")
    record = Record("red?", "a red apple", title="Fruit", origin="f:1")
    found = taught.of_record(record, "search")
    assert np.abs(found["query"] - embedder.encode_query("red?")).max() < 1e-3
    expected = embedder.encode_document(["a red apple"], titles=["Fruit"])[0]
    assert np.abs(found["positive"] - expected).max() < 1e-3
    both = taught.of_record(Record("a red apple", "green!", task="similarity"), "search")
    expected = embedder.encode_query("green!", task="similarity")
    assert np.abs(both["positive"] - expected).max() < 1e-3


def test_a_sentence_transformers_folder_that_culet_cannot_read_teaches_too(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from test_mine_stage import cross_encoder
    from transformers import BertModel

    cross_encoder(tmp_path / "judge")  # its tokenizer, and a body of the same shape
    folder = tmp_path / "teacher"
    BertModel.from_pretrained(tmp_path / "judge").save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tmp_path / "judge" / name).read_bytes())
    kinds = ("Transformer", "Pooling")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, ("", "1_Pooling"), strict=True))
    ]
    write_json(folder / "modules.json", modules)
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    made = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    teacher = folder_teacher(tmp_path / "teacher")
    assert not isinstance(teacher, EmbedderTeacher)
    assert not teacher.by_role
    taught = TeacherFolder(go(tmp_path, teacher=tmp_path / "teacher"))
    expected = made.encode("a green tree")
    found = taught.vector(Spoken(None, None, "a green tree"), "")
    assert np.abs(found - expected / np.linalg.norm(expected)).max() < 1e-3


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        go(tmp_path, teacher=tmp_path / "empty")


# --- what training finds


def test_a_source_finds_the_vectors_of_its_texts_and_of_the_drawn_negatives(
    tmp_path: Path, stub: Stub
) -> None:
    rows = toy_rows(6, negatives=3)
    folder = go(tmp_path, rows, endpoint=endpoint(stub, batch_size=50))
    config = SourceConfig(path=tmp_path / "toys.jsonl", teacher=folder)
    source = read_source(config, Prompts.default(), skip_bad=False)
    batch = collate(
        source.records[:],
        tokenizer=TextTokenizer(byte_tokenizer(), 200, bos_id=2, eos_id=1),
        prompts=Prompts.default(),
        task="search",
        num_negatives=2,
        teacher_file=source.teacher,
        seed=[0],
    )
    assert batch.teacher["negative"].shape == (6, 2, 4)
    for i, record in enumerate(source.records[:]):
        assert np.abs(batch.teacher["query"][i] - unit(record.query)).max() < 1e-3
        for column, text in enumerate(batch.negative[i]):
            words = byte_tokenizer().decode(batch.texts[text].tolist()).partition("text: ")[2]
            assert np.abs(batch.teacher["negative"][i, column] - unit(words)).max() < 1e-3


def test_a_text_that_was_not_taught_is_named_before_training(tmp_path: Path, stub: Stub) -> None:
    folder = go(tmp_path, endpoint=endpoint(stub))
    other = write_lines(tmp_path / "other.jsonl", [ROWS[0], {"query": "new", "positive": "red?"}])
    config = SourceConfig(path=other, teacher=folder)
    with pytest.raises(InputError, match=r"other\.jsonl:2: .*no vector for 'new'"):
        read_source(config, Prompts.default(), skip_bad=False)
    taught = TeacherFolder(folder)
    with pytest.raises(InputError, match="names teacher vectors and its source a folder"):
        check_teacher(Record("red?", "green!", teacher={"query": [1.0]}), taught, "search")


def test_an_unfinished_or_shortened_folder_is_refused(tmp_path: Path, stub: Stub) -> None:
    with pytest.raises(InputError, match=r"not a finished folder of teacher vectors: teacher\.js"):
        TeacherFolder(tmp_path)
    folder = go(tmp_path, endpoint=endpoint(stub), shard_texts=2)
    (folder / "00001.parquet").unlink()
    with pytest.raises(InputError, match="should hold 5 vectors, got 3"):
        TeacherFolder(folder)
    (folder / "00001.parquet").write_text("no parquet")
    with pytest.raises(InputError, match=r"00001\.parquet is not a shard"):
        TeacherFolder(folder)


def test_roles_follow_the_task_as_in_training() -> None:
    query, positive, negatives = spoken(Record("q", "p", ("n",), title="T"), "search")
    assert (query, positive) == (Spoken("search", None, "q"), Spoken(None, "T", "p"))
    assert negatives == [Spoken(None, None, "n")]
    query, positive, negatives = spoken(Record("q", "p", ("n",), title="T"), "clustering")
    assert {text.task for text in (query, positive, *negatives)} == {"clustering"}
    assert positive.title is None  # symmetric tasks have no place for it
    assert spoken(Record("q", "p", task="code"), "clustering")[0].task == "code"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": [], "teacher": "x"}, "at least one source"),
        ({}, "a teacher folder or an endpoint, one of them"),
        ({"teacher": "x", "shard_texts": 0}, "shard_texts and truncate_to must be at least 1"),
        ({"endpoint": {"url": "ftp://x", "model": "m"}}, "url must begin with http"),
        ({"sources": [{"path": "a", "task": "sing"}], "teacher": "x"}, "task must be one of"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(TeachConfig, {"sources": [{"path": "a.jsonl"}]} | settings, where="teach")
