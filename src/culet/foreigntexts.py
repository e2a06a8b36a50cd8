"""What other libraries call things, as it is written: the small files of a checkpoint folder.

Every setting is written under its old and its new name where they differ, so that
sentence-transformers 5 and 6 and transformers 4.57 and 5 all read the same model.
"""

from __future__ import annotations

import json
from typing import Any

from culet.architecture.embedding_config import EmbeddingConfig
from culet.files.tensors import StoredDtype


def folder_texts(
    config: EmbeddingConfig, *, dtype: StoredDtype, prompts: dict[str, str]
) -> dict[str, str]:
    """Return the small files of a checkpoint folder, path to content."""
    encoder, dim = config.encoder, config.encoder.model_dim
    pooling_type = "sentence_transformers.models.Pooling"
    mode = {"mean": "mean", "first": "cls", "last": "lasttoken"}.get(config.pooling)
    pooling: dict[str, Any] = {
        "word_embedding_dimension": dim,
        "pooling_mode_cls_token": mode == "cls",
        "pooling_mode_mean_tokens": mode == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": mode == "lasttoken",
        "include_prompt": True,
    }
    if mode is None or config.pooling_tokens > 1:
        # No stock module does this: a name of our own makes other readers stop, not guess.
        pooling_type = "culet.CuletPooling"
        pooling = {
            "culet_pooling": {
                "kind": config.pooling,
                "tokens": config.pooling_tokens,
                "heads": config.pooling_heads,
            }
        }
    modules = [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Pooling", pooling_type),
        ("2_Dense", "sentence_transformers.models.Dense"),
        ("3_Dense", "sentence_transformers.models.Dense"),
        ("4_Normalize", "sentence_transformers.models.Normalize"),
    ]
    texts: dict[str, Any] = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": kind}
            for i, (path, kind) in enumerate(modules)
        ],
        "config.json": _model_config(config, dtype),
        "1_Pooling/config.json": pooling,
        "2_Dense/config.json": _dense_config(dim, config.projection_dim),
        "3_Dense/config.json": _dense_config(config.projection_dim, config.embedding_dim),
        "4_Normalize/config.json": {},
        "sentence_bert_config.json": {
            "max_seq_length": encoder.max_length,
            "do_lower_case": False,
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "__version__": {},
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": encoder.max_length,
            "padding_side": "right",
            "pad_token": "<pad>",
            "eos_token": "<eos>",
            "bos_token": "<bos>",
            "unk_token": "<unk>",
            "clean_up_tokenization_spaces": False,
        },
    }
    return {name: json.dumps(value, indent=2) + "\n" for name, value in texts.items()}


def model_card(config: EmbeddingConfig) -> str:
    """Return a short README.md with the metadata the hub reads."""
    return (
        "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\ntags:\n"
        "- sentence-transformers\n- feature-extraction\n- dense\n- culet\n---\n\n"
        f"A bidirectional Gemma 3 text encoder with {config.num_parameters():,} parameters that "
        f"maps text of up to {config.encoder.max_length} tokens to unit vectors of width "
        f"{config.embedding_dim}. Usable widths: {', '.join(map(str, config.widths))}.\n\n"
        '```python\nimport culet\nembedder = culet.load("path/to/this/folder")\n```\n'
    )


def _model_config(config: EmbeddingConfig, dtype: StoredDtype) -> dict[str, Any]:
    encoder = config.encoder
    return {
        "architectures": ["Gemma3TextModel"],
        "model_type": "gemma3_text",
        "vocab_size": encoder.vocab_size,
        "num_hidden_layers": encoder.num_layers,
        "hidden_size": encoder.model_dim,
        "intermediate_size": encoder.ffn_dim,
        "num_attention_heads": encoder.num_heads,
        "num_key_value_heads": encoder.num_kv_heads,
        "head_dim": encoder.head_dim,
        "query_pre_attn_scalar": _whole(encoder.scale**-2),
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": encoder.norm_eps,
        "max_position_embeddings": encoder.max_length,
        "use_bidirectional_attention": True,
        "sliding_window": 2 * encoder.window,
        "layer_types": [
            "full_attention" if encoder.is_global(i) else "sliding_attention"
            for i in range(encoder.num_layers)
        ],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": encoder.global_rope_base},
            "sliding_attention": {"rope_type": "default", "rope_theta": encoder.local_rope_base},
        },
        "rope_theta": encoder.global_rope_base,
        "rope_local_base_freq": encoder.local_rope_base,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "dtype": dtype,
        "torch_dtype": dtype,
        "matryoshka_dimensions": list(config.widths),
        "culet": {"window": encoder.window},
    }


def _dense_config(in_dim: int, out_dim: int) -> dict[str, Any]:
    return {
        "in_features": in_dim,
        "out_features": out_dim,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }


def _whole(value: float) -> float | int:
    return round(value) if abs(value - round(value)) < 1e-6 else value
