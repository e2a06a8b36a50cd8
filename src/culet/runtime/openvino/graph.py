"""The encoder as OpenVINO graphs, built operation by operation from a checkpoint's weights.

What depends on a batch and is not a matrix product is made outside, in numpy: token vectors
(the table stays mapped or quantised), attention masks, pooling weights. So a graph has no branch,
and one compiled form for every length.

`encoder_graph` is the whole model with its weights inside: the fastest. `layer_graph` is one layer
with its weights as inputs, run once a layer: the smallest, see `culet.runtime.openvino.layerwise`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as op

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.encoder_config import EncoderConfig
from culet.runtime.openvino.attention import blockwise, over_text
from culet.runtime.openvino.weights import HEAD, Weights

_F32, _I64 = ov.Type.f32, ov.Type.i64
Attend = Callable[[Any, Any, Any], Any]
Activation = Callable[[Any], Any]


def gelu_by_sigmoid(x: Any) -> Any:
    """Return GELU in its tanh form, x σ(2√(2/π) (x + 0.044715 x³)).

    It is the same, since 1 + tanh(y) = 2 σ(2y), and takes a quarter of the time that OpenVINO's
    own takes in float32 on AVX2.
    """
    factor = 2 * math.sqrt(2 / math.pi)
    square = op.multiply(x, x)
    inner = op.add(op.multiply(square, _f32(0.044715 * factor)), _f32(factor))
    return op.multiply(x, op.sigmoid(op.multiply(x, inner)))


def gelu_in_one(x: Any) -> Any:
    """Return the same by OpenVINO's own operation, which rounds once: for bfloat16."""
    return op.gelu(x, "tanh")


def encoder_graph(
    config: EmbeddingConfig, weights: Weights, *, gelu: Activation = gelu_by_sigmoid
) -> ov.Model:
    """Return the graph of an embedding model.

    Inputs, float32 where nothing is said: `embedded` [B, L, D] scaled token vectors;
    `global_mask`, `local_mask`, `local_reach` int64, `local_width` int64: what tokens see
    (`culet.runtime.openvino.attention.View`); `pool`: see `embedding_of`. Output: `embedding`
    [B, E], not yet of unit length.

    Args:
        config: The architecture.
        weights: Its weights, in whatever precision.
        gelu: What the gate goes through.
    """
    encoder = config.encoder
    embedded = op.parameter([-1, -1, encoder.model_dim], _F32, name="embedded")
    global_mask = op.parameter([-1, 1, -1, -1], _F32, name="global_mask")
    mask, reach, width = view_inputs("local_")
    pool = op.parameter([-1, 1, -1], _F32, name="pool")
    length = op.gather(op.shape_of(embedded), _i64([1]), _i64(0))  # [1]

    def attend(layer: int) -> Attend:
        heads = encoder.heads(layer)
        if encoder.is_global(layer):
            return lambda q, k, v: over_text(q, k, v, global_mask, heads, encoder)
        return lambda q, k, v: blockwise(q, k, v, (mask, reach, width), heads, encoder)

    tables = {
        is_global: _sliced(rotary(encoder, is_global=is_global), length)
        for is_global in (True, False)
    }
    x = embedded
    for layer in range(encoder.num_layers):
        table = tables[encoder.is_global(layer)]
        x = block(encoder, weights, x, layer, attend(layer), table, gelu=gelu)
    result = op.result(embedding_of(config, weights, x, pool), name="embedding")
    inputs = [embedded, global_mask, mask, reach, width, pool]
    return ov.Model([result], inputs, "culet")


def view_inputs(prefix: str) -> tuple[Any, Any, Any]:
    """Return the inputs `mask`, `reach` and `width` of a `View`."""
    mask = op.parameter([-1, 1, -1, -1], _F32, name=f"{prefix}mask")
    reach = op.parameter([-1], _I64, name=f"{prefix}reach")
    return mask, reach, op.parameter([1], _I64, name=f"{prefix}width")


def block(
    config: EncoderConfig,
    weights: Weights,
    x: Any,
    layer: int,
    attend: Attend,
    table: tuple[Any, Any],
    *,
    gelu: Activation = gelu_by_sigmoid,
) -> Any:
    """Return the states after one layer."""
    name, eps = f"blocks.{layer}", config.norm_eps
    if config.heads(layer)[0]:
        inside = _norm(x, weights.vector(f"{name}.attention_norm"), eps)
        out = _attention(config, weights, inside, layer, attend, table)
        x = op.add(x, _norm(out, weights.vector(f"{name}.attention_post_norm"), eps))
    inside = _norm(x, weights.vector(f"{name}.ffn_norm"), eps)
    out = _feed_forward(weights, inside, f"{name}.ffn", gelu)
    return op.add(x, _norm(out, weights.vector(f"{name}.ffn_post_norm"), eps))


def embedding_of(config: EmbeddingConfig, weights: Weights, x: Any, pool: Any) -> Any:
    """Return the embedding [B, E] of the last layer's states.

    Args:
        config: The architecture.
        weights: Its weights.
        x: States [B, L, D].
        pool: The weight of each token in its text's mean [B, 1, L]; with attention pooling, what
            is added to its score.
    """
    hidden = _norm(x, weights.vector("norm"), config.encoder.norm_eps)
    if config.pooling == "attention":
        pooled = _attention_pool(config, weights, hidden, pool)
    else:
        pooled = op.squeeze(op.matmul(pool, hidden, False, False), _i64([1]))  # B D
    return weights.linear(pooled, HEAD)


def rotary(config: EncoderConfig, *, is_global: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and sine [1, 1, max_length, A] of a global or local layer.

    They are made in float32 outside the graph, since positions do not survive bfloat16.
    """
    base = config.global_rope_base if is_global else config.local_rope_base
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32)
    frequency = (np.float32(base) ** (-exponent / config.head_dim)).astype(np.float32)
    angle = np.arange(config.max_length, dtype=np.float32)[:, None] * frequency[None, :]
    angle = np.concatenate([angle, angle], axis=-1)[None, None]
    return np.cos(angle), np.sin(angle)


def _sliced(tables: tuple[np.ndarray, np.ndarray], length: Any) -> tuple[Any, Any]:
    cos, sin = (
        op.slice(op.constant(table), _i64([0]), length, _i64([1]), _i64([2])) for table in tables
    )
    return cos, sin


def _attention(
    config: EncoderConfig,
    weights: Weights,
    x: Any,
    layer: int,
    attend: Attend,
    table: tuple[Any, Any],
) -> Any:
    name, head_dim = f"blocks.{layer}.attention", config.head_dim
    heads, groups = config.heads(layer)
    qkv = weights.linear(x, f"{name}.query", f"{name}.key", f"{name}.value")  # B L (H+2G)A
    qkv = op.reshape(qkv, _i64([0, 0, heads + 2 * groups, head_dim]), True)
    qkv = op.transpose(qkv, _i64([0, 2, 1, 3]))  # B H+2G L A
    split = op.variadic_split(qkv, _i64(1), _i64([heads, groups, groups]))
    query, key, value = split.output(0), split.output(1), split.output(2)
    query = _norm(query, weights.vector(f"{name}.query_norm"), config.norm_eps)
    key = _norm(key, weights.vector(f"{name}.key_norm"), config.norm_eps)
    query, key = _rotate(query, *table, head_dim), _rotate(key, *table, head_dim)
    return weights.linear(attend(query, key, value), f"{name}.out")


def _feed_forward(weights: Weights, x: Any, name: str, gelu: Activation) -> Any:
    split = op.split(weights.linear(x, f"{name}.gate", f"{name}.up"), _i64(-1), 2)
    gated = op.multiply(gelu(split.output(0)), split.output(1))
    return weights.linear(gated, f"{name}.down")


def _attention_pool(config: EmbeddingConfig, weights: Weights, hidden: Any, pool: Any) -> Any:
    """Return what the probe gathers from each text, B D (culet.model.pooling.AttentionPool)."""
    heads, dim = config.pooling_heads, config.encoder.model_dim
    shape = _i64([0, 0, heads, dim // heads])
    order = _i64([0, 2, 1, 3])
    key, value = (
        op.transpose(op.reshape(weights.linear(hidden, name), shape, True), order)  # B P L D/P
        for name in ("pool.key", "pool.value")
    )
    probe = op.reshape(weights.vector("pool.probe"), _i64([1, heads, dim // heads, 1]), False)
    scores = op.squeeze(op.matmul(key, probe, False, False), _i64([3]))  # B P L
    scores = op.add(op.multiply(scores, _f32((dim // heads) ** -0.5)), pool)
    weight = op.unsqueeze(op.softmax(scores, -1), _i64([2]))  # B P 1 L
    gathered = op.matmul(weight, value, False, False)  # B P 1 D/P
    return op.reshape(gathered, _i64([0, dim]), True)


def _norm(x: Any, weight: Any, eps: float) -> Any:
    """Return x / rms(x) · (1 + weight), in the form that OpenVINO fuses into one operation."""
    mean = op.reduce_mean(op.power(x, _f32(2.0)), _i64([-1]), True)
    root = op.sqrt(op.add(mean, _f32(eps)))
    normed = op.multiply(x, op.divide(_f32(1.0), root))
    return op.multiply(normed, op.add(weight, _f32(1.0)))


def _rotate(x: Any, cos: Any, sin: Any, head_dim: int) -> Any:
    """Return x·cos + rotate_half(x)·sin."""
    half = head_dim // 2
    split = op.variadic_split(x, _i64(-1), _i64([half, half]))
    turned = op.concat([op.multiply(split.output(1), _f32(-1.0)), split.output(0)], -1)
    return op.add(op.multiply(x, cos), op.multiply(turned, sin))


def _i64(value: Any) -> Any:
    return op.constant(np.array(value, dtype=np.int64))


def _f32(value: float) -> Any:
    return op.constant(np.array(value, dtype=np.float32))
