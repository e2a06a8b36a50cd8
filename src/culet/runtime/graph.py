"""The encoder as an OpenVINO graph, built operation by operation from a checkpoint's weights.

What depends on a batch and is not a matrix product is made outside, in numpy: token vectors
(the table stays mapped or quantised), attention masks, pooling weights. So the graph has no
branch but one, and one compiled form for every length. The branch is the attention of local
layers over long texts, which `culet.runtime.banded` makes cheaper.

Inputs, float32 where nothing is said: `embedded` [B, L, D] scaled token vectors; `local_mask` and
`global_mask`, added to attention scores, broadcast to [B, H, L, L]; `in_bands` [], boolean: whether
`local_mask` is that of bands; `pool` [B, 1, L], the weight of each token in its text's mean (with
attention pooling, what is added to its score). Output: `embedding` [B, E], not yet of unit length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as op

from culet.model.config import EmbeddingConfig, EncoderConfig
from culet.runtime.banded import plain, plain_or_banded
from culet.runtime.weights import HEAD, Weights

_F32 = ov.Type.f32


def build(config: EmbeddingConfig, weights: Weights) -> ov.Model:
    """Return the graph of an embedding model.

    Args:
        config: The architecture.
        weights: Its weights, in whatever precision.
    """
    encoder = config.encoder
    embedded = op.parameter([-1, -1, encoder.model_dim], _F32, name="embedded")
    local_mask = op.parameter([-1, 1, -1, -1], _F32, name="local_mask")
    global_mask = op.parameter([-1, 1, -1, -1], _F32, name="global_mask")
    in_bands = op.parameter([], ov.Type.boolean, name="in_bands")
    pool = op.parameter([-1, 1, -1], _F32, name="pool")
    attend = {
        True: lambda q, k, v: plain(q, k, v, global_mask, encoder),
        False: lambda q, k, v: plain_or_banded(q, k, v, local_mask, in_bands, encoder),
    }

    length = op.gather(op.shape_of(embedded), _i64([1]), _i64(0))  # [1]
    tables = {
        True: _rotary(encoder, encoder.global_rope_base, length),
        False: _rotary(encoder, encoder.local_rope_base, length),
    }
    x = embedded
    for layer in range(encoder.num_layers):
        whole = encoder.is_global(layer)
        name = f"blocks.{layer}"
        inside = _norm(x, weights.vector(f"{name}.attention_norm"), encoder.norm_eps)
        out = _attention(encoder, weights, inside, name, attend[whole], tables[whole])
        x = op.add(x, _norm(out, weights.vector(f"{name}.attention_post_norm"), encoder.norm_eps))
        inside = _norm(x, weights.vector(f"{name}.ffn_norm"), encoder.norm_eps)
        out = _feed_forward(weights, inside, name)
        x = op.add(x, _norm(out, weights.vector(f"{name}.ffn_post_norm"), encoder.norm_eps))
    hidden = _norm(x, weights.vector("norm"), encoder.norm_eps)

    if config.pooling == "attention":
        pooled = _attention_pool(config, weights, hidden, pool)
    else:
        pooled = op.squeeze(op.matmul(pool, hidden, False, False), _i64([1]))  # B D
    embedding = weights.linear(pooled, HEAD)
    result = op.result(embedding, name="embedding")
    inputs = [embedded, local_mask, global_mask, in_bands, pool]
    return ov.Model([result], inputs, "culet")


def _attention(
    config: EncoderConfig,
    weights: Weights,
    x: Any,
    name: str,
    attend: Callable[[Any, Any, Any], Any],
    table: tuple[Any, Any],
) -> Any:
    heads, groups, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
    parts = [f"{name}.attention.{part}" for part in ("query", "key", "value")]
    qkv = weights.linear(x, *parts)  # B L (H+2G)A
    qkv = op.reshape(qkv, _i64([0, 0, heads + 2 * groups, head_dim]), True)
    qkv = op.transpose(qkv, _i64([0, 2, 1, 3]))  # B H+2G L A
    split = op.variadic_split(qkv, _i64(1), _i64([heads, groups, groups]))
    query, key, value = split.output(0), split.output(1), split.output(2)
    query = _norm(query, weights.vector(f"{name}.attention.query_norm"), config.norm_eps)
    key = _norm(key, weights.vector(f"{name}.attention.key_norm"), config.norm_eps)
    query, key = _rotate(query, *table, head_dim), _rotate(key, *table, head_dim)
    if groups > 1:
        key, value = (_repeat(x, heads // groups, heads, head_dim) for x in (key, value))
    attended = op.transpose(attend(query, key, value), _i64([0, 2, 1, 3]))  # B L H A
    attended = op.reshape(attended, _i64([0, 0, heads * head_dim]), True)
    return weights.linear(attended, f"{name}.attention.out")


def _feed_forward(weights: Weights, x: Any, name: str) -> Any:
    both = weights.linear(x, f"{name}.ffn.gate", f"{name}.ffn.up")
    split = op.split(both, _i64(-1), 2)
    gated = op.multiply(op.gelu(split.output(0), "tanh"), split.output(1))
    return weights.linear(gated, f"{name}.ffn.down")


def _attention_pool(config: EmbeddingConfig, weights: Weights, hidden: Any, pool: Any) -> Any:
    """Return what the probe gathers from each text, B D (culet.model.pooling.AttentionPool)."""
    heads, dim = config.pooling_heads, config.encoder.model_dim
    shape = _i64([0, 0, heads, dim // heads])
    order = _i64([0, 2, 1, 3])
    key, value = (
        op.transpose(op.reshape(weights.linear(hidden, name), shape, True), order)  # B P L D/P
        for name in ("pool.key", "pool.value")
    )
    probe = op.constant(weights.vector("pool.probe").reshape(1, heads, dim // heads, 1))
    scores = op.squeeze(op.matmul(key, probe, False, False), _i64([3]))  # B P L
    scores = op.add(op.multiply(scores, _f32((dim // heads) ** -0.5)), pool)
    weight = op.unsqueeze(op.softmax(scores, -1), _i64([2]))  # B P 1 L
    gathered = op.matmul(weight, value, False, False)  # B P 1 D/P
    return op.reshape(gathered, _i64([0, dim]), True)


def _norm(x: Any, weight: np.ndarray, eps: float) -> Any:
    """Return x / rms(x) · (1 + weight), in the form that OpenVINO fuses into one operation."""
    mean = op.reduce_mean(op.power(x, _f32(2.0)), _i64([-1]), True)
    root = op.sqrt(op.add(mean, _f32(eps)))
    normed = op.multiply(x, op.divide(_f32(1.0), root))
    return op.multiply(normed, op.constant((1.0 + weight).astype(np.float32)))


def _rotary(config: EncoderConfig, base: float, length: Any) -> tuple[Any, Any]:
    """Return cosine and sine [1, 1, L, A]: constants, since positions do not survive bfloat16."""
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32)
    frequency = (np.float32(base) ** (-exponent / config.head_dim)).astype(np.float32)
    angle = np.arange(config.max_length, dtype=np.float32)[:, None] * frequency[None, :]
    angle = np.concatenate([angle, angle], axis=-1)
    tables = []
    for values in (np.cos(angle), np.sin(angle)):
        table = op.slice(op.constant(values), _i64([0]), length, _i64([1]), _i64([0]))
        tables.append(op.unsqueeze(table, _i64([0, 1])))
    return tables[0], tables[1]


def _rotate(x: Any, cos: Any, sin: Any, head_dim: int) -> Any:
    """Return x·cos + rotate_half(x)·sin."""
    half = head_dim // 2
    split = op.variadic_split(x, _i64(-1), _i64([half, half]))
    turned = op.concat([op.multiply(split.output(1), _f32(-1.0)), split.output(0)], -1)
    return op.add(op.multiply(x, cos), op.multiply(turned, sin))


def _repeat(x: Any, copies: int, heads: int, head_dim: int) -> Any:
    """Return each key or value head `copies` times, side by side: B G L A → B H L A."""
    x = op.tile(op.unsqueeze(x, _i64(2)), _i64([1, 1, copies, 1, 1]))  # B G c L A
    shape = op.shape_of(x)
    length = op.gather(shape, _i64([3]), _i64(0))
    target = op.concat([_i64([0]), _i64([heads]), length, _i64([head_dim])], 0)
    return op.reshape(x, target, True)


def _i64(value: Any) -> Any:
    return op.constant(np.array(value, dtype=np.int64))


def _f32(value: float) -> Any:
    return op.constant(np.array(value, dtype=np.float32))
