"""Decoding with a decoder or an encoder-decoder: greedy and beam search over a cache.

Beam search follows the defaults of transformers, so that outputs can be compared: 2 · beams
candidates a step, finished texts scored by log-probability / length^length_penalty, and a text is
done when no running beam's score at its present length beats the worst of its finished ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from culet.errors import CheckpointError, InputError
from culet.generation.kv_cache import Cache, prefill, read_sources, step
from culet.model.batch import BOS, pack
from culet.model.decoder import Decoder
from culet.model.encoder_decoder import EncoderDecoder

_NEVER = -1e9


@dataclass(frozen=True)
class GenerationConfig:
    """How text is decoded.

    Attributes:
        max_new_tokens: Limit on the tokens of a text, the one that ends it included.
        beams: Texts kept at each step; 1 is greedy.
        length_penalty: A finished beam's log-probability is divided by its length to this power.
        eos: Tokens that end a text.
        bos: The token that the decoder of an encoder-decoder begins with.
        batch_size: Sources or prompts in a batch.
    """

    max_new_tokens: int = 64
    beams: int = 1
    length_penalty: float = 1.0
    eos: tuple[int, ...] = (1,)
    bos: int = BOS
    batch_size: int = 32

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.beams, self.batch_size) < 1:
            raise InputError(
                "max_new_tokens, beams and batch_size must be at least 1, got "
                f"{self.max_new_tokens}, {self.beams} and {self.batch_size}"
            )


@dataclass(frozen=True)
class Generated:
    """A text that a model wrote.

    Attributes:
        ids: Its tokens, without the prompt and without the token that ended it.
        log_probability: Sum over its tokens and the one that ended it.
        ended: Whether the model ended it, and not `max_new_tokens`.
    """

    ids: np.ndarray
    log_probability: float
    ended: bool


def generate(
    model: Decoder | EncoderDecoder,
    texts: Sequence[np.ndarray | Sequence[int]],
    config: GenerationConfig | None = None,
    *,
    compute_dtype: torch.dtype = torch.float32,
    done: Callable[[int], None] | None = None,
) -> list[Generated]:
    """Return what a model writes for each text, in the order of the texts.

    Args:
        model: A decoder continues its prompts; an encoder-decoder answers its sources.
        texts: Token ids of prompts or sources, of any lengths; the longest are decoded first.
        config: Settings; greedy with 64 tokens if left out.
        compute_dtype: Dtype of activations.
        done: Called after each batch with its number of texts.

    Raises:
        InputError: If a text has no token, or would exceed the length that the model was made for.
        CheckpointError: If the weights give logits that are not finite.
    """
    config = config or GenerationConfig()
    _check_lengths(model, texts, config)
    device = next(model.parameters()).device
    longest_first = np.argsort([-len(text) for text in texts], kind="stable")
    written: dict[int, Generated] = {}
    for start in range(0, len(texts), config.batch_size):
        part = longest_first[start : start + config.batch_size]
        with torch.inference_mode():
            batch = pack([texts[i] for i in part]).to(device)
            if isinstance(model, EncoderDecoder):
                cache = read_sources(model, batch, compute_dtype=compute_dtype)
                hidden = step(model, torch.full((len(part),), config.bos, device=device), cache)
            else:
                hidden, cache = prefill(model, batch, compute_dtype=compute_dtype)
            write = _greedy if config.beams == 1 else _beams
            written |= dict(zip(part.tolist(), write(model, hidden, cache, config), strict=True))
        if done is not None:
            done(len(part))
    return [written[i] for i in range(len(texts))]


def _check_lengths(
    model: Decoder | EncoderDecoder,
    texts: Sequence[np.ndarray | Sequence[int]],
    config: GenerationConfig,
) -> None:
    longest = max((len(text) for text in texts), default=0)
    if isinstance(model, EncoderDecoder):
        room, needed = model.config.decoder.stack.max_length, config.max_new_tokens
        if longest > model.config.encoder.max_length:
            raise InputError(
                f"a source has {longest} tokens, and the encoder was made for "
                f"{model.config.encoder.max_length}; cut it"
            )
    else:
        room, needed = model.config.stack.max_length, longest + config.max_new_tokens
    if needed > room:
        raise InputError(
            f"prompt and new tokens may come to {needed}, and the decoder was made for {room}; "
            "cut the prompt or lower max_new_tokens"
        )


def _scores(model: Decoder | EncoderDecoder, hidden: Tensor) -> Float[Tensor, "R V"]:
    """Return the log-probability of every next token; refuse weights that give none."""
    scores = model.logits(hidden).float().log_softmax(dim=-1)
    if scores[:, 0].isnan().any():  # one logit that is not finite makes NaN of its whole row
        raise CheckpointError(
            "the model gives logits that are not finite; its weights or its config.json are "
            "damaged: take the model again"
        )
    return scores


def _ends(ids: Tensor, config: GenerationConfig) -> Bool[Tensor, "*R"]:
    return torch.isin(ids, torch.tensor(config.eos, device=ids.device))


def _greedy(
    model: Decoder | EncoderDecoder, hidden: Tensor, cache: Cache, config: GenerationConfig
) -> list[Generated]:
    """Take the most probable token at each step; texts that are done leave the batch."""
    open_rows = torch.arange(len(hidden), device=hidden.device)
    ids: list[list[int]] = [[] for _ in range(len(hidden))]
    total, ended = [0.0] * len(hidden), [False] * len(hidden)
    for written in range(1, config.max_new_tokens + 1):
        best, token = _scores(model, hidden).max(dim=-1)
        stops = _ends(token, config)
        taken = zip(open_rows.tolist(), token.tolist(), best.tolist(), stops.tolist(), strict=True)
        for row, each, score, stop in taken:
            total[row] += score
            ended[row] = stop
            if not stop:
                ids[row].append(each)
        going = (~stops).nonzero().flatten()
        if not len(going) or written == config.max_new_tokens:
            break
        if len(going) < len(stops):
            cache.select(going, going)
            open_rows, token = open_rows[going], token[going]
        hidden = step(model, token, cache)
    return [
        Generated(np.array(i, np.int64), t, e) for i, t, e in zip(ids, total, ended, strict=True)
    ]


@dataclass
class _Search:
    """Beams of B texts: the running ones and the best of the finished ones.

    `ids` and `done_ids` hold n tokens a beam; `open` is whether a better text may still be found.
    """

    ids: Int[Tensor, "B K n"]
    score: Float[Tensor, "B K"]
    done_ids: Int[Tensor, "B K n"]
    done_score: Float[Tensor, "B K"]
    done_length: Int[Tensor, "B K"]
    open: Bool[Tensor, " B"]


def _beams(
    model: Decoder | EncoderDecoder, hidden: Tensor, cache: Cache, config: GenerationConfig
) -> list[Generated]:
    """Keep the `beams` most probable texts at each step."""
    count, beams, device = len(hidden), config.beams, hidden.device
    cache.repeat(beams)
    hidden = hidden.repeat_interleave(beams, dim=0)
    score = torch.full((count, beams), _NEVER, device=device)
    score[:, 0] = 0.0  # all beams are still the same text: only one counts
    none = torch.zeros(count, beams, 0, dtype=torch.int64, device=device)
    never = torch.full((count, beams), _NEVER, device=device)
    search = _Search(none, score, none, never, none.sum(-1), torch.ones(count, dtype=torch.bool))
    search.open = search.open.to(device)
    for written in range(1, config.max_new_tokens + 1):
        scores = _scores(model, hidden).view(count, beams, -1) + search.score[:, :, None]
        parents = _advance(search, scores, written, config)
        if written == config.max_new_tokens or not search.open.any():
            break
        first = torch.arange(count, device=device)[:, None] * beams
        cache.select((first + parents).flatten())
        hidden = step(model, search.ids[:, :, -1].flatten(), cache)
    return [_best(search, i, config) for i in range(count)]


def _advance(
    search: _Search, scores: Float[Tensor, "B K V"], written: int, config: GenerationConfig
) -> Int[Tensor, "B K"]:
    """Take the `written`-th token of every beam; return which beam each new one continues."""
    beams, vocab = scores.shape[1:]
    kept = max(2, 1 + len(config.eos)) * beams  # so that enough are left if all the best end
    top, place = scores.flatten(1).topk(min(kept, beams * vocab), dim=1)
    parent, token = place // vocab, place % vocab
    ids = torch.cat([_of_beams(search.ids, parent), token[:, :, None]], dim=2)
    stops = _ends(token, config)
    if written == config.max_new_tokens:
        stops = torch.ones_like(stops)

    finished = top / written**config.length_penalty
    candidate = torch.arange(top.shape[1], device=top.device) < beams
    takes = stops & candidate & search.open[:, None]
    finished = finished.where(takes, torch.full_like(finished, _NEVER))
    done_ids = torch.nn.functional.pad(search.done_ids, (0, 1))
    both_scores = torch.cat([search.done_score, finished], dim=1)
    search.done_score, chosen = both_scores.topk(beams, dim=1)
    search.done_ids = _of_beams(torch.cat([done_ids, ids], dim=1), chosen)
    lengths = torch.cat([search.done_length, torch.full_like(token, written)], dim=1)
    search.done_length = lengths.gather(1, chosen)

    running = top + stops * _NEVER
    search.score, chosen = running.topk(beams, dim=1)
    search.ids = _of_beams(ids, chosen)
    best = search.score[:, 0] / written**config.length_penalty
    worst = search.done_score.min(dim=1).values
    search.open = search.open & (best > worst)
    return parent.gather(1, chosen)


def _of_beams(ids: Int[Tensor, "B K n"], beam: Int[Tensor, "B k"]) -> Int[Tensor, "B k n"]:
    return ids.gather(1, beam[:, :, None].expand(-1, -1, ids.shape[2]))


def _best(search: _Search, text: int, config: GenerationConfig) -> Generated:
    """Return the best finished beam of a text."""
    length = int(search.done_length[text, 0])
    ids = search.done_ids[text, 0, :length].cpu().numpy()
    total = float(search.done_score[text, 0]) * length**config.length_penalty
    ended = bool(len(ids)) and int(ids[-1]) in config.eos
    return Generated(ids[:-1] if ended else ids, total, ended)
