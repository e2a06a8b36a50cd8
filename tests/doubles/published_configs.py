"""What the published config.json files of this family say, so far as they say it in fields.

Values only, as found in the public files; weights are not needed to read a config. Fields that
every file repeats (ids, initialisation, dropout) are given once.
"""

from __future__ import annotations

from typing import Any

LOCAL, GLOBAL = "sliding_attention", "full_attention"
USUAL: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-06,
    "use_cache": True,
}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}

# google/gemma-3-1b-pt as it was published, by transformers 4.50
GEMMA3_1B: dict[str, Any] = {
    **USUAL,
    **SPECIAL,
    "architectures": ["Gemma3ForCausalLM"],
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vocab_size": 262144,
}

# google/gemma-3-4b-pt as it was published: what is usual for transformers 4.50 is left out
GEMMA3_4B: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "vision_use_head": False,
    },
}


def t5gemma_stack(
    num_layers: int, width: int, ffn: int, heads: int, kv_heads: int, head_dim: int
) -> dict[str, Any]:
    """Return one side of a T5Gemma, with the fields of t5gemma-2b-2b-ul2's encoder."""
    return {
        **USUAL,
        "attn_logit_softcapping": 50.0,
        "classifier_dropout_rate": 0.0,
        "dropout_rate": 0.0,
        "eos_token_id": [1, 107],
        "final_logit_softcapping": 30.0,
        "head_dim": head_dim,
        "hidden_size": width,
        "intermediate_size": ffn,
        "layer_types": [LOCAL, GLOBAL] * (num_layers // 2),
        "max_position_embeddings": 8192,
        "model_type": "t5_gemma_module",
        "num_attention_heads": heads,
        "num_hidden_layers": num_layers,
        "num_key_value_heads": kv_heads,
        "pad_token_id": 0,
        "query_pre_attn_scalar": head_dim,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "torch_dtype": "bfloat16",
        "vocab_size": 256000,
    }


def t5gemma(encoder: dict[str, Any], decoder: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a T5Gemma of two such sides."""
    return {
        "architectures": ["T5GemmaForConditionalGeneration"],
        "classifier_dropout_rate": 0.0,
        "decoder": {
            **decoder,
            "cross_attention_hidden_size": encoder["hidden_size"],
            "is_decoder": True,
        },
        "dropout_rate": 0.0,
        "encoder": encoder,
        "eos_token_id": [1, 107],
        "initializer_range": 0.02,
        "is_encoder_decoder": True,
        "model_type": "t5gemma",
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.53.0.dev0",
        "use_cache": True,
    }


_ROPES = {
    GLOBAL: {"factor": 8.0, "rope_theta": 1000000, "rope_type": "linear"},
    LOCAL: {"rope_theta": 10000, "rope_type": "default"},
}


def _t5gemma2_stack(model_type: str) -> dict[str, Any]:
    return {
        **USUAL,
        "_sliding_window_pattern": 6,
        "attn_logit_softcapping": None,
        "dropout_rate": 0.0,
        "dtype": "bfloat16",
        "final_logit_softcapping": None,
        "head_dim": 256,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "layer_types": ([LOCAL] * 5 + [GLOBAL]) * 3,
        "max_position_embeddings": 32768,
        "model_type": model_type,
        "num_attention_heads": 4,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256,
        "rope_parameters": _ROPES,
        "sliding_window": 512,
        "use_bidirectional_attention": False,
        "vocab_size": 262144,
    }


# google/t5gemma-2-270m-270m as it was published, by transformers 5.0; fields of any config that
# say nothing of a text model (id2label, prefix and their like) are left out
T5GEMMA2_270M: dict[str, Any] = {
    **SPECIAL,
    "architectures": ["T5Gemma2ForConditionalGeneration"],
    "attention_dropout": 0.0,
    "classifier_dropout_rate": 0.0,
    "decoder": _t5gemma2_stack("t5gemma2_decoder"),
    "dropout_rate": 0.0,
    "dtype": "bfloat16",
    "encoder": {
        "attention_dropout": 0.0,
        "boi_token_index": 255999,
        "dropout_rate": 0.0,
        "dtype": "bfloat16",
        "eoi_token_index": 256000,
        "image_token_index": 256001,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 256,
        "model_type": "t5gemma2_encoder",
        "text_config": {
            **_t5gemma2_stack("t5gemma2_text"),
            **SPECIAL,
            "add_cross_attention": False,
            "cross_attention_hidden_size": None,
            "is_decoder": False,
            "is_encoder_decoder": False,
            "tie_word_embeddings": True,
        },
        "vision_config": {
            "hidden_size": 1152,
            "image_size": 896,
            "intermediate_size": 4304,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_channels": 3,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "vocab_size": 262144,
    },
    "eoi_token_index": 256000,
    "image_token_index": 256001,
    "initializer_range": 0.02,
    "is_encoder_decoder": True,
    "model_type": "t5gemma2",
    "transformers_version": "5.0.0.dev0",
    "vocab_size": 262144,
}
