from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_checkpoint import random_arrays, text_of, write_random

import culet
from culet import loading
from culet.architecture.embedding_config import tiny
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.write import write_checkpoint
from culet.embedder import Embedder
from culet.errors import CheckpointError, InputError, MissingExtra
from culet.text.tokenizer_training import byte_tokenizer

TEXTS = [text_of(length, seed=length) for length in (600, 4, 90, 3, 1500, 90, 1500, 12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("embedder") / "m")


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return culet.load(folder, precision="float32")  # a CPU that has bfloat16 would take that


# --- results -------------------------------------------------------------------------------------


def test_results_come_in_the_order_given(embedder: Embedder) -> None:
    together = embedder.encode_query(TEXTS)
    alone = np.stack([embedder.encode_query(text) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_one_string_gives_one_vector_and_a_list_a_row_each(embedder: Embedder) -> None:
    assert embedder.encode_query("a").shape == (32,)
    assert embedder.encode_document("a").shape == (32,)
    assert embedder.encode_query(["a"]).shape == (1, 32)
    assert embedder.encode_document(("a", "b")).shape == (2, 32)


def test_no_text_gives_no_rows(embedder: Embedder) -> None:
    assert embedder.encode_query([]).shape == (0, 32)
    assert embedder.encode_document([], titles=[], truncate_to=8).shape == (0, 8)
    assert embedder.similarity(embedder.encode_query([]), np.ones((3, 32))).shape == (0, 3)


def test_an_empty_string_is_the_vector_of_its_prompt(embedder: Embedder, tmp_path: Path) -> None:
    vector = embedder.encode_query("")
    assert np.linalg.norm(vector) == pytest.approx(1)
    bare = culet.load(write_random(tmp_path / "bare", prompts={}), precision="float32")
    prompt = "task: search result | query: "
    np.testing.assert_allclose(vector, bare.encode_query(prompt), rtol=0, atol=1e-6)
    assert np.linalg.norm(bare.encode_document("")) == pytest.approx(1)  # BOS and EOS alone


def test_a_generator_is_taken_and_an_array_of_strings_too(embedder: Embedder) -> None:
    expected = embedder.encode_query(["a", "b"])
    np.testing.assert_array_equal(embedder.encode_query(text for text in "ab"), expected)
    np.testing.assert_array_equal(embedder.encode_query(np.array(["a", "b"])), expected)


def test_the_same_texts_give_the_same_bits(embedder: Embedder, folder: Path) -> None:
    first = embedder.encode_document(TEXTS)
    np.testing.assert_array_equal(embedder.encode_document(TEXTS), first)
    np.testing.assert_array_equal(
        culet.load(folder, precision="float32").encode_document(TEXTS), first
    )


def test_texts_that_are_no_strings_are_refused(embedder: Embedder) -> None:
    with pytest.raises(InputError, match="text 1 must be a string, got int"):
        embedder.encode_query(["a", 3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="text 0 must be a string, got tuple"):
        embedder.encode_document([("a", "b")])  # type: ignore[list-item]
    for given, got in {
        "bytes": (b"bytes", "bytes$"),
        "mapping": ({"a": "b"}, "dict; give its values"),
        "array": (np.array("ab"), "ndarray without a dimension"),
        "nothing": (None, "NoneType$"),
        "number": (5, "int$"),
    }.values():
        message = f"expected a string or a list of strings, got {got}"
        with pytest.raises(InputError, match=message):
            embedder.encode_query(given)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            embedder.encode_document(given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected a title or a list of titles, got dict"):
        embedder.encode_document(["a"], titles={"T": 1})  # type: ignore[arg-type]


# --- prompts and titles --------------------------------------------------------------------------


def test_a_text_is_embedded_with_the_prompt_of_its_side(embedder: Embedder, tmp_path: Path) -> None:
    bare = culet.load(write_random(tmp_path / "bare", prompts={}), precision="float32")
    assert bare.prompts.empty
    for vector, prompted in {
        "query": (embedder.encode_query("x"), "task: search result | query: x"),
        "task": (embedder.encode_query("x", task="code"), "task: code retrieval | query: x"),
        "own words": (
            embedder.encode_query("x", instruction="find the law"),
            "task: find the law | query: x",
        ),
        "document": (embedder.encode_document("x"), "title: none | text: x"),
        "title": (embedder.encode_document("x", titles="T"), "title: T | text: x"),
    }.values():
        np.testing.assert_allclose(vector, bare.encode_query(prompted), rtol=0, atol=1e-6)


def test_an_unknown_task_lists_the_known_ones(embedder: Embedder) -> None:
    with pytest.raises(InputError, match=r"unknown task 'serach'; .*knows: search, .*similarity"):
        embedder.encode_query("x", task="serach")


def test_each_document_has_its_own_title(embedder: Embedder) -> None:
    both = embedder.encode_document(["a", "b"], titles=["T", None])
    np.testing.assert_allclose(both[0], embedder.encode_document("a", titles="T"), atol=1e-6)
    np.testing.assert_allclose(both[1], embedder.encode_document("b"), atol=1e-6)
    from_generator = embedder.encode_document(["a", "b"], titles=(t for t in ("T", None)))
    np.testing.assert_array_equal(from_generator, both)


def test_titles_that_do_not_fit_are_refused(embedder: Embedder) -> None:
    with pytest.raises(InputError, match="got 1 titles for 2 documents; give None where"):
        embedder.encode_document(["a", "b"], titles=["T"])
    with pytest.raises(InputError, match="got 1 titles for 2 documents"):
        embedder.encode_document(["a", "b"], titles="ab")
    with pytest.raises(InputError, match="got 0 titles for 1 documents"):
        embedder.encode_document(["a"], titles=[])
    with pytest.raises(InputError, match="title 0 must be a string or None, got int"):
        embedder.encode_document(["a"], titles=[3])  # type: ignore[list-item]


# --- widths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [32, 16, 8])
def test_a_narrow_vector_is_the_front_of_the_full_one_at_unit_length(
    embedder: Embedder, width: int
) -> None:
    full = embedder.encode_query(TEXTS)[:, :width]
    narrow = embedder.encode_query(TEXTS, truncate_to=width)
    assert narrow.shape == (len(TEXTS), width)
    expected = full / np.linalg.norm(full, axis=1, keepdims=True)
    np.testing.assert_allclose(narrow, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [31, 0, -1, 64])
def test_a_width_that_was_not_trained_is_refused(embedder: Embedder, width: int) -> None:
    with pytest.raises(InputError, match=rf"trained widths \(32, 16, 8\), got {width}"):
        embedder.encode_query("a", truncate_to=width)
    with pytest.raises(InputError, match="trained widths"):
        embedder.encode_document([], truncate_to=width)


def test_half_a_character_is_counted_without_the_prompt(embedder: Embedder) -> None:
    with pytest.raises(InputError, match=r"^text 1 is not valid .* lone surrogate at character 2;"):
        embedder.encode_query(["ok", "ab\ud83d"])
    with pytest.raises(InputError, match=r"^the prompt or title of text 0 is not valid Unicode"):
        embedder.encode_document(["ok"], titles=["ab\ud83d"])


def test_similarity_is_the_cosine_of_each_pair() -> None:
    similarity = Embedder.similarity
    a, b = np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[4.0, 3.0], [-3.0, -4.0], [0.0, 1.0]])
    expected = [[0.96, -1.0, 0.8], [0.6, -0.8, 1.0]]
    np.testing.assert_allclose(similarity(None, a, b), expected, atol=1e-6)  # type: ignore[arg-type]


def test_similarity_takes_single_vectors_and_refuses_two_widths(embedder: Embedder) -> None:
    query = embedder.encode_query("a")
    assert embedder.similarity(query, query).item() == pytest.approx(1, abs=1e-6)
    with pytest.raises(InputError, match="vectors of one width, got 32 and 8; truncate both"):
        embedder.similarity(query, query[:8])


# --- long texts ----------------------------------------------------------------------------------


def test_a_text_beyond_the_context_is_cut_with_a_warning_that_counts(tmp_path: Path) -> None:
    config = replace(tiny(), encoder=replace(tiny().encoder, max_length=20))
    embedder = culet.load(write_random(tmp_path / "m", config, prompts={}))
    texts = ["short", "a" * 18, "a" * 19, "b" * 100]
    with pytest.warns(UserWarning, match="were cut") as caught:
        vectors = embedder.encode_query(texts)
    assert str(caught[0].message) == (
        "2 of 4 queries are longer than 20 tokens and were cut (the first is number 2, the "
        "longest has 102 tokens); split them, or pass on_long='error' to be stopped"
    )
    assert caught[0].filename == __file__
    np.testing.assert_allclose(vectors[2], vectors[1], rtol=0, atol=1e-6)  # its first 18 letters
    with pytest.raises(InputError, match="text 2 has 21 tokens and the model reads 20; shorten"):
        embedder.encode_document(texts, on_long="error")
    with pytest.raises(InputError, match="on_long must be 'truncate' or 'error', got 'drop'"):
        embedder.encode_query(texts, on_long="drop")  # type: ignore[arg-type]


# --- progress --------------------------------------------------------------------


def test_progress_is_shown_on_stderr_only_when_asked(
    embedder: Embedder, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder.encode_document(["a", "b"], progress=False)
    embedder.encode_document(["a", "b"])  # shorter than two seconds
    assert capsys.readouterr() == ("", "")
    embedder.encode_document(["a", "b"], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "embedding: 2/2 documents" in err


def test_the_embedder_says_what_it_is(embedder: Embedder, folder: Path) -> None:
    assert repr(embedder) == (
        f"Embedder({str(folder)!r}, dim=32, widths=(32, 16, 8), max_length=2048, "
        "engine='openvino cpu float32')"
    )
    assert embedder.fingerprint == read_embedding_model(folder).fingerprint
    assert (embedder.backend, embedder.precision) == ("openvino", "float32")


# --- loading -------------------------------------------------------------------------------------


def test_precision_is_chosen_by_name_and_float16_refused(folder: Path) -> None:
    for name in ("bfloat16", "bf16"):
        assert "torch cpu bfloat16" in repr(culet.load(folder, backend="torch", precision=name))
    for name in ("float16", "half"):
        with pytest.raises(InputError, match="got float16: activations of this family"):
            culet.load(folder, backend="torch", precision=name)
    for name in ("int8", "nn"):
        with pytest.raises(InputError, match="precision must be float32 or bfloat16 with PyTorch"):
            culet.load(folder, backend="torch", precision=name)
    for name in ("float16", "nn"):
        with pytest.raises(InputError, match="precision must be one of float32, bfloat16, int8"):
            culet.load(folder, device="cpu", precision=name)


def test_backends_agree(folder: Path, embedder: Embedder) -> None:
    texts = ["a", "some words", "w" * 300]
    peer = culet.load(folder, backend="torch", device="cpu", threads=1)
    assert "torch cpu float32" in repr(peer)
    assert (peer.backend, peer.precision) == ("torch", "float32")
    assert np.abs(peer.encode_query(texts) - embedder.encode_query(texts)).max() < 1e-5


def test_a_device_or_backend_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="device 'gpu' cannot be used here: Expected one of"):
        culet.load(folder, device="gpu")
    with pytest.raises(InputError, match="device 'cuda:99' cannot be used here"):
        culet.load(folder, device="cuda:99")
    with pytest.raises(InputError, match="the OpenVINO backend runs on device 'cpu', got 'cuda'"):
        culet.load(folder, device="cuda", backend="openvino")
    with pytest.raises(InputError, match="backend must be 'openvino' or 'torch', got 'onnx'"):
        culet.load(folder, backend="onnx")  # type: ignore[arg-type]
    for threads in (0, -2, True, "2", 1.5):
        message = f"threads must be a whole number of at least 1, got {threads!r}"
        with pytest.raises(InputError, match=message):
            culet.load(folder, threads=threads)  # type: ignore[arg-type]
    assert culet.load(folder, threads=np.int64(1)).dim == 32  # type: ignore[arg-type]


def test_a_stream_gives_the_same_vectors_and_reads_only_what_it_needs(embedder: Embedder) -> None:
    texts = [f"text {i} " + "word " * (i % 7) for i in range(50)]
    read: list[int] = []

    def endless() -> Iterator[str]:
        for i in itertools.count():
            read.append(i)
            yield texts[i % 50]

    stream = embedder.stream_query(endless(), task="similarity", truncate_to=16, window=10)
    parts = [next(stream) for _ in range(5)]
    stream.close()
    expected = embedder.encode_query(texts, task="similarity", truncate_to=16)
    assert np.abs(np.concatenate(parts) - expected).max() < 1e-6
    assert [len(part) for part in parts] == [10] * 5
    assert len(read) == 60  # what was taken, and a window ahead
    documents = list(embedder.stream_document(iter(["a", ("title", "b"), (None, "c")])))
    expected = embedder.encode_document(["a", "b", "c"], titles=[None, "title", None])
    assert np.abs(np.concatenate(documents) - expected).max() < 1e-6


def test_a_bad_text_in_a_stream_is_named_by_its_number_in_the_stream(embedder: Embedder) -> None:
    stream = embedder.stream_query(["a", "b", "c", 4], window=2)  # type: ignore[list-item]
    assert len(next(stream)) == 2
    with pytest.raises(InputError, match="text 3 must be a string, got int"):
        next(stream)


@pytest.mark.parametrize("side", ["stream_query", "stream_document"])
def test_what_is_no_stream_of_texts_is_refused_at_once(embedder: Embedder, side: str) -> None:
    stream = getattr(embedder, side)
    for given, got in (
        ("one text", r"str; give \[text\] for one text"),
        (b"bytes", "bytes$"),
        ({"a": "b"}, "dict; give its values"),
        (None, "NoneType$"),
        (np.array("ab"), "ndarray without a dimension"),
    ):
        with pytest.raises(InputError, match=f"expected an iterable of texts, got {got}"):
            stream(given)
    for window in (0, -1, True, 2.0, "2", None):
        message = f"window must be a whole number of at least 1, got {window!r}"
        with pytest.raises(InputError, match=message):
            stream(["a"], window=window)
    with pytest.raises(InputError, match="trained widths"):
        stream(["a"], truncate_to=31)
    assert list(stream([])) == []


@pytest.mark.parametrize(
    ("item", "got"),
    [
        (b"b", "bytes"),
        (None, "NoneType"),
        (5, "int"),
        (("T", "b", "c"), r"tuple of 3 \(str, str, str\)"),
        (("T", None), r"tuple of 2 \(str, NoneType\)"),
        ([5, "b"], r"list of 2 \(int, str\)"),
        ({"title": "T", "text": "b"}, "dict"),
    ],
)
def test_a_document_of_a_stream_is_a_text_or_a_pair(
    embedder: Embedder, item: object, got: str
) -> None:
    texts = ["a", ["T", "b"], item]
    with pytest.raises(InputError, match=rf"text 2 must be a string or \(title, text\), got {got}"):
        list(embedder.stream_document(texts))  # type: ignore[arg-type]


def test_texts_are_taken_on_the_thread_that_asks_for_vectors(embedder: Embedder) -> None:
    here = threading.get_ident()
    taken: list[int] = []

    def texts() -> Iterator[str]:
        for i in range(7):
            taken.append(threading.get_ident())
            yield f"text {i}"

    assert sum(map(len, embedder.stream_query(texts(), window=2))) == 7
    assert sum(map(len, embedder.stream_document(texts(), window=2))) == 7
    assert taken == [here] * 14
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


@pytest.mark.parametrize("precision", ["float32", "int8", "int4", "torch", "torch bfloat16"])
@pytest.mark.parametrize(("factor", "length"), [(1e-25, "0"), (1e25, "nan")])
def test_what_is_no_unit_vector_is_an_error_in_every_engine(
    tmp_path: Path, precision: str, factor: float, length: str
) -> None:
    arrays = random_arrays(tiny())
    for name in ("up", "down"):  # each is finite, their product is not, or vanishes
        arrays[name] *= np.float32(factor)
    tokenizer = byte_tokenizer().to_str()
    write_checkpoint(tmp_path / "m", tiny(), arrays, tokenizer_json=tokenizer, prompts={})
    options: dict[str, Any] = {"precision": precision}
    if precision.startswith("torch"):
        options = {"backend": "torch", "precision": precision[6:] or "float32", "device": "cpu"}
    embedder = culet.load(tmp_path / "m", **options)
    with pytest.raises(CheckpointError, match=f"vectors of length {length} where unit vectors"):
        embedder.encode_query("a")


def test_equal_texts_are_computed_once(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    real = embedder._engine.embed

    def counted(texts: Any) -> Any:
        given.append(len(texts))
        return real(texts)

    monkeypatch.setattr(embedder._engine, "embed", counted)
    vectors = embedder.encode_query(["", "a", "", "b", "a", ""])
    assert given == [3]
    np.testing.assert_array_equal(vectors[[0, 1, 0, 3, 1, 0]], vectors)
    assert len({vector.tobytes() for vector in vectors}) == 3
    assert embedder.encode_query([]).shape == (0, embedder.dim)


def test_a_prefix_of_zeros_is_an_error_too(tmp_path: Path) -> None:
    arrays = random_arrays(tiny())
    arrays["down"][:8] = 0
    tokenizer = byte_tokenizer().to_str()
    write_checkpoint(tmp_path / "m", tiny(), arrays, tokenizer_json=tokenizer, prompts={})
    embedder = culet.load(tmp_path / "m")
    assert embedder.encode_query("a", truncate_to=16).shape == (16,)
    with pytest.raises(CheckpointError, match="vectors of length 0 where unit vectors"):
        embedder.encode_query("a", truncate_to=8)


def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path) -> None:
    for name in (tmp_path / "absent", "no such model", "~/model", "a/b/c"):
        with pytest.raises(InputError, match="is neither a folder that exists nor a hub id like"):
            culet.load(name)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is not a folder"):
        culet.load(tmp_path / "file")


def test_a_hub_id_is_fetched_without_pickles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def fetch(name: str, **options: list[str]) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert culet.load("some/model").name == "some/model"
    assert asked["name"] == "some/model"
    assert all(p.endswith((".json", ".safetensors", "SHA256SUMS")) for p in asked["allow_patterns"])


def test_a_hub_id_that_cannot_be_fetched_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **options: list[str]) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(InputError, match=r"could not be fetched from the hub: no network"):
        culet.load("some/model")


def test_an_installation_without_a_model_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "PACKAGED", tmp_path)
    with pytest.raises(CheckpointError, match="carries no packaged model; name a checkpoint"):
        culet.load()


# --- without torch -------------------------------------------------------------------------------


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("culet.model.") or name == "culet.runtime.pytorch":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.usefixtures("without_torch")
def test_loading_without_torch_names_the_extra(folder: Path) -> None:
    with pytest.raises(MissingExtra, match=r"device 'cpu' needs the package 'torch'.*\[torch\]"):
        culet.load(folder, device="cpu", backend="torch")


LIGHT = ("data", "text", "files", "vectors", "architecture", "checkpoints", "embedder", "loading",
         "search", "bulk", "evaluate", "cli")  # fmt: skip
IMPORT_WITHOUT = """
import sys
for name in ("torch", "jaxtyping", "pyarrow", "sklearn", "scipy", "transformers"):
    sys.modules[name] = None  # an import of it fails
import culet
assert set(culet.__all__) <= set(dir(culet)), dir(culet)
assert culet.load and culet.Embedder
import importlib
import pkgutil
for name in sys.argv[1:]:
    room = importlib.import_module(f"culet.{name}")
    for file in pkgutil.walk_packages(getattr(room, "__path__", ()), f"{room.__name__}."):
        if file.name != "culet.evaluate.mteb":  # it is there for those who have mteb
            importlib.import_module(file.name)
print(sorted(name for name in sys.modules if f"{name}.".startswith("culet.model.")))
"""


def test_nothing_but_the_model_needs_torch_to_be_imported() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_WITHOUT, *LIGHT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[]\n"


def test_importing_culet_imports_nothing_heavy() -> None:
    code = "import sys, culet; print(sorted(m for m in sys.modules if m.startswith('culet')))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "['culet']\n"


def test_a_public_name_that_does_not_exist_lists_those_that_do() -> None:
    assert isinstance(culet, types.ModuleType)
    with pytest.raises(AttributeError, match=r"has no attribute 'laod'; it has .*'load'"):
        culet.laod  # noqa: B018
