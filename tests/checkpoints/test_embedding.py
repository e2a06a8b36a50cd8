"""Every trap ends in a sentence, none in wrong vectors."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_checkpoint import random_arrays, write_random
from tokenizers import Tokenizer

from culet.architecture.embedding_config import embeddinggemma_300m, tiny
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.families import DAMAGED_WINDOWS
from culet.checkpoints.write import write_checkpoint
from culet.errors import CheckpointError, InputError
from culet.files.tensors import write_tensors
from culet.text.tokenizer_training import byte_tokenizer


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("checkpoint") / "sound")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """Return a copy of a sound checkpoint, to be damaged."""
    return shutil.copytree(sound, tmp_path / "m")


def edit(path: Path, **changes: Any) -> None:
    """Change settings in a JSON file; None takes one away."""
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in raw.items() if v is not None}))


def fails(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_embedding_model(folder)


# --- what is sound -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path, dtype: str) -> None:
    folder = write_random(tmp_path / "m", dtype=dtype, prompts={"query": "q: ", "document": ""})
    checkpoint = read_embedding_model(folder)
    assert checkpoint.config == tiny()
    assert checkpoint.prompts == {"query": "q: ", "document": ""}
    assert checkpoint.notes == ()
    arrays = checkpoint.arrays()
    assert list(arrays) == list(tiny().weight_shapes())
    assert len(arrays) == 2 + 7 * 13 + 2
    tolerance = 0 if dtype == "float32" else 1 / 128
    for name, array in random_arrays(tiny()).items():
        np.testing.assert_allclose(arrays[name], array, rtol=tolerance, atol=0)


def test_shards_hold_the_same_weights_and_no_more_than_asked(tmp_path: Path) -> None:
    folder = write_random(tmp_path / "m", max_shard_bytes=30_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    embed_bytes = 272 * 32 * 4  # one tensor may be larger than a shard, and then is one
    assert all((folder / name).stat().st_size < embed_bytes + 5000 for name in files)
    arrays = read_embedding_model(folder).arrays()
    for name, array in random_arrays(tiny()).items():
        np.testing.assert_array_equal(arrays[name], array)
    assert index["metadata"]["total_size"] == 4 * sum(
        random_arrays(tiny())[name].size for name in tiny().encoder.weight_shapes()
    )


def test_writing_again_replaces_the_whole_folder(tmp_path: Path) -> None:
    write_random(tmp_path / "m", max_shard_bytes=30_000, extra_files={"notes/a.txt": "x"})
    assert (tmp_path / "m" / "notes" / "a.txt").read_text() == "x"
    write_random(tmp_path / "m", seed=1, extra_files={"README.md": "# mine\n"})
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert names == {
        "1_Pooling", "2_Dense", "3_Dense", "4_Normalize", "README.md", "SHA256SUMS", "config.json",
        "config_sentence_transformers.json", "model.safetensors", "modules.json",
        "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert (tmp_path / "m" / "README.md").read_text() == "# mine\n"
    assert read_embedding_model(tmp_path / "m").config == tiny()


def test_an_older_layout_with_a_transformer_folder_loads(folder: Path) -> None:
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                 "sentence_bert_config.json"):  # fmt: skip
        (folder / name).rename(folder / "0_Transformer" / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    checkpoint = read_embedding_model(folder)
    assert checkpoint.config == tiny()
    assert checkpoint.tokenizer == folder / "0_Transformer" / "tokenizer.json"


def test_the_published_shape_is_written_as_published() -> None:
    from culet.checkpoints.sentence_transformers import small_files

    texts = small_files(embeddinggemma_300m(), dtype="bfloat16", prompts={})
    config = json.loads(texts["config.json"])
    expected = {
        "sliding_window": 512, "query_pre_attn_scalar": 256, "hidden_size": 768,
        "intermediate_size": 1152, "num_attention_heads": 3, "num_key_value_heads": 1,
        "head_dim": 256, "num_hidden_layers": 24, "max_position_embeddings": 2048,
        "vocab_size": 262_144, "use_bidirectional_attention": True, "dtype": "bfloat16",
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    assert config["layer_types"].count("full_attention") == 4


def test_trained_widths_are_stated_known_or_the_full_one(folder: Path) -> None:
    assert read_embedding_model(folder).config.widths == (32, 16, 8)
    edit(folder / "config.json", matryoshka_dimensions=None)
    assert read_embedding_model(folder).config.widths == (32,)
    edit(folder / "config.json", matryoshka_dimensions=[8, 24])
    assert read_embedding_model(folder).config.widths == (32, 24, 8)


def test_the_published_widths_are_known_where_the_folder_is_silent() -> None:
    from culet.checkpoints.sentence_transformers import trained_widths

    encoder = embeddinggemma_300m().encoder
    assert trained_widths({}, encoder, 768, where=Path("config.json")) == (768, 512, 256, 128)
    smaller = replace(encoder, num_layers=12, global_layers=())
    assert trained_widths({}, smaller, 768, where=Path("config.json")) == (768,)


def test_the_fingerprint_changes_with_all_that_changes_vectors(
    sound: Path, folder: Path, tmp_path: Path
) -> None:
    print_of = {"sound": read_embedding_model(sound).fingerprint}
    assert read_embedding_model(folder).fingerprint == print_of["sound"]  # a copy elsewhere

    def changed(name: str, change: Callable[[], object]) -> None:
        change()
        print_of[name] = read_embedding_model(folder).fingerprint

    pooling = folder / "1_Pooling" / "config.json"
    changed("length", lambda: edit(folder / "sentence_bert_config.json", max_seq_length=64))
    changed(
        "pooling",
        lambda: edit(pooling, pooling_mode_mean_tokens=False, pooling_mode_cls_token=True),
    )
    changed("scale", lambda: edit(folder / "config.json", query_pre_attn_scalar=17))
    prompts = folder / "config_sentence_transformers.json"
    changed("prompts", lambda: edit(prompts, prompts={"query": "q: "}))
    head = {"linear.weight": np.ones((32, 64), np.float32)}
    changed("head", lambda: write_tensors(folder / "3_Dense" / "model.safetensors", head))
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([])
    text = json.loads(tokenizer.to_str()) | {"normalizer": {"type": "Lowercase"}}
    changed("tokenizer", lambda: (folder / "tokenizer.json").write_text(json.dumps(text)))
    assert len(set(print_of.values())) == len(print_of) == 7
    other = write_random(tmp_path / "other", seed=1)
    assert read_embedding_model(other).fingerprint != print_of["sound"]


# --- windows that a faulty save has halved -------------------------------------------------------


def halved(stored: int, times: int = 1) -> int:
    for _ in range(times):
        stored = stored // 2 + 1
    return stored


def test_the_faulty_save_makes_these_windows_of_512() -> None:
    assert tuple(halved(512, times) for times in range(1, 10)) == DAMAGED_WINDOWS


@pytest.mark.parametrize("stored", DAMAGED_WINDOWS)
def test_a_halved_window_of_another_tool_is_repaired_with_a_warning(
    folder: Path, stored: int
) -> None:
    edit(folder / "config.json", sliding_window=stored, culet=None)
    with pytest.warns(UserWarning, match=rf"sliding_window={stored}, which a faulty save has") as w:
        checkpoint = read_embedding_model(folder)
    assert "repaired to 512 (±256 tokens). Save the checkpoint again" in str(w[0].message)
    assert checkpoint.config.encoder.window == 256
    assert len(checkpoint.notes) == 1


@pytest.mark.parametrize("window", [1, 2, 3, 16, 100, 128, 256])
@pytest.mark.parametrize("times", [0, 1, 2, 5])
def test_our_own_window_survives_faulty_saves(tmp_path: Path, window: int, times: int) -> None:
    config = replace(tiny(), encoder=replace(tiny().encoder, window=window))
    folder = write_random(tmp_path / "m", config)
    stored = halved(2 * window, times)
    edit(folder / "config.json", sliding_window=stored)
    if stored == 2 * window:
        assert read_embedding_model(folder).config == config
        return
    with pytest.warns(UserWarning, match=rf"repaired to {2 * window} \(±{window} tokens\)"):
        assert read_embedding_model(folder).config == config


def test_an_odd_window_that_nobody_can_explain_is_refused(folder: Path) -> None:
    edit(folder / "config.json", sliding_window=513, culet=None)  # 1024, saved badly once
    fails(folder, r"sliding_window=513 is odd.*write the true value there")


def test_a_plain_even_window_is_taken_as_it_is(folder: Path) -> None:
    edit(folder / "config.json", sliding_window=128, culet=None)
    assert read_embedding_model(folder).config.encoder.window == 64


# --- settings that would give wrong vectors ------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_bidirectional_attention": False}, "is False, expected true.*causal decoder"),
        ({"use_bidirectional_attention": None}, "is None, expected true"),
        ({"use_bidirectional_attention": 1}, "is 1, expected true"),
        ({"model_type": "gemma2"}, "model_type must be 'gemma3_text', got 'gemma2'"),
        ({"hidden_activation": "silu"}, "hidden_activation must be 'gelu_pytorch_tanh', got 'silu"),
        ({"attention_bias": True}, "attention_bias must be False, got True"),
        ({"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping must be None, got 50\.0"),
        ({"hidden_size": None}, "hidden_size must be a whole number, got None"),
        ({"hidden_size": True}, "hidden_size must be a whole number, got True"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be 1 to 1000, got 1000000000"),
        ({"num_hidden_layers": 6}, "layer_types must name 6 layers .* got 7"),
        ({"head_dim": 15}, "head_dim must be even"),
        ({"sliding_window": None}, "sliding_window must be a whole number"),
        ({"sliding_window": 0}, "sliding_window must be at least 2, got 0"),
        ({"culet": {"window": "x"}}, "window must be a whole number, got 'x'"),
        ({"layer_types": ["chunked_attention"] * 7}, "7 with .'chunked_attention'. unknown kinds"),
        ({"layer_types": 7}, "layer_types must be a list, got 7"),
        ({"layer_types": None, "sliding_window_pattern": 4}, "pattern must be 6 .* got 4"),
        ({"rope_scaling": {"factor": 8.0}}, "rotary scaling .*'factor': 8.0.* is not part of this"),
        ({"rope_parameters": [1]}, r"rope_parameters must be a JSON object, got \[1\]"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number, got 0"),
        ({"query_pre_attn_scalar": "256"}, "query_pre_attn_scalar must be a positive number"),
        ({"query_pre_attn_scalar": -1}, "query_pre_attn_scalar must be a positive number, got -1"),
        ({"matryoshka_dimensions": [64]}, r"must list widths up to 32, got \[64\]"),
        ({"matryoshka_dimensions": 8}, "must list widths up to 32, got 8"),
    ],
)
def test_a_config_that_means_another_model_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit(folder / "config.json", **changes)
    fails(folder, rf"config\.json: .*{message}")


@pytest.mark.parametrize(
    "entry", [{"rope_type": "linear", "factor": 8.0}, {"partial_rotary_factor": 0.25}]
)
def test_scaled_or_partial_rotation_is_refused(folder: Path, entry: dict[str, Any]) -> None:
    entry = {"rope_type": "default", "rope_theta": 1e6} | entry
    sliding = {"rope_type": "default", "rope_theta": 1e4}
    both = {"full_attention": entry, "sliding_attention": sliding}
    edit(folder / "config.json", rope_parameters=both)
    fails(folder, "is not part of this family; expected rope_type 'default'")


def test_a_silent_attention_scale_is_the_one_transformers_assumes(folder: Path) -> None:
    edit(folder / "config.json", query_pre_attn_scalar=None)
    assert (
        read_embedding_model(folder).config.encoder.scale == 1 / 16
    )  # not head_dim ** -0.5 = 1 / 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling_mode": "max"}, r"pooling must be one of .*'mean'.*, got \['max'\]"),
        ({"pooling_mode": ["mean", "cls"]}, r"got \['mean', 'cls'\]"),
        ({"pooling_mode_cls_token": True}, r"got \['mean', 'cls'\]"),
        ({"pooling_mode_mean_tokens": False}, r"got \[\]"),
        ({"pooling_mode": 3}, r"got \[3\]"),
        ({"include_prompt": False}, "include_prompt must be true"),
        ({"word_embedding_dimension": 768}, "pools vectors of width 768, the encoder's are 32"),
        ({"culet_pooling": {"kind": "max", "tokens": 1, "heads": 1}}, "must give a kind among"),
        ({"culet_pooling": {"kind": "mean"}}, "tokens and heads, got .'kind': 'mean'."),
        ({"culet_pooling": {"kind": "first", "tokens": 0, "heads": 1}}, "must be at least 1"),
        ({"culet_pooling": {"kind": "attention", "tokens": 1, "heads": 5}}, "must divide"),
        ({"culet_pooling": {"kind": "attention", "tokens": 1, "heads": 4}}, "is missing"),
    ],
)
def test_a_pooling_that_this_model_was_not_trained_with_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit(folder / "1_Pooling" / "config.json", **changes)
    fails(folder, message)


def test_a_missing_dense_head_is_refused(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:3] + modules[4:]))
    fails(folder, "a dense head is missing.*take the complete folder")


def test_a_folder_of_bare_weights_is_refused(folder: Path) -> None:
    (folder / "modules.json").unlink()
    fails(folder, r"has no modules\.json, so its pooling and dense heads are unknown")


def test_modules_in_another_order_or_of_another_kind_are_refused(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2] + modules[:1:-1]))
    fails(folder, r"lists the modules \['Transformer', 'Pooling', 'Normalize', 'Dense', 'Dense'\]")
    (folder / "modules.json").write_text("[1, 2]")
    fails(folder, "must list JSON objects")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": True}, "without bias and residual .* got bias=True"),
        ({"activation_function": None}, "got bias=False, residual=False and activation ''"),
        ({"activation_function": "torch.nn.modules.activation.Tanh"}, "activation 'Tanh'"),
        ({"use_residual": True}, "residual=True"),
        ({"module_input_name": "token_embeddings"}, "module_input_name must be 'sentence_embedd"),
        ({"in_features": 48}, r"has shape \(64, 32\), its config says \(64, 48\)"),
    ],
)
def test_a_dense_head_that_is_more_than_a_linear_map_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit(folder / "2_Dense" / "config.json", **changes)
    fails(folder, f"2_Dense.*{message}")


def test_a_misshapen_dense_head_is_refused(folder: Path) -> None:
    for name, shape in (("2_Dense", (64, 48)), ("3_Dense", (32, 48))):
        copy = shutil.copytree(folder, folder.parent / name)
        weight = {"linear.weight": np.zeros(shape, np.float32)}
        write_tensors(copy / name / "model.safetensors", weight)
        edit(copy / name / "config.json", in_features=48)
        fails(copy, "the dense heads map .* does not continue from the encoder's width 32")


def test_lowercasing_adapters_and_rewired_modules_are_refused(folder: Path) -> None:
    edit(folder / "sentence_bert_config.json", do_lower_case=True)
    fails(folder, "do_lower_case is set, which this family was not trained with")
    edit(folder / "sentence_bert_config.json", do_lower_case=False)
    (folder / "adapter_config.json").write_text("{}")
    fails(folder, r"holds an adapter \(adapter_config\.json\).*merge it")
    (folder / "adapter_config.json").unlink()
    edit(folder / "4_Normalize" / "config.json", module_input_name="token_embeddings")
    fails(folder, "module_input_name must be 'sentence_embedding', got 'token_embeddings'")


# --- files that are not what they should be ------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "3_Dense/model.safetensors",
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    fails(folder, f"{name} is missing; the folder is not complete")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "2_Dense/model.safetensors", "3_Dense/model.safetensors"]
)
@pytest.mark.parametrize("kept", [0, 5, -1])
def test_a_truncated_or_empty_weight_file_is_refused(folder: Path, name: str, kept: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    fails(folder, f"{name} is not a whole safetensors file")


@pytest.mark.parametrize(
    "name", ["config.json", "modules.json", "1_Pooling/config.json", "2_Dense/config.json",
             "sentence_bert_config.json", "config_sentence_transformers.json"],
)  # fmt: skip
def test_json_that_is_none_is_refused(folder: Path, name: str) -> None:
    for content, message in {
        b"{": "is not readable JSON",
        b"\xff": "is not readable JSON",
        b"[" * 100_000: "is not readable JSON",
        b"3": "must hold a JSON",
    }.items():
        (folder / name).write_bytes(content)
        fails(folder, f"{name} {message}")


def test_shapes_that_disagree_with_the_config_are_refused(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=64)
    fails(folder, r"gate_proj\.weight has shape \(48, 32\), config\.json says \(64, 32\)")


def test_layers_that_disagree_with_the_config_are_refused(folder: Path) -> None:
    types = json.loads((folder / "config.json").read_text())["layer_types"]
    edit(folder / "config.json", num_hidden_layers=6, layer_types=types[:6])
    fails(folder, r"missing nothing, unexpected layers\.6\..* and 8 more")
    edit(folder / "config.json", num_hidden_layers=8, layer_types=[*types, types[0]])
    fails(folder, r"missing blocks\.7\..* and 8 more, unexpected nothing")


def test_a_tensor_that_no_encoder_has_is_refused(folder: Path) -> None:
    head = {"lm_head.weight": np.zeros((272, 32), np.float32)}
    write_tensors(folder / "model.safetensors", head)
    fails(folder, r"unexpected lm_head\.weight")


def test_weights_under_the_name_of_a_whole_model_are_found(folder: Path) -> None:
    from culet.files.tensors import read_tensors

    stored = read_tensors(folder / "model.safetensors")
    arrays = {f"model.{name}": np.array(tensor.float32()) for name, tensor in stored.items()}
    write_tensors(folder / "model.safetensors", arrays)
    assert read_embedding_model(folder).config == tiny()
    twice = arrays | {"norm.weight": arrays["model.norm.weight"]}
    write_tensors(folder / "model.safetensors", twice)
    fails(folder, "two tensors are both norm: damaged checkpoint")


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    fails(folder, r"weights as pickle \(pytorch_model\.bin\), which can run code.*convert the file")


def test_a_pickled_dense_head_is_refused(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    fails(folder, r"2_Dense holds its weights as pickle")


@pytest.mark.parametrize("name", ["../m/evil.safetensors", "/etc/passwd", "..", "", "a/b", "x.bin"])
def test_an_index_may_name_only_files_beside_it(tmp_path: Path, name: str) -> None:
    folder = write_random(tmp_path / "m", max_shard_bytes=30_000)
    index = folder / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    raw["weight_map"]["norm.weight"] = name
    index.write_text(json.dumps(raw))
    fails(folder, "which is not a safetensors file beside it")


def test_a_stray_single_file_beside_an_index_is_refused(tmp_path: Path) -> None:
    folder = write_random(tmp_path / "m", max_shard_bytes=30_000)
    other = write_random(tmp_path / "other") / "model.safetensors"
    shutil.copy(other, folder / "model.safetensors")
    fails(folder, r"holds model\.safetensors beside model\.safetensors\.index\.json")
    index = folder / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    raw["weight_map"] = dict.fromkeys(raw["weight_map"], "model.safetensors")
    index.write_text(json.dumps(raw))
    read_embedding_model(folder)


def test_all_names_that_a_message_cuts_short_are_noted(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["num_hidden_layers"] -= 1
    raw["layer_types"] = raw["layer_types"][:-1]
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"unexpected .* and \d+ more") as error:
        read_embedding_model(folder)
    (note,) = error.value.__notes__
    shown = str(error.value).partition("unexpected ")[2].partition(" and ")[0].split(", ")
    assert note.startswith("unexpected: " + ", ".join(shown))
    assert len(note.split(", ")) > len(shown)


def test_an_index_and_its_shards_must_agree(tmp_path: Path) -> None:
    folder = write_random(tmp_path / "m", max_shard_bytes=30_000)
    index = folder / "model.safetensors.index.json"
    sound = index.read_text()
    raw = json.loads(sound)
    raw["weight_map"]["norm.bias"] = raw["weight_map"]["norm.weight"]
    index.write_text(json.dumps(raw))
    fails(folder, r"lists tensors that no shard holds: norm\.bias")
    for nonsense in ("{}", '{"weight_map": 3}', '{"weight_map": {}}'):
        index.write_text(nonsense)
        fails(folder, "must hold a weight_map")
    index.write_text(sound)
    next(folder.glob("model-00002*")).unlink()
    fails(folder, r"model-00002.* is missing")


def test_modules_may_name_only_folders_inside(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    for path in ("../2_Dense", "/2_Dense", "a/../../2_Dense"):
        modules[2]["path"] = path
        (folder / "modules.json").write_text(json.dumps(modules))
        fails(folder, "which is not a folder inside")


def test_a_tokenizer_of_a_larger_model_is_refused(folder: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["something new"])
    tokenizer.save(str(folder / "tokenizer.json"))
    fails(folder, "has token ids up to 272, but the model embeds only 272")


def test_a_tokenizer_of_another_family_is_refused(folder: Path) -> None:
    raw = json.loads(byte_tokenizer().to_str())
    raw["model"]["vocab"] |= {"<eos>": 2, "<bos>": 1}
    for token in raw["added_tokens"]:
        token["id"] = {"<eos>": 2, "<bos>": 1}.get(token["content"], token["id"])
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    fails(folder, "gives <eos> the id 2, expected 1; this tokenizer is of another family")


def test_a_damaged_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    fails(folder, r"tokenizer\.json is not a readable tokenizer")
    (folder / "tokenizer.json").write_bytes(b'{"version": "\xe9"}')
    fails(folder, r"tokenizer\.json is not a readable tokenizer: 'utf-8' codec can't decode byte")


def test_prompts_that_are_no_strings_are_refused(folder: Path) -> None:
    for prompts in ([1], {"query": 3}, "x"):
        edit(folder / "config_sentence_transformers.json", prompts=prompts)
        fails(folder, "prompts must map names to strings")


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    fails(tmp_path / "absent", "is not a folder; expected a sentence-transformers folder")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", r"has no modules\.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
FILES = ("config.json", "modules.json", "1_Pooling/config.json", "2_Dense/config.json",
         "sentence_bert_config.json", "tokenizer_config.json",
         "config_sentence_transformers.json")  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*a faulty save has halved")
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=150,
)
@given(data=st.data())
def test_any_value_anywhere_is_read_or_refused_and_never_crashes(
    folder: Path, data: st.DataObject
) -> None:
    path = folder / data.draw(st.sampled_from(FILES))
    sound = path.read_text()
    raw = json.loads(sound)
    if isinstance(raw, list):
        place = data.draw(st.sampled_from(range(len(raw))))
        raw[place][data.draw(st.sampled_from(["type", "path"]))] = data.draw(JSON)
    else:
        raw[data.draw(st.sampled_from([*raw, "culet_pooling", "pooling_mode"]))] = data.draw(JSON)
    try:
        path.write_text(json.dumps(raw))
        with contextlib.suppress(CheckpointError):
            read_embedding_model(folder)
    finally:
        path.write_text(sound)


# --- writing -------------------------------------------------------------------------------------


def test_sizes_that_transformers_cannot_load_are_refused_before_writing(tmp_path: Path) -> None:
    config = replace(tiny(), encoder=replace(tiny().encoder, num_heads=3))
    with pytest.raises(InputError, match=r"model_dim must be a multiple of num_heads.*32 and 3"):
        write_random(tmp_path / "m", config)
    assert not (tmp_path / "m").exists()


def test_a_tokenizer_that_does_not_go_with_the_model_is_not_written(tmp_path: Path) -> None:
    from tokenizers.models import WordLevel

    words = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    with pytest.raises(CheckpointError, match="gives <pad> the id None, expected 0"):
        write_checkpoint(
            tmp_path / "m", tiny(), random_arrays(tiny()), tokenizer_json=words.to_str(), prompts={}
        )
    assert list(tmp_path.iterdir()) == []


def test_a_decoders_tokenizer_is_told_to_end_texts(tmp_path: Path) -> None:
    content = json.loads(byte_tokenizer().to_str())
    template = content["post_processor"]
    template["single"] = template["single"][:2]  # <bos> and the text
    assert Tokenizer.from_str(json.dumps(content)).encode("a").ids == [2, 16 + 97]
    write_checkpoint(
        tmp_path / "a",
        tiny(),
        random_arrays(tiny()),
        tokenizer_json=json.dumps(content),
        prompts={},
    )
    written = Tokenizer.from_file(str(tmp_path / "a/tokenizer.json"))
    assert written.encode("a").ids == [2, 16 + 97, 1]
    assert written.to_str() == byte_tokenizer().to_str()
