"""Small files that would change every vector are refused, each with a sentence."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from random_checkpoint import random_arrays, write_random

from culet.architecture.embedding_config import tiny
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.write import write_checkpoint
from culet.errors import CheckpointError
from culet.text.tokenizer_training import byte_tokenizer

MODULE, SETTINGS = "sentence_bert_config.json", "tokenizer_config.json"
PROMPTS = "config_sentence_transformers.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("checkpoint") / "sound")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "m")


def edit(path: Path, **changes: Any) -> None:
    raw = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(raw | changes))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        *(
            (name, {key: value}, f"{key} must be a whole number above 0, got")
            for name, key in ((MODULE, "max_seq_length"), (SETTINGS, "model_max_length"))
            for value in ("512", "", 0, -1, 12.5, 512.0, float("nan"), True, [512], {})
        ),
        (MODULE, {"max_seq_length": 2}, "texts would be cut to 2 tokens"),
        (MODULE, {"max_seq_length": 4096}, "max_position_embeddings = 2048; state at most that"),
        (MODULE, {"max_seq_length": 20}, "the prompt '.*' is .* so that all texts would get the"),
        (SETTINGS, {"truncation_side": "left"}, "truncation_side must be 'right'"),
        (SETTINGS, {"bos_token": "<eos>", "eos_token": "<bos>"}, "bos_token must be '<bos>'"),
        (SETTINGS, {"eos_token": {"content": "<pad>"}}, "eos_token must be '<eos>', got '<pad>'"),
        ("special_tokens_map.json", {"pad_token": "<bos>"}, "pad_token must be '<pad>'"),
        ("special_tokens_map.json", {"truncation_side": "left"}, "truncation_side must be"),
        (PROMPTS, {"prompts": []}, "prompts must map names to strings"),
        (PROMPTS, {"prompts": ""}, "prompts must map names to strings"),
        (PROMPTS, {"prompts": {"query": 3}}, "prompts must map names to strings"),
        ("config.json", {"max_position_embeddings": 2}, "max_length must be 3 to"),
        ("config.json", {"max_position_embeddings": 10**30}, "max_length must be 3 to"),
        ("config.json", {"query_pre_attn_scalar": 1e30}, "attention_scale must be 0.001 to 1"),
        ("config.json", {"query_pre_attn_scalar": 1e-30}, "attention_scale must be 0.001 to 1"),
        ("config.json", {"rms_norm_eps": 1e30}, "norm_eps must be 1e-12 to 0.1, got 1e\\+30"),
        ("config.json", {"rms_norm_eps": 1e-40}, "norm_eps must be 1e-12 to 0.1"),
    ],
)
def test_absurd_settings_are_refused(
    folder: Path, name: str, changes: dict[str, Any], said: str
) -> None:
    edit(folder / name, **changes)
    with pytest.raises(CheckpointError, match=said):
        read_embedding_model(folder)


@pytest.mark.parametrize("theta", [1e-5, 1.0, 1e30])
@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention"])
def test_an_absurd_rotary_base_is_refused(folder: Path, kind: str, theta: float) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["rope_parameters"][kind]["rope_theta"] = theta
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"rope_base must be 2 to 1e\+10, got"):
        read_embedding_model(folder)


@pytest.mark.parametrize("broken_link", [False, True])
def test_prompts_that_are_not_there_are_not_guessed(folder: Path, broken_link: bool) -> None:
    (folder / PROMPTS).unlink()
    if broken_link:
        (folder / PROMPTS).symlink_to(folder / "absent")
    with pytest.raises(CheckpointError, match=r"is missing, .* prompts are unknown; .* or write"):
        read_embedding_model(folder)
    (folder / PROMPTS).unlink(missing_ok=True)
    (folder / PROMPTS).write_text('{"prompts": {}}')
    assert read_embedding_model(folder).prompts == {}


def test_a_tokenizer_json_that_cuts_at_the_left_is_refused(folder: Path) -> None:
    cut = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    edit(folder / "tokenizer.json", truncation=cut)
    with pytest.raises(CheckpointError, match=r"truncation\.direction must be 'right'"):
        read_embedding_model(folder)


@pytest.mark.parametrize(("rows", "fits"), [(272, True), (300, True), (560, False), (2000, False)])
def test_a_tokenizer_has_an_id_for_nearly_every_row(tmp_path: Path, rows: int, fits: bool) -> None:
    config = replace(tiny(), encoder=replace(tiny().encoder, vocab_size=rows))
    tokenizer = byte_tokenizer().to_str()

    def write() -> None:
        write_checkpoint(tmp_path / "m", config, random_arrays(config), tokenizer_json=tokenizer)

    if fits:
        write()
        assert read_embedding_model(tmp_path / "m").config == config
        return
    with pytest.raises(CheckpointError, match=f"has 272 token ids and the model {rows} rows"):
        write()
    from tokenizers import Tokenizer

    larger = Tokenizer.from_str(tokenizer)
    larger.add_tokens([f"word{i}" for i in range(rows - 272)])
    arrays = random_arrays(config)
    write_checkpoint(tmp_path / "m", config, arrays, tokenizer_json=larger.to_str())
    (tmp_path / "m" / "tokenizer.json").write_text(tokenizer)
    with pytest.raises(CheckpointError, match=f"has 272 token ids and the model {rows} rows"):
        read_embedding_model(tmp_path / "m")


@pytest.mark.parametrize("name", ["config.json", PROMPTS, SETTINGS, MODULE])
def test_a_setting_that_is_there_twice_is_refused(folder: Path, name: str) -> None:
    raw = (folder / name).read_text()
    (folder / name).write_text(f'{{"x": 1, "x": 2, {raw.strip()[1:]}')
    with pytest.raises(CheckpointError, match=f"{name} is not readable JSON: an object has 'x' tw"):
        read_embedding_model(folder)
