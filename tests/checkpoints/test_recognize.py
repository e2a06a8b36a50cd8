"""What lies at a path is recognized and opened in one place, and named where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_doubles import write as write_gguf
from language_doubles import write_pair, write_teacher
from random_checkpoint import write_random

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.recognize import read_any, read_generating, recognize
from culet.errors import CheckpointError, InputError


def test_each_kind_is_recognized_and_opened(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    for path, kind, config in (
        (write_random(tmp_path / "a"), "embedding model", EmbeddingConfig),
        (write_teacher(tmp_path / "b"), "decoder", DecoderConfig),
        (tmp_path / "a.gguf", "decoder", DecoderConfig),
        (write_pair(tmp_path / "c"), "encoder-decoder", EncoderDecoderConfig),
    ):
        assert recognize(path) == kind
        assert isinstance(read_any(path).config, config)


def test_nothing_is_recognized_where_the_small_files_show_nothing(tmp_path: Path) -> None:
    assert recognize(tmp_path) is None
    assert recognize(tmp_path / "nothing") is None
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not readable JSON"):
        recognize(tmp_path)


def test_an_embedding_model_writes_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is an embedding model, which writes no text"):
        read_generating(write_random(tmp_path / "a"))


def test_an_embedding_model_in_gguf_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", architecture="gemma-embedding")
    with pytest.raises(CheckpointError, match=r"'gemma-embedding', .* it is an embedding model"):
        read_any(tmp_path / "a.gguf")
    with pytest.raises(CheckpointError, match="it is a GGUF file; an embedding model is a folder"):
        read_embedding_model(tmp_path / "a.gguf")


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    config = '{"base_model_name_or_path": "google/embeddinggemma-300m", "peft_type": "LORA"}'
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(CheckpointError, match="an adapter of google/embeddinggemma-300m"):
        read_any(tmp_path)


def test_an_adapter_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    for read in (read_any, read_generating):
        with pytest.raises(CheckpointError, match=r"holds an adapter \(adapter_config\.json\)"):
            read(tmp_path)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    folder = write_teacher(tmp_path / "a")
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(
        CheckpointError,
        match=r"has no modules\.json, .*names the architecture 'LlamaForCausalLM', which is no "
        r".*; known are Gemma3ForCausalLM, .*T5GemmaForConditionalGeneration",
    ):
        read_any(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no modules\.json, so its pooling"):
        read_any(folder)
    (tmp_path / "text").write_text("words")
    with pytest.raises(CheckpointError, match="is not a GGUF file: it does not begin with 'GGUF'"):
        read_any(tmp_path / "text")
    with pytest.raises(CheckpointError, match="nothing does not exist; expected a folder"):
        read_any(tmp_path / "nothing")


def test_a_damaged_decoder_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_teacher(tmp_path / "a")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_any(folder)
