"""Teaching: every text once, shards that survive a kill, and what training finds in them."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import endpoint_double
import numpy as np
import pyarrow.parquet as pq
import pytest
from cross_encoder_double import cross_encoder
from endpoint_double import VectorStub as Stub
from endpoint_double import full_disk, serving, vector
from training_doubles import checkpoint, toy_rows, write_lines

import culet
from culet.data.batches.collate import collate
from culet.data.batches.sources import SourceConfig, read_source
from culet.data.endpoints.embeddings import EmbeddingClient, EmbeddingEndpoint
from culet.data.ledger import read_ledger
from culet.data.records import Record, read_records
from culet.data.roles import RoleText, role_texts
from culet.data.teacher_vectors import TeacherFolder
from culet.errors import CheckpointError, InputError, RecipeError
from culet.files.settings import build
from culet.stages import teach, tune
from culet.stages.contract import run_fingerprint, run_stage
from culet.stages.teach import TaughtSource, TeachConfig
from culet.stages.teachers import EmbedderTeacher, folder_teacher
from culet.stages.tune_settings import TuneConfig
from culet.text.prompts import Prompts
from culet.text.tokenizer import TextTokenizer
from culet.text.tokenizer_training import byte_tokenizer

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
    said: list[str] = settings.pop("said", [])
    path = write_lines(tmp_path / "toys.jsonl", rows)
    config = TeachConfig(sources=(TaughtSource(path),), **settings)
    return run_stage(teach.STAGE, config, out=tmp_path / "out", say=said.append, name="teach")


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


class Waiting:
    """A clock that stands still but for what is slept."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds

    def client(self, config: EmbeddingEndpoint) -> EmbeddingClient:
        return EmbeddingClient(config, sleep=self.sleep, clock=lambda: self.now)


def unit(text: str) -> np.ndarray:
    found = np.array(vector(text), dtype=np.float32)
    return found / np.linalg.norm(found)


def vectors_of(record: Record, taught: TeacherFolder) -> dict[str, Any]:
    query, positive, negatives = role_texts(record, "search")
    return {
        "query": taught.vector(query, record.origin),
        "positive": taught.vector(positive, record.origin),
        "negatives": [taught.vector(negative, record.origin) for negative in negatives],
    }


# --- what is embedded


def test_a_teacher_without_roles_embeds_each_text_once(tmp_path: Path, stub: Stub) -> None:
    folder = go(tmp_path, endpoint=endpoint(stub))
    expected = ["red?", "a red apple", "a green tree", "Fruit\na red apple", "green!"]
    assert sorted(stub.texts) == sorted(expected)
    done = json.loads((tmp_path / "out" / "done.json").read_text())
    assert (done["texts"], done["texts_with_repeats"], done["width"]) == (5, 8, 4)
    taught = TeacherFolder(folder)
    for text in expected:
        found = taught.vector(RoleText(None, None, text), "f:1")
        assert np.abs(found - unit(text)).max() < 1e-3  # half precision
    assert not (tmp_path / "out" / "state").exists()
    assert [entry.source for entry in read_ledger(folder / "ledger.json")] == ["vectors of m"]


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
        ]
    )  # "query: red?" is of the symmetric task too: the same words for the endpoint
    record = Record("red?", "a red apple", ("a green tree",), origin="f:1")
    found = vectors_of(record, taught)
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
    key = RoleText(None, None, "red?").key(by_role=False)
    rows = {row["key"]: row["vector"] for row in pq.read_table(shards[0]).to_pylist()}
    assert np.abs(np.array(rows[key], dtype=np.float32) - unit("red?")).max() < 1e-3


def test_only_a_prefix_is_kept_on_request(tmp_path: Path, stub: Stub) -> None:
    taught = TeacherFolder(go(tmp_path, endpoint=endpoint(stub), truncate_to=2))
    prefix = np.array(vector("red?")[:2])
    found = taught.vector(RoleText(None, None, "red?"), "")
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
        found = vectors_of(record, taught)
        assert np.abs(found["query"] - unit(record.query)).max() < 1e-3
        assert np.abs(found["positive"] - unit(record.positive)).max() < 1e-3
    stub.bodies.clear()
    go(tmp_path, rows, endpoint=endpoint(stub, batch_size=8), shard_texts=4)  # how, not what
    assert not stub.bodies


def test_an_error_in_the_middle_of_a_shard_pays_for_nothing_twice(
    tmp_path: Path, stub: Stub
) -> None:
    rows = toy_rows(10)
    stub.reply = lambda number, texts: (400, "no", {}) if number == 8 else None
    with pytest.raises(InputError, match="refuses the request: 400"):
        go(tmp_path, rows, endpoint=endpoint(stub, parallel=2))  # all in one shard
    refused = stub.bodies[7]["input"]
    paid = [text for text in stub.texts if text not in refused]
    assert len(paid) >= 14
    assert not list((tmp_path / "out" / "vectors").glob("*.parquet"))
    stub.bodies.clear()
    stub.reply = lambda number, texts: None
    folder = go(tmp_path, rows, endpoint=endpoint(stub, batch_size=3))  # requests are cut anew
    assert not set(paid) & set(stub.texts)
    assert len(stub.texts) == 20 - len(paid)
    taught = TeacherFolder(folder)
    for record in read_records([tmp_path / "toys.jsonl"]):
        found = vectors_of(record, taught)
        assert np.abs(found["query"] - unit(record.query)).max() < 1e-3
        assert np.abs(found["positive"] - unit(record.positive)).max() < 1e-3


def test_ctrl_c_keeps_what_was_answered(tmp_path: Path, stub: Stub) -> None:
    def interrupted(number: int, texts: list[str]) -> None:
        if number == 4:
            signal.raise_signal(signal.SIGINT)

    stub.reply = interrupted
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path, toy_rows(10), endpoint=endpoint(stub, parallel=1))
    finally:
        signal.signal(signal.SIGINT, before)
    answered = set(stub.texts)
    stub.bodies.clear()
    stub.reply = lambda number, texts: None
    go(tmp_path, toy_rows(10), endpoint=endpoint(stub, parallel=1))
    assert len(answered | set(stub.texts)) == 20
    assert len(answered) >= 8
    assert len(answered & set(stub.texts)) <= 2  # of a request that is just being sent off


def test_vectors_are_forgotten_once_a_shard_has_them(tmp_path: Path, stub: Stub) -> None:
    client = EmbeddingClient(endpoint(stub, input_price=1e6))
    client.keep_in(tmp_path / "kept.sqlite")
    client.embed(["a", "b"])
    again = EmbeddingClient(endpoint(stub, input_price=1e6))
    again.keep_in(tmp_path / "kept.sqlite")
    assert again.embed(["b", "a"]).tolist() == [vector("b"), vector("a")]
    assert (again.cost.asked, again.cost.cached, again.cost.saved) == (0, 2, 2.0)
    assert len(stub.bodies) == 1
    again.forget()
    again.embed(["a"])
    assert len(stub.bodies) == 2
    assert again.spent() == {"asked": 2, "retried": 0, "asked_tokens": 3, "paid": 3.0}
    (tmp_path / "other").write_text("something else " * 100)
    with pytest.raises(InputError, match="as a file of answers: file is not a database"):
        again.keep_in(tmp_path / "other")


def test_a_vector_that_an_earlier_version_kept_is_known(tmp_path: Path, stub: Stub) -> None:
    with sqlite3.connect(tmp_path / "kept") as store:
        store.execute("create table vectors (text blob primary key, vector blob, tokens integer)")
        key = hashlib.blake2b(b"a", digest_size=16).digest()
        store.execute("insert into vectors values (?, ?, 1)", (key, b"\0\0\x80\x3f"))
    store.close()
    client = EmbeddingClient(endpoint(stub))
    client.keep_in(tmp_path / "kept")
    assert client.embed(["a"]).tolist() == [[1.0]]
    assert stub.bodies == []


def test_no_key_follows_a_redirect(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBED_KEY", "secret")
    with serving(Stub()) as other:
        target = {"Location": f"{other.url}/embeddings"}
        stub.reply = lambda number, texts: (307, "", target)
        with pytest.raises(InputError, match=r"redirects to 'http://127\.0\.0\.1:\d+/v1/emb"):
            EmbeddingClient(endpoint(stub, key_env="EMBED_KEY")).embed(["a"])
        assert other.keys == []


def test_a_vector_without_direction_is_refused(tmp_path: Path, stub: Stub) -> None:
    def zeros(number: int, texts: list[str]) -> Any:
        rows = [{"index": i, "embedding": [0.0, 0.0]} for i in range(len(texts))]
        return 200, {"data": rows}, {}

    stub.reply = zeros
    with pytest.raises(InputError, match=r"vector of text 0 of 00000\.parquet has no direction"):
        go(tmp_path, endpoint=endpoint(stub))


# --- the endpoint


def test_a_busy_endpoint_is_asked_again_after_the_time_it_names(stub: Stub) -> None:
    waiting = Waiting()
    stub.reply = lambda number, texts: (429, "busy", {"Retry-After": "7"}) if number < 3 else None
    client = waiting.client(endpoint(stub))
    assert client.embed(["a", "b"]).tolist() == [vector("a"), vector("b")]
    assert waiting.waited == [7.0, 7.0]
    assert (client.cost.asked, client.cost.retried) == (1, 2)
    stub.reply = lambda number, texts: (503, "down", {})
    with pytest.raises(InputError, match=r"no answer in 3 attempts, the last: 503 .*down"):
        waiting.client(endpoint(stub, retries=2)).embed(["a"])


def test_requests_for_vectors_keep_their_distance(stub: Stub) -> None:
    waiting = Waiting()
    client = waiting.client(endpoint(stub, batch_size=1, parallel=1, requests_per_minute=30))
    client.embed(list("abcdef"))
    assert waiting.now == pytest.approx(10.0)  # five gaps of two seconds
    client = waiting.client(endpoint(stub, batch_size=1, parallel=1, tokens_per_minute=60))
    client.embed(["one two", "three", "four"])
    assert waiting.now == pytest.approx(13.0)  # 2 tokens, then 1, a second each


def test_vectors_are_counted_as_they_come_and_stand_in_the_order_of_the_texts(
    stub: Stub,
) -> None:
    texts = [f"text {i % 7}" for i in range(20)]
    counts: list[int] = []
    found = EmbeddingClient(endpoint(stub)).embed(texts, counts.append)
    assert found.tolist() == [vector(text) for text in texts]
    assert sorted(stub.texts) == sorted(set(texts))  # each once
    assert (len(counts), sum(counts)) == (4, 20)  # seven texts in requests of two


def test_the_budget_for_vectors_is_not_exceeded_and_what_was_paid_is_kept(
    tmp_path: Path, stub: Stub
) -> None:
    rows = toy_rows(10)
    poor = endpoint(stub, parallel=1, input_price=1e6, budget=5.0)  # a token costs 1
    with pytest.raises(
        InputError, match=r"the budget of 5 is spent \(\d+ paid\); raise it and run"
    ):
        go(tmp_path, rows, endpoint=poor)
    first = stub.texts
    assert 0 < len(first) <= 10  # of 20: two more requests were under way
    rich = endpoint(stub, parallel=1, input_price=1e6)
    said: list[str] = []
    config = TeachConfig(sources=(TaughtSource(tmp_path / "toys.jsonl"),), endpoint=rich)
    run_stage(teach.STAGE, config, out=tmp_path / "out", say=said.append, name="teach")
    assert len(stub.texts) == len(set(stub.texts)) == 20
    words = [sum(len(text.split()) for text in texts) for texts in (first, stub.texts)]
    cost = json.loads((tmp_path / "out" / "done.json").read_text())["cost"]
    assert cost == {"asked": 10, "retried": 0, "asked_tokens": words[1], "paid": words[1]}
    assert said[0] == (
        f"teach: {10 - len(first) // 2} requests ({words[1] - words[0]} + 0 tokens, "
        f"{words[1] - words[0]} paid), {len(first)} texts known before"
    )


def test_an_endpoint_that_counts_no_tokens_costs_nothing(tmp_path: Path, stub: Stub) -> None:
    stub.usage = False
    go(tmp_path, endpoint=endpoint(stub, input_price=1.0))
    cost = json.loads((tmp_path / "out" / "done.json").read_text())["cost"]
    assert cost == {"asked": 3, "retried": 0, "asked_tokens": 0, "paid": 0.0}


def test_a_count_of_tokens_that_is_null_is_none(stub: Stub) -> None:
    rows = [{"index": 0, "embedding": vector("a")}]
    stub.reply = lambda number, texts: (200, {"data": rows, "usage": {"prompt_tokens": None}}, {})
    client = EmbeddingClient(endpoint(stub, retries=0))
    assert client.embed(["a"]).tolist() == [vector("a")]
    assert client.cost.asked_tokens == 0


def test_a_connection_that_breaks_off_is_tried_again(stub: Stub) -> None:
    cut_off = (200, '{"data"', {"Content-Length": "99"})
    stub.reply = lambda number, texts: cut_off if number == 1 else None
    client = Waiting().client(endpoint(stub))
    assert client.embed(["a"]).tolist() == [vector("a")]
    assert client.cost.retried == 1


def test_a_full_disk_is_named_and_the_vectors_kept_stay(tmp_path: Path, stub: Stub) -> None:
    texts = [f"text {i}" for i in range(400)]
    client = EmbeddingClient(endpoint(stub, parallel=1))
    counts: list[int] = []
    client.keep_in(tmp_path / "kept")
    with full_disk(pages=8), pytest.raises(InputError, match=r"kept as a .*disk is full; .* stay"):
        client.embed(texts, counts.append)
    assert 10 < sum(counts) < 400
    asked = len(stub.texts)
    assert client.embed(texts).tolist() == [vector(text) for text in texts]
    assert len(stub.texts) - asked <= 400 - sum(counts)
    with pytest.raises(InputError, match=r"cannot use .* of answers: unable to open database file"):
        client.keep_in(tmp_path)


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
        Waiting().client(endpoint(stub, retries=2)).embed(["a"])


# --- folders as teachers


def test_a_culet_folder_teaches_with_its_own_prompts(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model")
    taught = TeacherFolder(go(tmp_path, teacher=model))
    embedder = culet.load(model, device="cpu")
    record = Record("red?", "a red apple", title="Fruit", origin="f:1")
    found = vectors_of(record, taught)
    assert np.abs(found["query"] - embedder.encode_query("red?")).max() < 1e-3
    expected = embedder.encode_document(["a red apple"], titles=["Fruit"])[0]
    assert np.abs(found["positive"] - expected).max() < 1e-3
    both = vectors_of(Record("a red apple", "green!", task="similarity"), taught)
    expected = embedder.encode_query("green!", task="similarity")
    assert np.abs(both["positive"] - expected).max() < 1e-3


def test_a_task_that_a_culet_teacher_does_not_know_is_a_bad_line(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model")
    rows = [*ROWS, {"query": "odd", "positive": "odd one", "task": "nope"}]
    with pytest.raises(InputError, match=r"toys\.jsonl:4: unknown task 'nope'; this checkpoint kn"):
        go(tmp_path, rows, teacher=model)
    said: list[str] = []
    folder = go(tmp_path, rows, teacher=model, skip_bad_records=True, said=said)
    assert json.loads((folder / "teacher.json").read_text())["texts"] == 7
    assert said[1].startswith(  # the run that stopped is kept
        f"teach: skipped 1 bad records, the first: {tmp_path}/toys.jsonl:4: unknown task 'nope'"
    )


def test_a_teacher_without_a_place_for_titles_takes_them_in_front_of_the_text(
    tmp_path: Path,
) -> None:
    model = checkpoint(tmp_path / "model")
    write_json(model / "config_sentence_transformers.json", {"prompts": {}})
    rows = [*ROWS, {"query": "odd", "positive": "odd one", "task": "nope"}]
    with pytest.raises(InputError, match=r"toys\.jsonl:4: unknown task 'nope'"):
        go(tmp_path, rows, teacher=model)
    taught = TeacherFolder(go(tmp_path, teacher=model))
    expected = culet.load(model, device="cpu").encode_document("Fruit\na red apple")
    found = taught.vector(RoleText(None, "Fruit", "a red apple"), "")
    assert np.abs(found - expected).max() < 1e-3


def test_an_endpoint_takes_every_task(tmp_path: Path, stub: Stub) -> None:
    rows = [{"query": "odd", "positive": "odd one", "task": "STS of the student"}]
    taught = TeacherFolder(go(tmp_path, rows, endpoint=endpoint(stub, query_prefix="q: ")))
    assert (
        np.abs(
            taught.vector(RoleText("STS of the student", None, "odd"), "") - unit("q: odd")
        ).max()
        < 1e-3
    )


def test_a_sentence_transformers_folder_that_culet_cannot_read_teaches_too(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
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
    found = taught.vector(RoleText(None, None, "a green tree"), "")
    assert np.abs(found - expected / np.linalg.norm(expected)).max() < 1e-3
    names = {folder_teacher(folder).fingerprint}
    for file in ("pytorch_model.bin", "vocab.txt", "spiece.model"):  # weights and words, elsewhere
        (folder / file).write_bytes(b"other")
        names.add(folder_teacher(folder).fingerprint)
    assert len(names) == 4
    for file in ("README.md", ".gitattributes"):
        (folder / file).write_bytes(b"other")
        names.add(folder_teacher(folder).fingerprint)
    assert len(names) == 4


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
        teacher=source.teacher,
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


def test_vectors_of_a_model_that_answers_otherwise_under_its_name_are_another_input(
    tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taught() -> tuple[float, str]:
        folder = go(tmp_path, endpoint=endpoint(stub))
        config = TuneConfig(
            steps=1, sources=(SourceConfig(tmp_path / "toys.jsonl", teacher=folder),)
        )
        found = TeacherFolder(folder).vector(RoleText(None, None, "red?"), "")
        return float(found[0]), run_fingerprint(
            tune.STAGE, config, {"init": start, "mixture": None}
        )

    start = checkpoint(tmp_path / "start")
    first, before = taught(), taught()
    assert first == before
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(endpoint_double, "vector", lambda text: [1.0, -9.0, 3.0, len(text)])
    after = taught()
    assert after[0] != before[0]
    assert after[1] != before[1]


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
    query, positive, negatives = role_texts(Record("q", "p", ("n",), title="T"), "search")
    assert (query, positive) == (RoleText("search", None, "q"), RoleText(None, "T", "p"))
    assert negatives == [RoleText(None, None, "n")]
    query, positive, negatives = role_texts(Record("q", "p", ("n",), title="T"), "clustering")
    assert {text.task for text in (query, positive, *negatives)} == {"clustering"}
    assert positive.title is None  # symmetric tasks have no place for it
    assert role_texts(Record("q", "p", task="code"), "clustering")[0].task == "code"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": [], "teacher": "x"}, "at least one source"),
        ({}, "a teacher folder or an endpoint, one of them"),
        ({"teacher": "x", "shard_texts": 0}, "shard_texts and truncate_to must be at least 1"),
        ({"endpoint": {"url": "ftp://x", "model": "m"}}, "url must begin with http"),
        (
            {"endpoint": {"url": "http://x", "model": "m", "budget": 1.0}},
            "budget needs the price",
        ),
        (
            {"endpoint": {"url": "http://x", "model": "m", "requests_per_minute": -1}},
            r"budget and prices must not be negative, got \(-1, 0, 0\.0\) and \(0\.0, 0\.0\)",
        ),
        ({"sources": [{"path": "a", "task": "sing"}], "teacher": "x"}, "task must be one of"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(TeachConfig, {"sources": [{"path": "a.jsonl"}]} | settings, where="teach")
