"""Folders as Google publishes them, of their config and their tensor names, without their weights.

The safetensors files are sparse: a header with every name and shape, and data that is never
touched. So a published folder is read to the last check before a weight is needed.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published_configs import (
    GEMMA3_1B,
    GEMMA3_4B,
    T5GEMMA2_270M,
    t5gemma,
    t5gemma_stack,
)

from culet.architecture import generating_config as ours
from culet.architecture.encoder_config import every_sixth
from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
from culet.checkpoints.recognize import read_generating
from culet.cli.description import facts_of
from culet.text.tokenizer_training import byte_tokenizer

Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(autouse=True)
def weights_and_tokenizers_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("culet.checkpoints.checkpoint.check_values", lambda tensors: [])
    monkeypatch.setattr("culet.files.fingerprint.sha256", lambda path: path.name)
    monkeypatch.setattr("culet.checkpoints.tokenizer_files._SPARE_ROWS", 1 << 20)


def layers(sizes: dict[str, Any], prefix: str, *, kind: str, query_key_norm: bool) -> Shapes:
    """Return the tensors of one stack's layers: a decoder's, an encoder's or a reader's."""
    dim, ffn = sizes["hidden_size"], sizes["intermediate_size"]
    head = sizes.get("head_dim", 256)
    rows = sizes.get("num_attention_heads", 8) * head
    shared = sizes.get("num_key_value_heads", 4) * head
    named: Shapes = {}
    norms = {
        "decoder": ["input_layernorm", "post_attention_layernorm"],
        "encoder": ["pre_self_attn_layernorm", "post_self_attn_layernorm"],
    }
    norms["reader"] = [
        *norms["encoder"],
        "pre_cross_attn_layernorm",
        "post_cross_attn_layernorm",
    ]
    for i in range(sizes["num_hidden_layers"]):
        for attention in ["self_attn", *(["cross_attn"] if kind == "reader" else [])]:
            named |= {
                f"{prefix}.{i}.{attention}.q_proj": (rows, dim),
                f"{prefix}.{i}.{attention}.k_proj": (shared, dim),
                f"{prefix}.{i}.{attention}.v_proj": (shared, dim),
                f"{prefix}.{i}.{attention}.o_proj": (dim, rows),
            }
            if query_key_norm:
                named |= {f"{prefix}.{i}.{attention}.{n}_norm": (head,) for n in "qk"}
        named |= {
            f"{prefix}.{i}.mlp.gate_proj": (ffn, dim),
            f"{prefix}.{i}.mlp.up_proj": (ffn, dim),
            f"{prefix}.{i}.mlp.down_proj": (dim, ffn),
        }
        more = ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        named |= {f"{prefix}.{i}.{name}": (dim,) for name in [*norms[kind], *more]}
    return {f"{name}.weight": shape for name, shape in named.items()}


def images(prefix: str, width: int) -> Shapes:
    """Return some of the tensors that read images, under the names of all of them."""
    tower = f"{prefix}vision_tower.vision_model"
    return {
        f"{tower}.embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        f"{tower}.embeddings.position_embedding.weight": (4096, 1152),
        f"{tower}.encoder.layers.0.self_attn.q_proj.weight": (1152, 1152),
        f"{tower}.post_layernorm.bias": (1152,),
        f"{prefix}multi_modal_projector.mm_input_projection_weight": (1152, width),
        f"{prefix}multi_modal_projector.mm_soft_emb_norm.weight": (1152,),
    }


def top(config: dict[str, Any], prefix: str) -> Shapes:
    table = (config["vocab_size"], config["hidden_size"])
    return {f"{prefix}embed_tokens.weight": table, f"{prefix}norm.weight": table[1:]}


def published(folder: Path, config: dict[str, Any], shapes: Shapes) -> Path:
    """Write a folder of these tensors in bfloat16, all of them holes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    return folder


def read(folder: Path) -> dict[str, Any]:
    return facts_of(read_generating(folder))


def test_gemma_3_1b(tmp_path: Path) -> None:
    shapes = top(GEMMA3_1B, "model.")
    shapes |= layers(GEMMA3_1B, "model.layers", kind="decoder", query_key_norm=True)
    found = read_generating(published(tmp_path / "a", GEMMA3_1B, shapes))
    assert found.config == ours.gemma3_1b()
    assert found.config.num_parameters() == 999_885_952


def test_the_text_part_of_gemma_3_4b(tmp_path: Path) -> None:
    text = GEMMA3_4B["text_config"] | {"vocab_size": 262_208}
    shapes = top(text, "language_model.model.")
    shapes |= layers(text, "language_model.model.layers", kind="decoder", query_key_norm=True)
    folder = published(tmp_path / "a", GEMMA3_4B, shapes | images("", 2560))
    found = read_generating(folder)
    stack = replace(
        ours.gemma3_1b().stack,
        vocab_size=262_208,
        num_layers=34,
        model_dim=2560,
        ffn_dim=10_240,
        num_heads=8,
        num_kv_heads=4,
        window=1023,
        global_layers=every_sixth(34),
        max_length=131_072,
        global_rope_scaling=8.0,
    )
    assert found.config == DecoderConfig(stack)
    assert found.config.num_parameters() == sum(
        math.prod(shape) for name, shape in shapes.items() if "vision" not in name
    )
    assert found.notes == (
        "left out 6 tensors that read images: vision_tower.vision_model.embeddings."
        "patch_embedding.weight, vision_tower.vision_model.embeddings.position_embedding.weight, "
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight, "
        "vision_tower.vision_model.post_layernorm.bias, "
        "multi_modal_projector.mm_input_projection_weight and 1 more",
    )


# layers, width, feed-forward, heads, key-value heads, head width
SIZES = {
    "s": (8, 512, 1024, 8, 8, 64),
    "b": (12, 768, 2048, 12, 12, 64),
    "2b": (26, 2304, 9216, 8, 4, 256),
    "9b": (42, 3584, 14_336, 16, 8, 256),
}


@pytest.mark.parametrize(
    ("encoder", "decoder", "parameters"),
    [("s", "s", 312_517_632), ("b", "b", 591_490_560), ("2b", "2b", None), ("9b", "2b", None)],
)
def test_t5gemma(encoder: str, decoder: str, parameters: int | None, tmp_path: Path) -> None:
    config = t5gemma(t5gemma_stack(*SIZES[encoder]), t5gemma_stack(*SIZES[decoder]))
    shapes: Shapes = {}
    for side, kind in (("encoder", "encoder"), ("decoder", "reader")):
        prefix = f"model.{side}."
        shapes |= top(config[side], prefix)
        shapes |= layers(config[side], f"{prefix}layers", kind=kind, query_key_norm=False)
    width = config["encoder"]["hidden_size"]
    for name, shape in shapes.items():
        if "cross_attn.k_proj" in name or "cross_attn.v_proj" in name:
            shapes[name] = (shape[0], width)
    found = read_generating(published(tmp_path / "a", config, shapes))
    assert isinstance(found.config, EncoderDecoderConfig)
    if parameters is not None:
        assert found.config == ours.t5gemma(*SIZES[encoder][:4])
        assert found.config.num_parameters() == parameters
    if encoder == decoder == "2b":  # a recount of the paper's: no tables, no new norms
        new_norms, tables = 26 * 2 * 2304, 2 * 256_000 * 2304
        assert found.config.num_parameters() - tables - new_norms == 4_417_085_952
    assert found.config.decoder.logit_softcap == 30
    assert found.config.encoder.attention_softcap == 50
    assert (found.config.encoder.window, found.config.encoder.global_layers[:2]) == (4095, (1, 3))
    assert not found.notes


def test_t5gemma_2_270m(tmp_path: Path) -> None:
    text, decoder = T5GEMMA2_270M["encoder"]["text_config"], T5GEMMA2_270M["decoder"]
    shapes = top(text, "model.encoder.")
    shapes |= {"model.encoder.embed_tokens.eoi_embedding": (640,)}
    shapes |= layers(text, "model.encoder.layers", kind="encoder", query_key_norm=True)
    shapes |= layers(decoder, "model.decoder.layers", kind="encoder", query_key_norm=True)
    shapes |= {"model.decoder.norm.weight": (640,)} | images("model.encoder.", 640)
    found = read_generating(published(tmp_path / "a", T5GEMMA2_270M, shapes))
    assert isinstance(found.config, EncoderDecoderConfig)
    stack = replace(ours.gemma3_270m().stack, global_rope_scaling=8.0)
    encoder = replace(stack, causal=False, window=255, window_after=256)
    assert found.config == EncoderDecoderConfig(
        encoder, DecoderConfig(stack), cross="merged", tied_embeddings=True
    )
    # the paper's table 2: 168 million in the table, 100 million in each stack
    assert found.config.num_parameters() == 167_772_160 + 2 * 100_326_016
    assert found.notes[0].startswith("left out 7 tensors that read images: ")


def test_what_is_told_of_a_published_folder(tmp_path: Path) -> None:
    shapes = top(GEMMA3_1B, "model.")
    shapes |= layers(GEMMA3_1B, "model.layers", kind="decoder", query_key_norm=True)
    facts = read(published(tmp_path / "a", GEMMA3_1B, shapes))
    assert facts["num_embedding_parameters"] == 262_144 * 1152
    assert (facts["decoder"]["window"], facts["decoder"]["max_length"]) == (511, 32_768)
