"""Attention as graph, over whole texts or in blocks, and the masks that go with it.

A local layer sees `window` tokens each way. Over long texts its queries are cut into blocks, each
with the keys that block can reach: the cost grows with length · (block + 2 window) and not with
length². One graph serves both, without a branch: `reach` names the keys of each block, and over a
short text there is one block that reaches everything. (A branch, OpenVINO's `If`, costs the
scratch memory of both sides in every layer: 150 MB with EmbeddingGemma's shape.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from openvino import opset15 as op

from culet.architecture.encoder_config import EncoderConfig

BLOCK = 128  # queries that share their keys
Heads = tuple[int, int]  # H query heads, G key and value heads
_HIDDEN = np.float32(-1e9)  # added to a score that must not count


@dataclass(frozen=True)
class View:
    """What the queries of a rectangle of B texts may see, in n blocks of W queries with K keys.

    Attributes:
        mask: Added to scores, float32, broadcast to [B·n, heads, W, K].
        reach: Places of the keys of each block, int64 [n·K].
        width: W, int64 [1].
    """

    mask: np.ndarray
    reach: np.ndarray
    width: np.ndarray


def views(inside: np.ndarray, config: EncoderConfig) -> tuple[View, View]:
    """Return what local and what global layers see.

    Args:
        inside: Which places [B, L] hold a token, True.
        config: The window.
    """
    rows, length = inside.shape
    window = config.window
    padding = np.where(inside, np.float32(0), _HIDDEN)
    everywhere = View(padding[:, None, None, :], np.arange(length), np.array([length]))
    if in_blocks(length, config):
        reach, hidden = _reach(length, window)
        near = padding[:, reach].reshape(rows, *hidden.shape[:1], 1, hidden.shape[2])
        mask = np.minimum(near, hidden[None])  # B n W K
        mask = mask.reshape(-1, 1, *hidden.shape[1:])
        return View(mask, reach, np.array([BLOCK])), everywhere
    if length > window + 1:
        near = np.minimum(everywhere.mask, _band(length, window))
        return View(near, everywhere.reach, everywhere.width), everywhere
    return everywhere, everywhere


def in_blocks(length: int, config: EncoderConfig) -> bool:
    """Return whether local layers cut a text of this length into blocks."""
    return length % BLOCK == 0 and BLOCK + 2 * config.window < min(length, config.max_length)


@lru_cache(maxsize=8)
def _band(length: int, window: int) -> np.ndarray:
    """Return the mask [1, 1, L, L] of a local layer: `window` tokens each way."""
    place = np.arange(length)
    hidden = np.abs(place[:, None] - place[None, :]) > window
    return np.where(hidden, _HIDDEN, np.float32(0))[None, None]


@lru_cache(maxsize=8)
def _reach(length: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys [n·K] of blocks of queries, and what they may not see [n, W, K].

    Blocks at the edges name the nearest place again instead of one that is not there, hidden.
    """
    first = np.arange(0, length, BLOCK)[:, None]
    key = first - window + np.arange(BLOCK + 2 * window)[None, :]  # n K
    query = first + np.arange(BLOCK)[None, :]  # n W
    far = np.abs(query[:, :, None] - key[:, None, :]) > window
    absent = (key < 0) | (key >= length)
    hidden = np.where(far | absent[:, None, :], _HIDDEN, np.float32(0))
    return np.clip(key, 0, length - 1).ravel(), hidden


def over_text(
    query: Any, key: Any, value: Any, mask: Any, heads: Heads, config: EncoderConfig
) -> Any:
    """Return softmax(scale · q kᵀ + mask) v as [B, L, H·A].

    Args:
        query: [B, H, L, A].
        key: [B, G, L, A].
        value: [B, G, L, A].
        mask: See `View`.
        heads: H and G.
        config: Width and scale of heads.
    """
    out = _attend(query, key, value, mask, heads, config)
    return op.reshape(out, _i64([0, 0, heads[0] * config.head_dim]), True)


def blockwise(
    query: Any,
    key: Any,
    value: Any,
    view: tuple[Any, Any, Any],
    heads: Heads,
    config: EncoderConfig,
) -> Any:
    """Return the same where queries see what a `View` says."""
    mask, reach, width = view
    dim = config.head_dim
    keys = op.gather(op.shape_of(mask), _i64([3]), _i64(0))

    def blocks(x: Any, count: int, size: Any) -> Any:  # B h n·S A → B·n h S A
        shape = op.concat([_i64([0, count, -1]), size, _i64([dim])], 0)
        if count > 1:
            x = op.transpose(op.reshape(x, shape, True), _i64([0, 2, 1, 3, 4]))
        return op.reshape(x, op.concat([_i64([-1, count]), size, _i64([dim])], 0), False)

    key, value = (blocks(op.gather(x, reach, _i64(2)), heads[1], keys) for x in (key, value))
    out = _attend(blocks(query, heads[0], width), key, value, mask, heads, config)  # B·n W H A
    batch = op.gather(op.shape_of(query), _i64([0]), _i64(0))
    return op.reshape(out, op.concat([batch, _i64([-1, heads[0] * dim])], 0), False)


def _attend(
    query: Any, key: Any, value: Any, mask: Any, heads: Heads, config: EncoderConfig
) -> Any:
    """Return attention as [B, L, H, A]."""
    if 1 < heads[1] < heads[0]:
        key, value = (_repeat(x, heads, config.head_dim) for x in (key, value))
    scale = op.constant(np.array(config.scale, dtype=np.float32))
    out = op.scaled_dot_product_attention(query, key, value, mask, scale, causal=False)
    return op.transpose(out, _i64([0, 2, 1, 3]))


def _repeat(x: Any, heads: Heads, dim: int) -> Any:
    """Return each key or value head for all its query heads, side by side: B G L A → B H L A."""
    x = op.tile(op.unsqueeze(x, _i64(2)), _i64([1, 1, heads[0] // heads[1], 1, 1]))  # B G c L A
    length = op.gather(op.shape_of(x), _i64([3]), _i64(0))
    target = op.concat([_i64([0, heads[0]]), length, _i64([dim])], 0)
    return op.reshape(x, target, True)


def _i64(value: Any) -> Any:
    return op.constant(np.array(value, dtype=np.int64))
