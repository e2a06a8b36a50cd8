"""culet against transformers and sentence-transformers, on random weights and both directions."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_checkpoint import random_arrays, speller, text_of, write_random
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

import culet
from culet.architecture.embedding_config import EmbeddingConfig, embeddinggemma_300m, tiny
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.write import write_checkpoint
from culet.embedder import Embedder
from culet.model.batch import pack
from culet.model.weights import from_arrays

LENGTHS = (2, 3, 255, 256, 257, 258, 511, 512, 513, 514, 700, 2048)
TEXTS = [text_of(length, seed=length) for length in LENGTHS]
WORDS = ["", "a", "task: | query:", "Zürich 東京 🏔️", "tab\tand\n\nline", "  two  spaces  ", "<eos>"]


def load(folder: Path | str, **settings: Any) -> culet.Embedder:
    """Load in float32, as the peers compute; a CPU that has bfloat16 would take that."""
    return culet.load(folder, **{"precision": "float32"} | settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny checkpoint without prompts, float32, one file."""
    return write_random(tmp_path_factory.mktemp("reference") / "tiny", prompts={})


@pytest.fixture(scope="module")
def vectors(folder: Path) -> np.ndarray:
    return load(folder).encode_query(TEXTS)


def theirs(folder: Path, texts: list[str] = TEXTS, *, dtype: str = "float32") -> np.ndarray:
    """Return sentence-transformers' vectors."""
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})
    return np.asarray(model.encode(texts, batch_size=4, convert_to_numpy=True), dtype=np.float32)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def with_config(folder: Path, copy: Path, **changes: object) -> Path:
    """Return a copy of a checkpoint with other settings in config.json; None takes one away."""
    copy.mkdir()
    for path in folder.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    raw = json.loads((copy / "config.json").read_text()) | changes
    raw = {key: value for key, value in raw.items() if value is not None}
    (copy / "config.json").write_text(json.dumps(raw))
    return copy


# --- the encoder, token by token -----------------------------------------------------------------


def test_token_states_equal_transformers_at_every_length(folder: Path) -> None:
    checkpoint = read_embedding_model(folder)
    model = from_arrays(checkpoint.config, checkpoint.arrays())
    reference = AutoModel.from_pretrained(folder, dtype="float32").eval()
    assert reference.config.sliding_window == 257  # exclusive: 256 tokens each way
    for length in (1, *LENGTHS):
        ids = torch.randint(16, 272, (length,), generator=torch.Generator().manual_seed(length))
        with torch.inference_mode():
            ours = model.encoder(pack([ids.numpy()]), compute_dtype=torch.float32).hidden
            expected = reference(input_ids=ids[None]).last_hidden_state[0]
        torch.testing.assert_close(ours, expected, rtol=0, atol=5e-5)


def test_a_padded_batch_of_mixed_length_equals_the_packed_one(folder: Path) -> None:
    checkpoint = read_embedding_model(folder)
    model = from_arrays(checkpoint.config, checkpoint.arrays())
    reference = AutoModel.from_pretrained(folder, dtype="float32").eval()
    lengths = (300, 1, 7, 514, 7)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(16, 272, (n,), generator=generator) for n in lengths]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    keep = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    with torch.inference_mode():
        padded = reference(input_ids=ids, attention_mask=keep.long()).last_hidden_state
        batch = pack([text.numpy() for text in texts])
        packed = model.encoder(batch, compute_dtype=torch.float32).hidden
    places = packed.split(batch.lengths.tolist())
    for text, length in enumerate(lengths):
        ours = places[int(batch.order[text])]
        torch.testing.assert_close(ours, padded[text, :length], rtol=0, atol=5e-5)


# --- what culet writes ---------------------------------------------------------------------------


def test_sentence_transformers_gives_the_same_vectors(folder: Path, vectors: np.ndarray) -> None:
    assert_same(vectors, theirs(folder))
    assert_same(load(folder, backend="torch").encode_query(TEXTS), vectors)


def test_bfloat16_stays_near_float32_and_near_sentence_transformers(
    folder: Path, vectors: np.ndarray
) -> None:
    half = load(folder, backend="torch", precision="bfloat16").encode_query(TEXTS)
    assert cosines(half, vectors).min() >= 0.9995
    assert cosines(half, theirs(folder, dtype="bfloat16")).min() >= 0.9999


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sharded_checkpoint_gives_the_same_vectors(tmp_path: Path, dtype: str) -> None:
    options = {"prompts": {}, "dtype": dtype}
    single = write_random(tmp_path / "single", **options)
    sharded = write_random(tmp_path / "sharded", max_shard_bytes=40_000, **options)
    shards = sorted(path.name for path in sharded.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert not (sharded / "model.safetensors").exists()
    texts = TEXTS[:7]
    vectors = load(single).encode_query(texts)
    np.testing.assert_array_equal(vectors, load(sharded).encode_query(texts))
    assert_same(vectors, theirs(sharded, texts))
    model = AutoModel.from_pretrained(sharded)  # in the dtype that the config states
    assert str(model.dtype) == f"torch.{dtype}"
    single_model = AutoModel.from_pretrained(single)
    for name, tensor in single_model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def other_shapes() -> Iterator[object]:
    encoder = tiny().encoder
    for name, config in {
        "odd window": replace(tiny(), encoder=replace(encoder, window=5)),
        "window of one": replace(tiny(), encoder=replace(encoder, window=1)),
        "global layers elsewhere": replace(
            tiny(), encoder=replace(encoder, window=16, global_layers=(0, 3, 4))
        ),
        "all layers local": replace(tiny(), encoder=replace(encoder, window=16, global_layers=())),
        "four heads, two groups": replace(
            tiny(), encoder=replace(encoder, num_heads=4, num_kv_heads=2, window=16)
        ),
        "other scale": replace(tiny(), encoder=replace(encoder, attention_scale=1 / 16)),
        "other rotary bases": replace(
            tiny(),
            encoder=replace(encoder, window=16, local_rope_base=500.0, global_rope_base=3e4),
        ),
        "other epsilon": replace(tiny(), encoder=replace(encoder, norm_eps=0.1)),
        "first token": replace(tiny(), pooling="first"),
        "last token": replace(tiny(), pooling="last"),
    }.items():
        yield pytest.param(config, id=name)


@pytest.mark.parametrize("config", list(other_shapes()))
def test_every_shape_gives_the_same_vectors(tmp_path: Path, config: EmbeddingConfig) -> None:
    folder = write_random(tmp_path / "m", config, prompts={})
    assert read_embedding_model(folder).config == config
    texts = [text_of(length, seed=length) for length in (2, 17, 18, 33, 100)]
    assert_same(load(folder).encode_query(texts), theirs(folder, texts))


def test_prompts_odd_texts_and_narrow_widths_equal_theirs(tmp_path: Path) -> None:
    folder = write_random(tmp_path / "m")
    embedder = load(folder)
    model = SentenceTransformer(str(folder), device="cpu")
    assert_same(embedder.encode_query(WORDS), model.encode_query(WORDS))
    assert_same(embedder.encode_document(WORDS), model.encode_document(WORDS))
    assert_same(
        embedder.encode_query(WORDS, task="similarity"), model.encode(WORDS, prompt_name="STS")
    )
    narrow = model.encode_query(WORDS, truncate_dim=16, normalize_embeddings=True)
    assert_same(embedder.encode_query(WORDS, truncate_to=16), narrow)


def test_a_text_that_is_cut_is_cut_where_they_cut_it(folder: Path) -> None:
    text = text_of(2100)
    with pytest.warns(UserWarning, match="were cut"):
        ours = load(folder).encode_query([text])
    assert_same(ours, theirs(folder, [text]))


def test_attention_pooling_is_refused_by_sentence_transformers(tmp_path: Path) -> None:
    for kind, config in {
        "attention": replace(tiny(), pooling="attention"),
        "first": replace(tiny(), pooling="first", pooling_tokens=3),
    }.items():
        folder = write_random(tmp_path / kind, config)
        assert load(folder).encode_query(["a"]).shape == (1, 32)
        pooling = json.loads((folder / "modules.json").read_text())[1]
        assert pooling["type"] == "culet.CuletPooling"  # no stock module: nothing to misread
        with pytest.raises(Exception, match="culet"):
            SentenceTransformer(str(folder), device="cpu")


# --- what they write -----------------------------------------------------------------------------


def test_what_sentence_transformers_saves_loads_here_again_and_again(
    folder: Path, vectors: np.ndarray, tmp_path: Path
) -> None:
    for number in range(3):
        saved = tmp_path / f"saved{number}"
        SentenceTransformer(str(folder), device="cpu").save_pretrained(str(saved))
        folder = saved
    checkpoint = read_embedding_model(folder)
    assert checkpoint.config == tiny()  # trained widths and the length limit survive too
    assert checkpoint.notes == ()
    assert_same(load(folder).encode_query(TEXTS), vectors)


def test_a_model_built_by_sentence_transformers_itself_loads_here(
    folder: Path, vectors: np.ndarray, tmp_path: Path
) -> None:
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    arrays = random_arrays(tiny())
    heads = []
    for name in ("up", "down"):
        weight = torch.from_numpy(arrays[name])
        heads.append(
            Dense(
                weight.shape[1],
                weight.shape[0],
                bias=False,
                activation_function=torch.nn.Identity(),
                init_weight=weight,
            )
        )
    parts = [Transformer(str(folder)), Pooling(32, "mean"), *heads, Normalize()]
    model = SentenceTransformer(modules=parts, device="cpu", prompts={"query": "q: "})
    model.save_pretrained(str(tmp_path / "built"))
    pooling = json.loads((tmp_path / "built" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode"] == "mean"  # the new spelling; culet writes the old one
    embedder = load(tmp_path / "built")
    assert embedder.prompts.query() == "q: "
    assert_same(embedder.encode_document(TEXTS), vectors)


def test_weights_saved_by_transformers_load_here(
    folder: Path, vectors: np.ndarray, tmp_path: Path
) -> None:
    copy = with_config(folder, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    AutoModel.from_pretrained(folder, dtype="float32").save_pretrained(copy, max_shard_size="40KB")
    assert (copy / "model.safetensors.index.json").exists()
    np.testing.assert_array_equal(load(copy).encode_query(TEXTS), vectors)


def old_config(**changes: object) -> dict[str, object]:
    """Return what turns a config of today into one as transformers 4.57 wrote it."""
    old = {
        "rope_parameters": None,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "rope_scaling": None,
        "layer_types": None,
        "sliding_window_pattern": 6,
        "dtype": None,
        "torch_dtype": "float32",
        "matryoshka_dimensions": None,
        "culet": None,
    }
    return old | changes


def test_a_config_of_the_older_generation_means_the_same(
    folder: Path, vectors: np.ndarray, tmp_path: Path
) -> None:
    old = with_config(folder, tmp_path / "old", **old_config())
    (old / "sentence_bert_config.json").write_text('{"max_seq_length": 2048}')
    assert_same(load(old).encode_query(TEXTS), vectors)
    assert_same(theirs(old), vectors)
    # and its rotary bases are read, not assumed
    other = old_config(rope_theta=3e4, rope_local_base_freq=500.0)
    other_folder = with_config(folder, tmp_path / "other", **other)
    ours = load(other_folder).encode_query(TEXTS)
    assert np.abs(ours - vectors).max() > 1e-3
    assert_same(ours, theirs(other_folder))


@pytest.mark.filterwarnings("ignore:.* and were cut:UserWarning")
@pytest.mark.parametrize(
    ("module", "tokenizer"),
    [(300, 100), (100, 300), (None, 300), (None, 1e30), (300, None), (None, 100_000)],
)
def test_a_text_is_cut_where_sentence_transformers_cuts_it(
    folder: Path, tmp_path: Path, module: int | None, tokenizer: float | None
) -> None:
    other = with_config(folder, tmp_path / "m")
    stated = {"max_seq_length": module} if module else {}
    (other / "sentence_bert_config.json").write_text(json.dumps(stated))
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(
        json.dumps(settings | {"model_max_length": tokenizer})
    )
    texts = [text_of(length, seed=length) for length in (99, 101, 299, 301, 2048, 2060)]
    assert_same(load(other).encode_query(texts), theirs(other, texts))


def test_a_halved_window_is_repaired_where_other_tools_go_wrong(
    folder: Path, vectors: np.ndarray, tmp_path: Path
) -> None:
    damaged = with_config(folder, tmp_path / "damaged", **old_config(sliding_window=257))
    with pytest.warns(UserWarning, match=r"sliding_window=257.*repaired to 512 \(±256 tokens\)"):
        repaired = load(damaged)
    assert_same(repaired.encode_query(TEXTS), vectors)
    wrong = theirs(damaged)
    short = [length <= 129 for length in LENGTHS]  # ±128 tokens: the damage does not show there
    assert np.abs(wrong - vectors)[short].max() <= 1e-5
    assert np.abs(wrong - vectors)[~np.array(short)].max() > 1e-3


# --- full size, and the published model ----------------------------------------------------------


@pytest.mark.slow
def test_the_full_shape_gives_the_same_vectors(tmp_path: Path) -> None:
    folder = tmp_path / "full"
    config = embeddinggemma_300m()
    write_checkpoint(
        folder, config, random_arrays(config), tokenizer_json=speller(262_144), prompts={}
    )
    texts = [text_of(length, seed=length) for length in (2, 258, 514, 700, 2048)]
    ours = load(folder, device="cpu", precision="float32").encode_query(texts)
    by_torch = load(folder, backend="torch", precision="float32").encode_query(texts)
    assert_same(ours, by_torch)
    gc.collect()
    expected = theirs(folder, texts)
    print(f"float32: largest difference {np.abs(ours - expected).max():.2e}")
    assert_same(ours, expected)
    gc.collect()
    half = load(folder, backend="torch", precision="bfloat16").encode_query(texts)
    gc.collect()
    half_expected = theirs(folder, texts, dtype="bfloat16")
    print(f"bfloat16 and float32: {cosines(half, ours)}")
    print(f"their bfloat16 and float32: {cosines(half_expected, expected)}")
    print(f"bfloat16, culet and theirs: {cosines(half, half_expected)}")
    assert cosines(half, ours).min() >= 0.9995


@pytest.fixture(scope="module")
def published() -> Embedder:
    where = os.environ.get("CULET_EMBEDDINGGEMMA")
    if not where:
        pytest.skip("set CULET_EMBEDDINGGEMMA to a folder of google/embeddinggemma-300m")
    return load(where, precision="float32")


@pytest.mark.reference
def test_the_published_retrieval_cosines_come_out(published: Embedder) -> None:
    query = "Which planet is known as the Red Planet?"
    documents = [
        "Venus is often called Earth's twin because of its similar size and proximity.",
        "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
        "Jupiter, the largest planet in our solar system, has a prominent red spot.",
        "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
    ]
    similarity = published.similarity(
        published.encode_query(query), published.encode_document(documents)
    )
    expected = [[0.30109745, 0.635883, 0.49304956, 0.48887485]]
    np.testing.assert_allclose(similarity, expected, rtol=0, atol=2e-4)


@pytest.mark.reference
def test_the_published_sentence_similarities_come_out(published: Embedder) -> None:
    sentences = [
        "The weather is beautiful today.",
        "It's a lovely day outside.",
        "The stock market crashed yesterday.",
        "I enjoy programming with Python.",
    ]
    vectors = published.encode_query(sentences, task="similarity")
    similarity = published.similarity(vectors, vectors)[np.triu_indices(4, k=1)]
    expected = [0.9305, 0.4660, 0.4326, 0.4227, 0.4434, 0.2638]
    np.testing.assert_allclose(similarity, expected, rtol=0, atol=2e-4)
