"""Keys and values kept while a decoder writes, so that a new token costs one token's work.

Rows are texts being written, `beams` of them for each source or prompt. Their lengths differ, so
each row has its own next position. Keys and values of an encoder are computed once for each source
and shared by its beams.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from culet.model.attention import Attention, attend_masked
from culet.model.batch import TokenBatch
from culet.model.cross_attention import CrossAttention, MergedAttention
from culet.model.decoder import Decoder
from culet.model.encoder import Layer
from culet.model.encoder_decoder import CrossBlock, EncoderDecoder, MergedBlock

_GROWTH = 64  # positions that are added when a cache is full


@dataclass
class Memory:
    """A layer's keys and values of the encoder's states, for every source."""

    key: Float[Tensor, "B G S A"]
    value: Float[Tensor, "B G S A"]


@dataclass
class Cache:
    """Keys and values of every row, by layer.

    Attributes:
        lengths: Tokens of each row so memory.
        own: Keys and values of the rows themselves in each layer, [R, G, room, A] each.
        memory: Those of the encoder in each layer; empty without one.
        present: Which positions of the sources are tokens.
        dtype: Dtype of activations.
    """

    lengths: Int[Tensor, " R"]
    own: list[tuple[Tensor, Tensor]]
    dtype: torch.dtype
    memory: list[Memory] = field(default_factory=list)
    present: Bool[Tensor, "B S"] | None = None

    def repeat(self, beams: int) -> None:
        """Make `beams` rows of each row; they share the memory of their source."""
        self.select(torch.arange(len(self.lengths)).repeat_interleave(beams))

    def select(self, rows: Int[Tensor, " r"], sources: Int[Tensor, " s"] | None = None) -> None:
        """Keep the rows named, in this order and as often as they are named, and some sources."""
        rows = rows.to(self.lengths.device)
        self.lengths = self.lengths[rows]
        self.own = [(key[rows], value[rows]) for key, value in self.own]
        if sources is not None and self.present is not None:
            sources = sources.to(self.lengths.device)
            self.present = self.present[sources]
            self.memory = [Memory(m.key[sources], m.value[sources]) for m in self.memory]

    def store(
        self, layer: int, key: Float[Tensor, "R G A"], value: Float[Tensor, "R G A"]
    ) -> tuple[Float[Tensor, "R G n A"], Float[Tensor, "R G n A"]]:
        """Store the next token's keys and values and return all that are in use."""
        needed = int(self.lengths.max()) + 1
        room = self.own[layer][0].shape[2]
        if room < needed:
            more = (0, 0, 0, max(_GROWTH, needed - room))
            keys, values = self.own[layer]
            self.own[layer] = (F.pad(keys, more), F.pad(values, more))
        row = torch.arange(len(self.lengths), device=self.lengths.device)
        for kept, new in zip(self.own[layer], (key, value), strict=True):
            kept[row, :, self.lengths] = new
        keys, values = self.own[layer]
        return keys[:, :, :needed], values[:, :, :needed]


def prefill(
    model: Decoder, prompts: TokenBatch, *, compute_dtype: torch.dtype
) -> tuple[Float[Tensor, "B D"], Cache]:
    """Return the last state of each prompt, in the caller's order, and the cache after it."""
    stack = model.stack
    packed = torch.argsort(prompts.order)  # the text of the caller at each packed place
    row = packed.repeat_interleave(prompts.lengths)
    own: list[tuple[Tensor, Tensor]] = []
    x = stack.embedded(prompts.ids, compute_dtype)

    for block, rotation in zip(
        stack.blocks, stack.rotations(prompts.positions, x.dtype), strict=True
    ):
        x, kept = _prefill_block(cast(Layer, block), x, rotation, prompts, row)
        own.append(kept)
    last = torch.cumsum(prompts.lengths, dim=0)[prompts.order] - 1
    return stack.final_norm(x[last]), Cache(prompts.lengths[prompts.order], own, compute_dtype)


def _prefill_block(
    block: Layer, x: Tensor, rotation: tuple[Tensor, Tensor], prompts: TokenBatch, row: Tensor
) -> tuple[Float[Tensor, "N D"], tuple[Tensor, Tensor]]:
    """Return the states after a layer, and its keys and values by row."""
    kept: list[Tensor] = []

    def attend(normed: Tensor) -> Tensor:
        query, key, value = block.attention.project(normed, *rotation)
        for each in (key, value):
            shape = (prompts.num_texts, each.shape[1], prompts.runs[-1][0], each.shape[2])
            by_row = each.new_zeros(shape)
            by_row[row, :, prompts.positions] = each
            kept.append(by_row)
        return block.attention.attend_within_texts(query, key, value, prompts)

    return block.feed(block.attend(x, attend)), (kept[0], kept[1])


def read_sources(
    model: EncoderDecoder, sources: TokenBatch, *, compute_dtype: torch.dtype
) -> Cache:
    """Return the cache of decoders that have read their sources and written nothing."""
    encoded = model.encode(sources, compute_dtype=compute_dtype)
    count, longest = sources.num_texts, sources.runs[-1][0]
    row = torch.argsort(sources.order).repeat_interleave(sources.lengths)

    def padded(states: Float[Tensor, "N G A"]) -> Float[Tensor, "B G S A"]:
        out = states.new_zeros(count, states.shape[1], longest, states.shape[2])
        out[row, :, sources.positions] = states
        return out

    stack, memory = model.decoder.stack, []
    for block in stack.blocks:
        source = block.cross if isinstance(block, CrossBlock) else block.attention
        memory.append(
            Memory(*map(padded, cast(CrossAttention | MergedAttention, source).keys(encoded)))
        )
    lengths = sources.lengths[sources.order]
    config = stack.config
    empty = [
        encoded.new_zeros(count, config.heads(layer)[1], 0, config.head_dim)
        for layer in range(config.num_layers)
    ]
    return Cache(
        torch.zeros_like(lengths),
        [(nothing, nothing) for nothing in empty],
        compute_dtype,
        memory,
        torch.arange(longest, device=lengths.device) < lengths[:, None],
    )


def step(
    model: Decoder | EncoderDecoder, ids: Int[Tensor, " R"], cache: Cache
) -> Float[Tensor, "R D"]:
    """Return the last state of each row after one more token, and add that to the cache."""
    stack = model.decoder.stack if isinstance(model, EncoderDecoder) else model.stack
    x = stack.embedded(ids, cache.dtype)
    rotations = stack.rotations(cache.lengths, x.dtype)
    for i, (block, rotation) in enumerate(zip(stack.blocks, rotations, strict=True)):
        x = _step_block(cast(Layer, block), i, x, rotation, cache)
    cache.lengths = cache.lengths + 1
    return stack.final_norm(x)


def _step_block(
    block: Layer, layer: int, x: Tensor, rotation: tuple[Tensor, Tensor], cache: Cache
) -> Float[Tensor, "R D"]:
    merged = isinstance(block, MergedBlock)

    def attend(normed: Tensor) -> Tensor:
        query, key, value = block.attention.project(normed, *rotation)
        keys, values = cache.store(layer, key, value)
        low, seen = _seen(cache.lengths, block.attention.window)
        own = (keys[:, :, low:], values[:, :, low:], seen)
        memory = _memory(cache, layer) if merged else None
        return block.attention.project_out(_attend_row(query, own, memory, block.attention))

    def cross(normed: Tensor) -> Tensor:
        attention = cast(CrossBlock, block).cross
        query = attention.queries(normed)
        return attention.project_out(_attend_row(query, None, _memory(cache, layer), attention))

    x = block.attend(x, attend)
    if isinstance(block, CrossBlock):
        x = block.attend_memory(x, cross)
    return block.feed(x)


def _seen(lengths: Int[Tensor, " R"], window: int | None) -> tuple[int, Bool[Tensor, "R n"]]:
    """Return the first position that any row sees, and which from there on each row sees."""
    first = lengths - window if window is not None else torch.zeros_like(lengths)
    low = max(0, int(first.min()))
    place = torch.arange(low, int(lengths.max()) + 1, device=lengths.device)
    return low, (place >= first[:, None]) & (place <= lengths[:, None])


Seen = tuple[Tensor, Tensor, Tensor]  # keys, values and which of them a query sees


def _memory(cache: Cache, layer: int) -> Seen:
    assert cache.present is not None
    memory = cache.memory[layer]
    return memory.key, memory.value, cache.present


def _attend_row(
    query: Float[Tensor, "R H A"],
    own: Seen | None,
    memory: Seen | None,
    attention: Attention | CrossAttention,
) -> Float[Tensor, "R H A"]:
    """Return what one query a row reads from its own keys, its source's, or both in one softmax."""
    rows, heads, width = query.shape
    groups = attention.num_kv_heads
    by_group = query.view(rows, groups, heads // groups, width)
    scale, softcap = attention.scale, attention.softcap
    if memory is None or own is None:
        key, value, seen = cast(Seen, own if memory is None else memory)
        asked = _shared(by_group, len(key))
        seen = seen[:, None, None, :]
        out = attend_masked(asked, key, value, seen, scale=scale, softcap=softcap)
        return _parted(out, rows).reshape(rows, heads, width)
    scores = []
    for key, _, seen in (memory, own):
        score = (_shared(by_group, len(key)) * scale) @ key.transpose(-1, -2)
        if softcap is not None:
            score = (score / softcap).tanh() * softcap
        score = score.masked_fill(~seen[:, None, None, :], -torch.inf)
        scores.append(_parted(score, rows))
    shares = torch.cat(scores, dim=-1).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    parts = torch.split(shares, [score.shape[-1] for score in scores], dim=-1)
    read = [
        _parted(_shared(part, len(value)) @ value, rows)
        for part, (_, value, _) in zip(parts, (memory, own), strict=True)
    ]
    return (read[0] + read[1]).reshape(rows, heads, width)


def _shared(x: Float[Tensor, "R G r A"], count: int) -> Float[Tensor, "B G k A"]:
    """Return the queries of the rows of each source side by side: k = r · beams."""
    rows, groups, repeat, width = x.shape
    by_source = x.view(count, rows // count, groups, repeat, width).transpose(1, 2)
    return by_source.reshape(count, groups, -1, width)


def _parted(x: Float[Tensor, "B G k A"], rows: int) -> Float[Tensor, "R G r A"]:
    """Undo `_shared`."""
    count, groups, _, width = x.shape
    by_row = x.view(count, groups, rows // count, -1, width).transpose(1, 2)
    return by_row.reshape(rows, groups, -1, width)
