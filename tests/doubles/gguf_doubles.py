"""A tiny decoder in a GGUF file, written by the `gguf` package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<unused0>", "<unused1>"]


RUNS = ["\n", "\n\n", "  ", "   ", "<b>"]  # looked for in the raw text; llama.cpp keeps spaces


BYTES = [f"<0x{value:02X}>" for value in range(256)]


LEARNT = ["▁t", "he", "▁the", "in", "▁", "t", "h", "e", "i", "n", "a", "b", ">", "<"]


TOKENS = [*SPECIAL, *RUNS, *BYTES, *LEARNT]


KINDS = [3] * len(SPECIAL) + [4] * len(RUNS) + [6] * len(BYTES) + [1] * len(LEARNT)


SCORES = (
    [-1000.0] * (len(SPECIAL) + len(RUNS)) + [0.0] * 256 + [-float(i) for i in range(len(LEARNT))]
)


LAYERS, DIM, FFN, HEADS, KV, HEAD = 6, 64, 96, 2, 1, 32
METADATA: dict[str, Any] = {
    "context_length": 256,
    "embedding_length": DIM,
    "block_count": LAYERS,
    "feed_forward_length": FFN,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV,
    "attention.key_length": HEAD,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.sliding_window": 8,
    "rope.freq_base": 1e6,
}


def shapes(*, query_key_norm: bool = True) -> dict[str, tuple[int, ...]]:
    named: dict[str, tuple[int, ...]] = {
        "token_embd": (len(TOKENS), DIM),
        "output_norm": (DIM,),
    }
    for i in range(LAYERS):
        named |= {
            f"blk.{i}.attn_q": (HEADS * HEAD, DIM),
            f"blk.{i}.attn_k": (KV * HEAD, DIM),
            f"blk.{i}.attn_v": (KV * HEAD, DIM),
            f"blk.{i}.attn_output": (DIM, HEADS * HEAD),
            f"blk.{i}.ffn_gate": (FFN, DIM),
            f"blk.{i}.ffn_up": (FFN, DIM),
            f"blk.{i}.ffn_down": (DIM, FFN),
        }
        named |= {
            f"blk.{i}.{name}": (DIM,)
            for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        }
        if query_key_norm:
            named |= {f"blk.{i}.{name}": (HEAD,) for name in ("attn_q_norm", "attn_k_norm")}
    return {f"{name}.weight": shape for name, shape in named.items()}


def write(
    path: Path,
    kind: str = "F32",
    *,
    architecture: str = "gemma3",
    metadata: dict[str, Any] | None = None,
    tokenizer: bool = True,
    drop: str = "",
    more: dict[str, np.ndarray] | None = None,
    scores: list[float] = SCORES,
    model: str = "llama",
) -> dict[str, np.ndarray]:
    """Write a tiny decoder; return what its tensors are after quantisation, by name."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (METADATA | (metadata or {})).items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        if value is not None:
            add(f"{architecture}.{key}", value)
    if tokenizer:
        writer.add_tokenizer_model(model)
        writer.add_token_list(TOKENS)
        writer.add_token_scores(scores)
        writer.add_token_types(KINDS)
        writer.add_bos_token_id(2)
        writer.add_unk_token_id(3)
    generator = np.random.default_rng(0)
    expected = {}
    for name, shape in shapes(query_key_norm=architecture == "gemma3").items():
        if name == drop:
            continue
        values = generator.standard_normal(shape).astype(np.float32)
        stored = gguf.GGMLQuantizationType["F32" if len(shape) == 1 else kind]
        raw = gguf.quants.quantize(values, stored)
        writer.add_tensor(name, raw, raw_dtype=stored)
        expected[name] = gguf.quants.dequantize(raw, stored).reshape(shape)
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected
