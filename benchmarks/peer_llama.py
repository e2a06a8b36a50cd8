"""llama.cpp on a checkpoint of culet's: the GGUF file written from it, and the library run on it.

The file is what llama.cpp's own converter makes of EmbeddingGemma with its dense modules: maps and
token table in Q8_0, norms in float32 with the 1 added that Gemma leaves out, and the head in
float32. It has no vocabulary: token ids come from the tokenizer that all contenders share.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

from culet.architecture.embedding_config import EmbeddingConfig
from culet.checkpoints.embedding import read_embedding_model

NAMES = {  # ours in a block: theirs
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "attention.out": "attn_output",
    "attention_post_norm": "post_attention_norm",
    "ffn_norm": "ffn_norm",
    "ffn.gate": "ffn_gate",
    "ffn.up": "ffn_up",
    "ffn.down": "ffn_down",
    "ffn_post_norm": "post_ffw_norm",
}
OUTSIDE = {"embed": "token_embd", "norm": "output_norm", "up": "dense_2", "down": "dense_3"}
ROWS = 16_384  # quantised at a time: the token table alone is 800 MB
SEQUENCES = 64  # texts a batch, at most


class LlamaCpp:
    """One context of llama.cpp on a CPU.

    Args:
        path: A file of `write_gguf`.
        threads: Threads.
        tokens: Tokens of a batch, at most; also the longest text.
        flash: Whether attention is computed in one operation.
    """

    def __init__(self, path: Path, *, threads: int, tokens: int, flash: bool = True) -> None:
        logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if self._model is None:
            raise RuntimeError(f"llama.cpp could not load {path}")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = tokens
        settings.n_seq_max = SEQUENCES
        settings.kv_unified = True
        settings.n_threads = settings.n_threads_batch = threads
        settings.embeddings = True
        settings.flash_attn_type = int(flash)
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if self._context is None:
            raise RuntimeError(f"llama.cpp could not make a context for {path}")
        self._width = llama_cpp.llama_model_n_embd(self._model)
        self._batch = llama_cpp.llama_batch_init(tokens, 0, 1)

    def __call__(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the vectors of texts that fit into one batch, float32 [B, E], of unit length."""
        lengths = [len(text) for text in texts]
        total, batch = sum(lengths), self._batch
        batch.n_tokens = total
        _fill(batch.token, np.concatenate(texts))
        _fill(batch.pos, np.concatenate([np.arange(length) for length in lengths]))
        _fill(batch.n_seq_id, np.ones(total))
        for place, text in enumerate(np.repeat(np.arange(len(texts)), lengths).tolist()):
            batch.seq_id[place][0] = text
        ctypes.memset(batch.logits, 1, total)  # every token is part of a mean
        status = llama_cpp.llama_encode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama.cpp stopped with status {status}")
        vectors = np.stack(
            [
                np.ctypeslib.as_array(
                    llama_cpp.llama_get_embeddings_seq(self._context, i), (self._width,)
                )
                for i in range(len(texts))
            ]
        )
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def write_gguf(folder: Path, path: Path) -> None:
    """Write a checkpoint with mean pooling as a GGUF file in Q8_0, head included.

    Raises:
        ValueError: If llama.cpp could not run such a model.
    """
    checkpoint = read_embedding_model(folder)
    config = checkpoint.config
    if config.pooling != "mean" or config.embedding_dim != config.encoder.model_dim:
        raise ValueError("llama.cpp needs mean pooling, and vectors as wide as the model")
    writer = gguf.GGUFWriter(path, "gemma-embedding")
    _describe(writer, config)
    for name, array in _tensors(checkpoint.arrays(), config.encoder.num_layers).items():
        if array.ndim == 1:
            writer.add_tensor(name, array + np.float32(1))
        elif name.startswith("dense"):  # in Q8_0 the head alone would cost most of the cosine
            writer.add_tensor(name, array)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            coded = [gguf.quants.quantize(part, kind) for part in _parts(array)]
            writer.add_tensor(name, np.concatenate(coded), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: EmbeddingConfig) -> None:
    encoder = config.encoder
    period = encoder.global_layers[0] + 1
    if encoder.global_layers != tuple(range(period - 1, encoder.num_layers, period)):
        raise ValueError(f"llama.cpp needs global layers at a period, got {encoder.global_layers}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_block_count(encoder.num_layers)
    writer.add_context_length(encoder.max_length)
    writer.add_embedding_length(encoder.model_dim)
    writer.add_feed_forward_length(encoder.ffn_dim)
    writer.add_head_count(encoder.num_heads)
    writer.add_head_count_kv(encoder.num_kv_heads)
    writer.add_key_length(encoder.head_dim)
    writer.add_value_length(encoder.head_dim)
    writer.add_layer_norm_rms_eps(encoder.norm_eps)
    writer.add_sliding_window(2 * encoder.window)  # half of it on each side
    writer.add_sliding_window_pattern(period)
    writer.add_rope_freq_base(encoder.global_rope_base)
    writer.add_rope_freq_base_swa(encoder.local_rope_base)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_dense_features_dims("dense_2", encoder.model_dim, config.projection_dim)
    writer.add_dense_features_dims("dense_3", config.projection_dim, config.embedding_dim)
    writer.add_vocab_size(encoder.vocab_size)
    writer.add_tokenizer_model("none")


def _tensors(weights: Mapping[str, np.ndarray], layers: int) -> dict[str, np.ndarray]:
    """Return the weights under llama.cpp's names."""
    named = {f"{theirs}.weight": weights[ours] for ours, theirs in OUTSIDE.items()}
    for layer in range(layers):
        for ours, theirs in NAMES.items():
            named[f"blk.{layer}.{theirs}.weight"] = weights[f"blocks.{layer}.{ours}"]
    return named


def _parts(array: np.ndarray) -> list[np.ndarray]:
    return [array[first : first + ROWS] for first in range(0, len(array), ROWS)]


def _fill(target: Any, values: np.ndarray) -> None:
    held = np.ascontiguousarray(values, dtype=np.int32)
    ctypes.memmove(target, held.ctypes.data, held.nbytes)
