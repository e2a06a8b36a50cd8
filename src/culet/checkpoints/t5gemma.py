"""Encoder-decoders on disk: T5Gemma's folder, T5Gemma 2's, and one of our own.

T5GemmaForConditionalGeneration holds cross-attention as a sub-layer, without norms of queries and
keys; T5Gemma2ForConditionalGeneration holds merged attention with them and one table for all. Every
other combination is written as CuletEncoderDecoder with T5Gemma's tensor names.

T5Gemma 2 reads images, and transformers builds its vision tower from the config in any case. A
folder written here has the smallest possible tower, all zeros, so that transformers finds every
tensor it looks for; texts give the same logits, images cannot be read. The tower of a published
folder is left out when it is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from culet.architecture.generating_config import EncoderDecoderConfig
from culet.checkpoints.checkpoint import (
    Contents,
    EncoderDecoderCheckpoint,
    Layout,
    read_folder,
)
from culet.checkpoints.families import (
    T5GEMMA,
    T5GEMMA2_DECODER,
    T5GEMMA2_ENCODER,
    read_decoder,
    read_stack,
    writable,
    write_decoder,
    write_stack,
)
from culet.checkpoints.folder import generating_files
from culet.checkpoints.json_fields import table
from culet.checkpoints.own_config import own_decoder, own_table, read_own, read_own_decoder
from culet.errors import CheckpointError
from culet.files.tensors import StoredDtype

_FIRST = "T5GemmaForConditionalGeneration"
_SECOND = "T5Gemma2ForConditionalGeneration"
_OWN = "CuletEncoderDecoder"
ARCHITECTURES = (_FIRST, _SECOND, _OWN)
_IMAGES = tuple(f"model.encoder.{part}" for part in ("vision_tower.", "multi_modal_projector."))
_END_OF_IMAGE = "embed_tokens.eoi_embedding"
_NO_TOKEN = -1  # no token is the end of an image
_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1,
    "intermediate_size": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_channels": 1,
    "image_size": 1,
    "patch_size": 1,
    "vision_use_head": False,
}


def read_encoder_decoder(path: Path | str) -> EncoderDecoderCheckpoint:
    """Return the encoder-decoder in a folder, with everything about it checked.

    Raises:
        CheckpointError: If the architecture is not known, a file is missing or damaged, weights
            are missing or too many, or config, weights and tokenizer do not fit together.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder; expected one with a config.json")
    return read_folder(path, ARCHITECTURES, _config, _layout)


def contents(
    config: EncoderDecoderConfig, arrays: Mapping[str, np.ndarray], dtype: StoredDtype
) -> Contents:
    """Return what the folder of an encoder-decoder holds."""
    layout, name, stack = _layout(config), _architecture_of(config), config.decoder.stack
    written = {_FIRST: _first_config, _SECOND: _second_config, _OWN: _own_config}[name](config)
    stated = {"architectures": [name], **written, "is_encoder_decoder": True, "dtype": dtype}
    weights = {disk: arrays[weight] for weight, disk in layout.names.items()}
    return Contents(
        weights={"": weights | (_no_images(stack.model_dim) if name == _SECOND else {})},
        texts=generating_files(stated, stack.max_length),
        rows=layout.rows,
    )


def _config(raw: Mapping[str, Any], name: str, where: Path) -> EncoderDecoderConfig:
    encoder, decoder = (table(raw, part, where) for part in ("encoder", "decoder"))
    if name == _OWN:
        own = table(raw, "culet", where)
        if own.get("cross") not in ("separate", "merged"):
            raise CheckpointError(
                f"{where}: cross must be 'separate' or 'merged', got {own.get('cross')!r}"
            )
        return EncoderDecoderConfig(
            read_own(own.get("encoder"), where),
            read_own_decoder(own, "decoder", where),
            cross=own["cross"],
            tied_embeddings=own.get("tied_embeddings", False) is True,
        )
    tied = raw.get("tie_word_embeddings", True) is not False
    if name == _FIRST:
        return EncoderDecoderConfig(
            read_stack(encoder, T5GEMMA, causal=False, where=where),
            read_decoder(decoder, T5GEMMA, tied_head=tied, where=where),
        )
    if not tied:
        raise CheckpointError(f"{where}: tie_word_embeddings must be true in {_SECOND}, got false")
    text = table(encoder, "text_config", where)
    return EncoderDecoderConfig(
        read_stack(text, T5GEMMA2_ENCODER, causal=False, where=where),
        read_decoder(decoder, T5GEMMA2_DECODER, where=where),
        cross="merged",
        tied_embeddings=True,
    )


def _architecture_of(config: EncoderDecoderConfig) -> str:
    """Return the architecture under which a folder of this model is written."""
    if config.cross == "separate" and not config.tied_embeddings:
        name, encoder, decoder = _FIRST, T5GEMMA, T5GEMMA
    elif config.cross == "merged" and config.tied_embeddings:
        name, encoder, decoder = _SECOND, T5GEMMA2_ENCODER, T5GEMMA2_DECODER
    else:
        return _OWN
    fits = writable(config.encoder, encoder) and writable(config.decoder.stack, decoder)
    return name if fits and not config.encoder.causal else _OWN


def _first_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    encoder = write_stack(config.encoder, T5GEMMA) | {"is_decoder": False}
    decoder = write_decoder(config.decoder, T5GEMMA) | {
        "is_decoder": True,
        "cross_attention_hidden_size": config.encoder.model_dim,
        "tie_word_embeddings": config.decoder.tied_head,
    }
    return {
        "model_type": "t5gemma",
        "encoder": encoder,
        "decoder": decoder,
        "vocab_size": config.decoder.stack.vocab_size,
        "tie_word_embeddings": config.decoder.tied_head,
    }


def _second_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    images = {"eoi_token_index": _NO_TOKEN, "boi_token_index": _NO_TOKEN}
    images |= {"image_token_index": _NO_TOKEN}
    return {
        "model_type": "t5gemma2",
        "encoder": {
            "model_type": "t5gemma2_encoder",
            "text_config": write_stack(config.encoder, T5GEMMA2_ENCODER),
            "vision_config": _VISION,
            "mm_tokens_per_image": 1,
            **images,
        },
        "decoder": write_decoder(config.decoder, T5GEMMA2_DECODER),
        "eoi_token_index": _NO_TOKEN,
        "image_token_index": _NO_TOKEN,
        "tie_word_embeddings": True,
    }


def _own_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    return {
        "model_type": "culet_encoder_decoder",
        "culet": {
            "encoder": own_table(config.encoder),
            **own_decoder(config.decoder, "decoder"),
            "cross": config.cross,
            "tied_embeddings": config.tied_embeddings,
        },
    }


def _layout(config: EncoderDecoderConfig) -> Layout:
    """Return how an encoder-decoder's weights lie in a folder."""
    table_of_decoder = "encoder.embed" if config.tied_embeddings else "decoder.embed"
    copies = ["model.decoder.embed_tokens.weight"] if config.tied_embeddings else []
    copies += ["lm_head.out_proj.weight"] if config.decoder.tied_head else []
    return Layout(
        names={name: _disk_name(name) for name in config.weight_shapes()},
        rows=min(config.encoder.vocab_size, config.decoder.stack.vocab_size),
        copies=dict.fromkeys(copies, table_of_decoder),
        renamed=lambda full: full.replace("model.encoder.text_model.", "model.encoder.", 1),
        reads_images=lambda full: full.startswith(_IMAGES) or full.endswith(_END_OF_IMAGE),
    )


def _disk_name(name: str) -> str:
    side, _, rest = name.partition(".")
    if rest == "head":
        return "lm_head.out_proj.weight"
    return f"model.{side}.{T5GEMMA.disk_name(rest)}"


def _no_images(model_dim: int) -> dict[str, np.ndarray]:
    """Return a vision tower of one layer, one wide, all zeros, under T5Gemma 2's names."""
    tower = "model.encoder.vision_tower"
    layer = f"{tower}.encoder.layers.0"
    linear = [f"{layer}.self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
    linear += [f"{layer}.mlp.fc1", f"{layer}.mlp.fc2"]
    norms = [f"{layer}.layer_norm1", f"{layer}.layer_norm2", f"{tower}.post_layernorm"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.encoder.embed_tokens.eoi_embedding": (model_dim,),
        "model.encoder.multi_modal_projector.mm_input_projection_weight": (1, model_dim),
        "model.encoder.multi_modal_projector.mm_soft_emb_norm.weight": (1,),
        f"{tower}.embeddings.patch_embedding.weight": (1, 1, 1, 1),
        f"{tower}.embeddings.patch_embedding.bias": (1,),
        f"{tower}.embeddings.position_embedding.weight": (1, 1),
    }
    shapes |= {f"{name}.weight": (1, 1) for name in linear}
    shapes |= {f"{name}.bias": (1,) for name in (*linear, *norms)}
    shapes |= {f"{name}.weight": (1,) for name in norms}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
