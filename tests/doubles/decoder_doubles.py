"""Tiny decoders and encoder-decoders, and the same in transformers with the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
from random_checkpoint import random_arrays

from culet.architecture.embedding_config import tiny
from culet.architecture.encoder_config import EncoderConfig
from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig

Arrays = dict[str, np.ndarray]

_LAYER = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "attention.out": "self_attn.o_proj",
    "attention_post_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
    "ffn_post_norm": "post_feedforward_layernorm",
}
_T5_LAYER = _LAYER | {
    "attention_norm": "pre_self_attn_layernorm",
    "attention_post_norm": "post_self_attn_layernorm",
    "cross_norm": "pre_cross_attn_layernorm",
    "cross.query": "cross_attn.q_proj",
    "cross.key": "cross_attn.k_proj",
    "cross.value": "cross_attn.v_proj",
    "cross.out": "cross_attn.o_proj",
    "cross_post_norm": "post_cross_attn_layernorm",
}


def gemma3_like(**changes: Any) -> DecoderConfig:
    """Return a tiny Gemma 3 decoder: norms of heads, shared key heads, a window of 8."""
    stack = replace(tiny().encoder, causal=True, window=8, num_heads=4, num_kv_heads=2)
    return DecoderConfig(replace(stack, **changes))


def gemma2_like(**changes: Any) -> DecoderConfig:
    """Return a tiny Gemma 2 decoder: soft caps, every other layer local."""
    stack = replace(
        gemma3_like().stack,
        num_layers=4,
        global_layers=(1, 3),
        global_rope_base=10_000.0,
        query_key_norm=False,
        attention_softcap=5.0,  # low, so that it bends
    )
    return DecoderConfig(replace(stack, **changes), logit_softcap=3.0)


def t5gemma_like(**changes: Any) -> EncoderDecoderConfig:
    """Return a tiny balanced T5Gemma."""
    decoder = gemma2_like(**changes)
    return EncoderDecoderConfig(replace(decoder.stack, causal=False), decoder)


def t5gemma2_like(**changes: Any) -> EncoderDecoderConfig:
    """Return a tiny T5Gemma 2: tied, merged, its encoder's window 3 before and 4 after."""
    decoder = gemma3_like(**changes)
    encoder = replace(decoder.stack, causal=False, window=3, window_after=4)
    return EncoderDecoderConfig(encoder, decoder, cross="merged", tied_embeddings=True)


def texts_of(*lengths: int, seed: int = 0, vocab: int = 272) -> list[np.ndarray]:
    """Return texts of the given lengths, of ids that are no special tokens."""
    generator = np.random.default_rng(seed)
    return [generator.integers(16, vocab, length) for length in lengths]


def loud_arrays(config: Any, *, seed: int = 0) -> Arrays:
    """Return random weights whose queries and keys are large enough to bend under a soft cap."""
    arrays = random_arrays(config, seed=seed)
    for name in arrays:
        if name.endswith(("attention.query", "cross.query")) and not config_norms(config):
            arrays[name] = arrays[name] * 4
    return arrays


def config_norms(config: DecoderConfig | EncoderDecoderConfig) -> bool:
    stack = config.stack if isinstance(config, DecoderConfig) else config.decoder.stack
    return stack.query_key_norm


# --- the same in transformers --------------------------------------------------------------------


def _sizes(stack: EncoderConfig, *, window: int) -> dict[str, Any]:
    kinds = ["full" if stack.is_global(i) else "sliding" for i in range(stack.num_layers)]
    return {
        "vocab_size": stack.vocab_size,
        "hidden_size": stack.model_dim,
        "intermediate_size": stack.ffn_dim,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": stack.num_heads,
        "num_key_value_heads": stack.num_kv_heads,
        "head_dim": stack.head_dim,
        "query_pre_attn_scalar": round(stack.scale**-2),
        "sliding_window": window,
        "layer_types": [f"{kind}_attention" for kind in kinds],
        "max_position_embeddings": stack.max_length,
        "attn_logit_softcapping": stack.attention_softcap,
        "attention_dropout": 0.0,
    }


def _ropes(stack: EncoderConfig) -> dict[str, Any]:
    whole: dict[str, Any] = {"rope_type": "default", "rope_theta": stack.global_rope_base}
    if stack.global_rope_scaling != 1.0:
        whole |= {"rope_type": "linear", "factor": stack.global_rope_scaling}
    local = {"rope_type": "default", "rope_theta": stack.local_rope_base}
    return {"full_attention": whole, "sliding_attention": local}


def their_decoder(config: DecoderConfig, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return transformers' Gemma 3 or Gemma 2 with our weights."""
    stack = config.stack
    settings = _sizes(stack, window=stack.window + 1) | {
        "final_logit_softcapping": config.logit_softcap,
        "tie_word_embeddings": config.tied_head,
    }
    if stack.query_key_norm:
        shape: Any = transformers.Gemma3TextConfig(**settings, rope_parameters=_ropes(stack))
        model: Any = transformers.Gemma3ForCausalLM(shape)
    else:
        rope = {"rope_type": "default", "rope_theta": stack.local_rope_base}
        shape = transformers.Gemma2Config(**settings, rope_parameters=rope)
        model = transformers.Gemma2ForCausalLM._from_config(shape, attn_implementation="eager")
    names = {name: f"model.{_theirs(name, _LAYER)}" for name in arrays if name != "head"}
    names |= {"head": "lm_head.weight"} if not config.tied_head else {}
    return _filled(model, {names[name]: array for name, array in arrays.items()})


def their_encoder_decoder(config: EncoderDecoderConfig, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return transformers' T5Gemma or T5Gemma 2 with our weights."""
    return (_t5gemma2 if config.cross == "merged" else _t5gemma)(config, arrays)


def _t5gemma(config: EncoderDecoderConfig, arrays: Mapping[str, np.ndarray]) -> Any:
    sides = {}
    for side, stack in (("encoder", config.encoder), ("decoder", config.decoder.stack)):
        # of transformers 5.23, whose encoder sees sliding_window tokens each way
        sides[side] = transformers.T5GemmaModuleConfig(
            **_sizes(stack, window=stack.window + stack.causal),
            rope_parameters={"rope_type": "default", "rope_theta": stack.local_rope_base},
            final_logit_softcapping=config.decoder.logit_softcap,
        )
    shape = transformers.T5GemmaConfig(**sides, vocab_size=config.encoder.vocab_size)
    model = transformers.T5GemmaForConditionalGeneration._from_config(
        shape, attn_implementation="eager"
    )
    theirs = {f"model.{_theirs(name, _T5_LAYER)}": array for name, array in arrays.items()}
    return _filled(model, theirs)


def _t5gemma2(config: EncoderDecoderConfig, arrays: Mapping[str, np.ndarray]) -> Any:
    encoder, stack = config.encoder, config.decoder.stack
    assert encoder.window_after == encoder.window + 1  # of an even sliding_window
    text = transformers.T5Gemma2TextConfig(
        **_sizes(encoder, window=2 * encoder.window + 2), rope_parameters=_ropes(encoder)
    )
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    outside = config.encoder.vocab_size  # no text has the tokens of images
    shape = transformers.T5Gemma2Config(
        encoder={
            "text_config": text.to_dict(),
            "vision_config": {"model_type": "siglip_vision_model", **vision},
            "mm_tokens_per_image": 4,
            "eoi_token_index": outside,
            "boi_token_index": outside,
            "image_token_index": outside,
        },
        decoder=transformers.T5Gemma2DecoderConfig(
            **_sizes(stack, window=stack.window + 1),
            rope_parameters=_ropes(stack),
            final_logit_softcapping=config.decoder.logit_softcap,
        ).to_dict(),
        eoi_token_index=outside,
        image_token_index=outside,
    )
    model = transformers.T5Gemma2ForConditionalGeneration(shape)
    theirs = {
        f"model.{_theirs(name, _T5_LAYER).replace('encoder.', 'encoder.text_model.')}": array
        for name, array in arrays.items()
    }
    return _filled(model, theirs, spare=("vision_tower", "multi_modal", "eoi_embedding"))


def _theirs(name: str, layer: Mapping[str, str]) -> str:
    side, _, rest = name.rpartition("blocks.")
    if rest == name:
        return f"{name.replace('embed', 'embed_tokens')}.weight"
    number, _, part = rest.partition(".")
    return f"{side}layers.{number}.{layer[part]}.weight"


def _filled(model: Any, arrays: Mapping[str, np.ndarray], spare: Sequence[str] = ()) -> Any:
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert unexpected == []
    tied = ("lm_head", "decoder.embed_tokens") if model.config.tie_word_embeddings else ()
    assert [name for name in missing if not any(p in name for p in (*spare, *tied))] == []
    model.tie_weights()
    return model.eval()


def padded(texts: Sequence[np.ndarray], *, left: bool = False) -> dict[str, torch.Tensor]:
    """Return ids and mask as transformers wants them."""
    longest = max(len(text) for text in texts)
    ids, mask = np.zeros((2, len(texts), longest), dtype=np.int64)
    for row, text in enumerate(texts):
        place = slice(longest - len(text), None) if left else slice(len(text))
        ids[row, place], mask[row, place] = text, 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
