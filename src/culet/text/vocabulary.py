"""A vocabulary trimmed to what some texts need, and what that loses on others.

A token that is kept must remain reachable: byte-pair encoding builds it from smaller tokens, by
merges in the order of their ranks. The intermediate tokens of its own merge path, the one taken
when it is encoded alone, are kept with it. Any text that contains the token takes the same path,
because no merge crosses the token's borders there; so with every token a text needs, the text is
tokenized exactly as before. Ranks keep their order, and so do ids: new ids number the kept ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from culet.errors import CheckpointError, InputError

_TEXTS_AT_ONCE = 512
_START = 80  # characters of a text that are also counted with a space in front
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_UNUSED = re.compile(r"<unused\d+>", re.ASCII)


@dataclass(frozen=True)
class Trimmed:
    """A smaller vocabulary.

    Attributes:
        tokenizer_json: Its tokenizer.json.
        kept: The old id of each new one, ascending.
        needed: How many of them the texts use `min_count` times or more.
        on_the_way: How many are kept because others are merged from them.
        unused: How many unused ones are kept.
    """

    tokenizer_json: str
    kept: np.ndarray
    needed: int
    on_the_way: int
    unused: int


@dataclass(frozen=True)
class Coverage:
    """How a smaller vocabulary tokenizes texts it was not made for.

    Attributes:
        texts: Texts compared.
        changed_texts: Those that are tokenized differently.
        tokens_before: Their tokens with the larger vocabulary.
        tokens_after: Their tokens with the smaller one.
        changed_tokens: Tokens of the larger vocabulary that the smaller one splits.
        bytes: Bytes of the texts in UTF-8.
        changed_bytes: Bytes inside the changed tokens.
    """

    texts: int
    changed_texts: int
    tokens_before: int
    tokens_after: int
    changed_tokens: int
    bytes: int
    changed_bytes: int

    @property
    def changed_share(self) -> float:
        """Return the share of tokens that the smaller vocabulary splits."""
        return self.changed_tokens / max(1, self.tokens_before)

    @property
    def changed_bytes_share(self) -> float:
        """Return the share of bytes inside split tokens."""
        return self.changed_bytes / max(1, self.bytes)

    @property
    def growth(self) -> float:
        """Return the relative increase in tokens."""
        return self.tokens_after / max(1, self.tokens_before) - 1


@dataclass(frozen=True)
class Counted:
    """The progress of counting some texts.

    Attributes:
        counts: How often each id is used in them, int64 [V].
        texts: How many texts these are.
    """

    counts: np.ndarray
    texts: int


def count_tokens(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    before: Counted | None = None,
    keep: Callable[[Counted], None] | None = None,
    keep_every: int = 1,
) -> np.ndarray:
    """Return how often each id is used in some texts, read once and not kept, int64 [V].

    The first words of each text are counted a second time with a space in front, because that is
    how they are tokenized after a prompt.

    Args:
        tokenizer: The tokenizer.
        texts: All of them, including those that were counted before.
        before: The progress of an earlier call on the same texts, which are skipped.
        keep: Called from time to time with the progress so far.
        keep_every: About how many texts are counted between two of its calls.
    """
    counts = np.zeros(_largest(tokenizer) + 1, np.int64)
    done = 0
    if before is not None and before.counts.shape == counts.shape:
        counts, done = before.counts.copy(), before.texts
    kept = done
    for block in _blocks(islice(texts, done, None)):
        again = [f" {_first_words(text)}" for text in block]
        encoded = tokenizer.encode_batch_fast([*block, *again], add_special_tokens=False)
        ids = np.concatenate([np.asarray(one.ids, dtype=np.int64) for one in encoded])
        counts += np.bincount(ids, minlength=len(counts))
        done += len(block)
        if keep is not None and done - kept >= keep_every:
            keep(Counted(counts, done))
            kept = done
    return counts


def trim(
    tokenizer_json: str, counts: np.ndarray, *, min_count: int = 1, keep_unused: int = 256
) -> Trimmed:
    """Return the vocabulary of the tokens that are used often enough, and of what they need.

    Special and other added tokens, the 256 bytes and the first unused tokens are kept in any case.

    Args:
        tokenizer_json: Content of a tokenizer.json of the byte-pair kind.
        counts: Uses of each id.
        min_count: A token used fewer times is replaced by smaller ones.
        keep_unused: How many <unusedN> tokens are kept, for sentinels and modes of later stages.

    Raises:
        CheckpointError: If the tokenizer is of another kind.
        InputError: If a bound makes no sense.
    """
    if min_count < 1 or keep_unused < 0:
        raise InputError(
            f"min_count must be at least 1 and keep_unused not negative, got {min_count} and "
            f"{keep_unused}"
        )
    content = json.loads(tokenizer_json)
    model = content["model"]
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise CheckpointError(
            f"the tokenizer is of the kind {model.get('type')!r} with byte_fallback="
            f"{model.get('byte_fallback')!r}; expected BPE with byte fallback, as in Gemma"
        )
    vocab: dict[str, int] = model["vocab"]
    merges = [_pair(merge) for merge in model["merges"]]
    added = {token["content"]: int(token["id"]) for token in content["added_tokens"]}
    spare = [id_ for _, id_ in sorted(_unused(vocab | added))]
    always = {id_ for piece, id_ in (vocab | added).items() if piece in added or _BYTE.match(piece)}
    always |= {vocab[piece] for piece in (model["unk_token"],) if piece in vocab}
    always = (always | set(spare)) - set(spare[keep_unused:])
    needed = {int(id_) for id_ in np.flatnonzero(counts >= min_count)}
    used = needed - set(spare[keep_unused:]) - always
    way = _ways(used, vocab, merges) - used - always
    kept = np.array(sorted(always | used | way), dtype=np.int64)
    return Trimmed(
        _rewritten(content, merges, kept),
        kept,
        needed=len(needed),
        on_the_way=len(way),
        unused=min(keep_unused, len(spare)),
    )


def coverage(before: Tokenizer, after: Tokenizer, texts: Iterable[str]) -> Coverage:
    """Return how differently two tokenizers split some texts."""
    sums = np.zeros(7, np.int64)
    for block in _blocks(texts):
        old, new = (t.encode_batch(block, add_special_tokens=False) for t in (before, after))
        for text, one, other in zip(block, old, new, strict=True):
            there = set(zip(other.tokens, other.offsets, strict=True))
            changed = {p for p in zip(one.tokens, one.offsets, strict=True) if p not in there}
            spans = {offsets for _, offsets in changed}
            num_changed = sum(offsets in spans for offsets in one.offsets)
            size = sum(len(text[start:stop].encode()) for start, stop in spans)
            sums += [
                1,
                bool(changed),
                len(one.ids),
                len(other.ids),
                num_changed,
                len(text.encode()),
                size,
            ]
    return Coverage(*map(int, sums))


def _ways(ids: set[int], vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> set[int]:
    """Return the ids on the merge path of each of some ids, and these ids."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    pieces = {id_: piece for piece, id_ in vocab.items()}
    met = set()
    for id_ in ids:
        parts = list(pieces.get(id_, ""))
        met |= {vocab[part] for part in parts if part in vocab}
        while len(parts) > 1:
            pairs = [ranks.get(pair, len(ranks)) for pair in pairwise(parts)]
            best = min(range(len(pairs)), key=pairs.__getitem__)
            if pairs[best] == len(ranks):
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
            met.add(vocab[parts[best]])
    return met


def _rewritten(content: dict[str, Any], merges: Sequence[tuple[str, str]], kept: np.ndarray) -> str:
    """Return tokenizer.json with the kept ids only, under their new numbers."""
    new = {int(old): number for number, old in enumerate(kept)}
    model = content["model"]
    vocab = {piece: new[id_] for piece, id_ in model["vocab"].items() if id_ in new}
    model["vocab"] = vocab
    model["merges"] = [
        pair
        for pair in merges
        if pair[0] in vocab and pair[1] in vocab and pair[0] + pair[1] in vocab
    ]
    content["added_tokens"] = [
        {**token, "id": new[token["id"]]} for token in content["added_tokens"] if token["id"] in new
    ]
    for special in ((content.get("post_processor") or {}).get("special_tokens") or {}).values():
        special["ids"] = [new[id_] for id_ in special["ids"]]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """Return the two sides of a merge, in the current or the older format of the file."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _unused(vocab: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    for piece, id_ in vocab.items():
        if _UNUSED.fullmatch(piece):
            yield int(piece[len("<unused") : -1]), id_


def _largest(tokenizer: Tokenizer) -> int:
    return max(tokenizer.get_vocab(with_added_tokens=True).values())


def _first_words(text: str) -> str:
    """Return the first words of a text; all of a short one."""
    if len(text) <= _START:
        return text
    return text[:_START].rpartition(" ")[0] or text[:_START]


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    source = iter(texts)
    while block := list(islice(source, _TEXTS_AT_ONCE)):
        yield block
