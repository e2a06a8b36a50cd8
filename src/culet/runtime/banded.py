"""Attention as graph: plain, and in bands for local layers over long texts.

A local layer sees `window` tokens each way. Cut into blocks of that size, a block of queries sees
its own block of keys and the two beside it: the cost grows with length · 3 window and not with
length². `mask` and `in_bands` must agree; both come from `masks`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as op

from culet.model.config import EncoderConfig

_HIDDEN = np.float32(-1e9)  # added to a score that must not count


def plain(query: Any, key: Any, value: Any, mask: Any, config: EncoderConfig) -> Any:
    """Return softmax(scale · q kᵀ + mask) v, all [B, heads, L, A]."""
    scale = op.constant(np.array(config.scale, dtype=np.float32))
    return op.scaled_dot_product_attention(query, key, value, mask, scale, causal=False)


def plain_or_banded(
    query: Any, key: Any, value: Any, mask: Any, in_bands: Any, config: EncoderConfig
) -> Any:
    """Return plain attention, or the same in bands where `in_bands` says so."""
    if config.max_length <= 3 * config.window:
        return plain(query, key, value, mask, config)
    choice = op.if_op(in_bands)
    bodies, results = [], []
    for attend in (banded, plain):
        heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        if config.num_kv_heads > 1:  # repeated to match the queries before they come here
            heads = (config.num_heads,) * 3
        inputs = [op.parameter([-1, n, -1, config.head_dim], ov.Type.f32) for n in heads]
        inputs.append(op.parameter([-1, 1, -1, -1], ov.Type.f32))
        result = op.result(attend(inputs[0], inputs[1], inputs[2], inputs[3], config))
        bodies.append((ov.Model([result], inputs, attend.__name__), inputs))
        results.append(result)
    choice.set_then_body(bodies[0][0])
    choice.set_else_body(bodies[1][0])
    for given, then, other in zip(
        (query, key, value, mask), bodies[0][1], bodies[1][1], strict=True
    ):
        output = given if isinstance(given, ov.Output) else given.output(0)
        choice.set_input(output, then, other)
    return choice.set_output(*results)


def banded(query: Any, key: Any, value: Any, mask: Any, config: EncoderConfig) -> Any:
    """Return the attention of a local layer, block by block.

    Args:
        query: [B, H, L, A].
        key: [B, G, L, A].
        value: [B, G, L, A].
        mask: [B·n, 1, window, 3 window], where n blocks of `window` tokens cover L.
        config: Heads and window.
    """
    window = config.window
    shape = op.shape_of(query)
    batch, length = (op.gather(shape, _i64([axis]), _i64(0)) for axis in (0, 2))
    rows = op.gather(op.shape_of(mask), _i64([0]), _i64(0))
    covered = op.multiply(op.divide(rows, batch), _i64([window]))  # n · window
    missing = op.subtract(covered, length)

    def blocks(x: Any, heads: int) -> Any:  # B h n·W A → B·n h W A
        x = op.reshape(x, _i64([0, heads, -1, window, config.head_dim]), True)
        x = op.transpose(x, _i64([0, 2, 1, 3, 4]))
        return op.reshape(x, _i64([-1, heads, window, config.head_dim]), False)

    def padded(x: Any, before: int, after: Any) -> Any:
        end = op.concat([_i64([0, 0]), after, _i64([0])], 0)
        zero = op.constant(np.array(0, dtype=np.float32))
        return op.pad(x, _i64([0, 0, before, 0]), end, "constant", zero)

    def with_neighbours(x: Any, heads: int) -> Any:  # B h L A → B·n h 3W A
        x = padded(x, window, op.add(missing, _i64([window])))
        parts = []
        for first in (0, window, 2 * window):
            stop = op.add(covered, _i64([first]))
            part = op.slice(x, _i64([first]), stop, _i64([1]), _i64([2]))
            parts.append(blocks(part, heads))
        return op.concat(parts, 2)

    groups = config.num_kv_heads if config.num_kv_heads == 1 else config.num_heads
    out = plain(
        blocks(padded(query, 0, missing), config.num_heads),
        with_neighbours(key, groups),
        with_neighbours(value, groups),
        mask,
        config,
    )  # B·n H W A
    heads = _i64([config.num_heads, window, config.head_dim])
    out = op.reshape(out, op.concat([batch, _i64([-1]), heads], 0), False)
    out = op.transpose(out, _i64([0, 2, 1, 3, 4]))  # B H n W A
    whole = op.concat([batch, _i64([config.num_heads, -1, config.head_dim])], 0)
    out = op.reshape(out, whole, False)
    return op.slice(out, _i64([0]), length, _i64([1]), _i64([2]))


def masks(inside: np.ndarray, config: EncoderConfig) -> dict[str, np.ndarray]:
    """Return `local_mask`, `global_mask` and `in_bands` of a rectangle of texts.

    Args:
        inside: Which places [B, L] hold a token, True.
        config: The window.
    """
    rows, length = inside.shape
    window = config.window
    padding = np.where(inside, np.float32(0), _HIDDEN)
    whole = padding[:, None, None, :]  # B 1 1 L
    in_bands = 3 * window < min(length, config.max_length)
    if in_bands:
        blocks = -(-length // window)
        edges = ((0, 0), (window, window + blocks * window - length))
        keys = np.pad(padding, edges, constant_values=_HIDDEN)
        near = np.lib.stride_tricks.sliding_window_view(keys, 3 * window, axis=1)[:, ::window]
        local = np.minimum(near.reshape(rows * blocks, 1, 1, 3 * window), _block_band(window))
    elif length > window + 1:
        local = np.minimum(whole, _band(length, window))
    else:
        local = whole
    return {"local_mask": local, "global_mask": whole, "in_bands": np.array(in_bands)}


@lru_cache(maxsize=8)
def _band(length: int, window: int) -> np.ndarray:
    """Return the mask [1, 1, L, L] of a local layer: `window` tokens each way."""
    place = np.arange(length)
    hidden = np.abs(place[:, None] - place[None, :]) > window
    return np.where(hidden, _HIDDEN, np.float32(0))[None, None]


@lru_cache(maxsize=2)
def _block_band(window: int) -> np.ndarray:
    """Return the same for a block of queries and its three blocks of keys [1, 1, W, 3W]."""
    query, key = np.arange(window)[:, None] + window, np.arange(3 * window)[None, :]
    return np.where(np.abs(query - key) > window, _HIDDEN, np.float32(0))[None, None]


def _i64(value: Any) -> Any:
    return op.constant(np.array(value, dtype=np.int64))
