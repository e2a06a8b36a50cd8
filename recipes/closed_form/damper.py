"""One attention layer, made by construction, that lets a repeated token count less.

A row of the token table is [pad | constant | bos | damp | sink | signature | content]. In the one
head, a token asks for its own signature, which its repetitions share, and for <bos>, whose logit
is higher by ln(1 / r): a token that occurs n times finds itself with weight n·r / (1 + n·r) and
<bos> with the rest. The norm after attention makes a unit vector of these two, and lets only the
first through, with a gain, into `damp`. The norm before the pooling then divides content by
√(1 + (gain · n·r)² / (1 + (n·r)²)). With r = 0.15 and gain 4 an occurrence counts by about n^-0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.encoder_config import EncoderConfig

PAD, CONSTANT, BOS_MARK, DAMP, SINK = range(5)
SIGNATURE = 5  # the first of its coordinates
SIGNS = 24
CONTENT = SIGNATURE + SIGNS
HEAD_DIM = 128
MULTIPLE = 32  # of the model's width
_SQUARED_NORM = 3  # of a row: constant 1, signature or mark 1, content and pad together 1
_NOISE = 1e-5  # no weight is zero, so that no reader takes the matrices for empty ones


@dataclass(frozen=True)
class Damping:
    """How strongly repetitions count less.

    Attributes:
        repeat: r, the weight of one repetition against that of <bos>.
        logit: Of a query that equals its key; how far attention is from other tokens.
        gain: Of what reaches the damping coordinate.
    """

    repeat: float = 0.15
    logit: float = 30.0
    gain: float = 4.0

    def constant_query(self) -> float:
        """Return the query's part along <bos>, with the signature's part 1.

        Queries have one length: at angle t a token's logit is logit · sin t, that of <bos> is
        logit · cos t.
        """
        higher = math.log(1 / self.repeat)
        angle = brentq(
            lambda t: self.logit * (math.cos(t) - math.sin(t)) - higher, 0.0, math.pi / 4
        )
        return 1 / math.tan(angle)


def within_unit(content: np.ndarray, quantile: float = 0.999) -> np.ndarray:
    """Return rows scaled together until all but the longest fit the unit ball, and those cut."""
    norms = np.linalg.norm(content, axis=1)
    content = content / np.quantile(norms[norms > 0], quantile)
    scaled: np.ndarray = content / np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1)
    return scaled.astype(np.float32)


def token_table(content: np.ndarray, bos: int, seed: int = 1) -> np.ndarray:
    """Return rows of one length [V, D] with content [V, C] of at most length 1 in its place.

    Signatures are random signs: those of two tokens are alike by 0 ± SIGNS^-0.5.
    """
    vocab, width = content.shape
    table = np.zeros((vocab, -(-(CONTENT + width) // MULTIPLE) * MULTIPLE), np.float32)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (vocab, SIGNS))
    table[:, SIGNATURE:CONTENT] = signs / math.sqrt(SIGNS)
    table[bos, SIGNATURE:CONTENT] = 0
    table[bos, BOS_MARK] = 1
    table[:, CONSTANT] = 1
    table[:, CONTENT : CONTENT + width] = content
    table[:, PAD] = np.sqrt(np.maximum(_SQUARED_NORM - np.square(table).sum(1), 0))
    return table


def model_config(
    vocab: int, model_dim: int, widths: tuple[int, ...], *, max_length: int = 2048
) -> EmbeddingConfig:
    """Return one layer with one head that sees the whole text."""
    encoder = EncoderConfig(
        vocab_size=vocab,
        num_layers=1,
        model_dim=model_dim,
        ffn_dim=MULTIPLE,
        num_heads=1,
        num_kv_heads=1,
        head_dim=HEAD_DIM,
        window=256,
        global_layers=(0,),
        max_length=max_length,
    )
    return EmbeddingConfig(
        encoder=encoder, projection_dim=widths[0], embedding_dim=widths[0], widths=widths
    )


def attention(model_dim: int, damping: Damping) -> dict[str, np.ndarray]:
    """Return query, key, value and output of the head."""
    rng = np.random.default_rng(3)
    shapes = dict.fromkeys(("query", "key", "value"), (HEAD_DIM, model_dim))
    maps = {
        name: (rng.standard_normal(shape) * _NOISE).astype(np.float32)
        for name, shape in {**shapes, "out": (model_dim, HEAD_DIM)}.items()
    }
    # Numbers i and i + HEAD_DIM / 2 turn together with the position; the last pairs hardly turn.
    half, pairs = HEAD_DIM // 2, SIGNS // 2
    slow = np.concatenate([np.arange(half - pairs, half), np.arange(2 * half - pairs, 2 * half)])
    for place, number in enumerate(slow):
        maps["query"][number, SIGNATURE + place] = 1
        maps["key"][number, SIGNATURE + place] = 1
    constant = half - pairs - 1
    maps["query"][constant, CONSTANT] = damping.constant_query()
    maps["key"][constant, BOS_MARK] = 1
    maps["value"][0, BOS_MARK] = 1  # the weight of <bos>
    maps["value"][1, CONSTANT] = 1  # the weight of all others
    maps["value"][1, BOS_MARK] = -1
    maps["out"][SINK, 0] = 1
    maps["out"][DAMP, 1] = 1
    return maps


def model_weights(
    config: EmbeddingConfig, table: np.ndarray, head: np.ndarray, damping: Damping
) -> dict[str, np.ndarray]:
    """Return all weights; `head` [C, E] maps content to the vector."""
    dim = config.encoder.model_dim
    logit_norm = math.sqrt(damping.logit / math.sqrt(HEAD_DIM)) - 1
    post = np.full(dim, -1.0)
    post[DAMP] = damping.gain * math.sqrt(_SQUARED_NORM) - 1
    up = np.zeros((head.shape[1], dim))
    up[:, CONTENT : CONTENT + head.shape[0]] = head.T
    known = {
        "embed": table,
        "up": up,
        "down": np.eye(head.shape[1]),
        "blocks.0.attention.query_norm": np.full(HEAD_DIM, logit_norm),
        "blocks.0.attention.key_norm": np.full(HEAD_DIM, logit_norm),
        "blocks.0.attention_post_norm": post,
        "blocks.0.ffn_post_norm": np.full(dim, -1.0),  # the feed-forward layer is silent
        **{f"blocks.0.attention.{name}": a for name, a in attention(dim, damping).items()},
    }
    rng, weights = np.random.default_rng(0), {}
    for name, shape in config.weight_shapes().items():
        if name not in known:  # norms that change nothing, and the feed-forward layer's maps
            own = rng.standard_normal(shape) * shape[-1] ** -0.5
            known[name] = np.zeros(shape) if len(shape) == 1 else own
        weights[name] = np.asarray(known[name], np.float32)
    return weights
