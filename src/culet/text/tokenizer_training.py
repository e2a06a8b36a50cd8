"""A byte-pair tokenizer like Gemma's, trained on one's own texts.

It shares with Gemma's ``tokenizer.json``, so that tools can treat its checkpoints alike:

- ids 0 to 4 are <pad>, <eos>, <bos>, <unk>, <mask>; then spare <unused…>, then the 256 bytes
- spaces become "▁"; nothing is put in front of a text; every other character is unchanged
- a character outside the vocabulary becomes its UTF-8 bytes, so no text is ever unknown
- the post-processor writes <bos> … <eos>

It differs in three ways: a digit is always a separate token; a run of spaces is split from the word
after it, so that the indentation of code is one token and does not multiply the words; and a "▁" in
the text itself is preserved.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import models as tokenizer_models

from culet.errors import InputError

PAD, EOS, BOS, UNK, MASK = "<pad>", "<eos>", "<bos>", "<unk>", "<mask>"
SPECIAL_TOKENS = (PAD, EOS, BOS, UNK, MASK)
NUM_UNUSED = 11  # ids 5 to 15, for markers of later stages
SPACE = "▁"
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
# Characters that always have a token: the space, and the characters of code.
_ALWAYS_KNOWN = (SPACE, *map(chr, range(ord("!"), ord("~") + 1)))

# U+FDD0, which is never a character, represents a "▁" of the text itself.
_LITERAL_SPACE = "\ufdd0"

# Where a text is split before pairs are counted; no token crosses a split. A piece takes the one
# space before it. Words of scripts without spaces are split where the script changes, words with
# capitals before each capitalised part, so that camelCase shares its parts with prose.
_PIECES = "|".join(
    (
        rf"{SPACE}?\p{{Han}}+",
        rf"{SPACE}?[\p{{Hiragana}}ー]+",
        rf"{SPACE}?[\p{{Katakana}}ー]+",
        rf"{SPACE}?[\p{{Lu}}\p{{Lt}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}\p{{Hiragana}}\p{{Katakana}}]]+",
        rf"{SPACE}?[\p{{Lu}}\p{{Lt}}]+",
        r"\p{N}",
        r"[\r\n]+",
        rf"{SPACE}+(?={SPACE})",
        rf"{SPACE}?[^{SPACE}\p{{L}}\p{{M}}\p{{N}}\r\n]+",
        SPACE,
    )
)


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    min_frequency: int = 2,
    max_characters: int = 24_000_000,
    alphabet_coverage: int = 3_000,
    num_unused: int = NUM_UNUSED,
) -> Tokenizer:
    """Train a byte-pair tokenizer with byte fallback on an iterator of texts.

    The same texts in the same order give the same tokenizer. They are read once, and held together
    up to `max_characters`: the alphabet is chosen before the pairs are counted.

    Args:
        texts: Training texts, best in the mixture the model will see. A generator is closed once
            reading ends, before pairs are merged, and its progress display with it.
        vocab_size: Number of ids, special tokens and bytes included.
        min_frequency: Pairs of pieces with fewer occurrences are not merged.
        max_characters: Reading stops after this many characters.
        alphabet_coverage: The most frequent characters, this many at most, become tokens; a
            rarer one is encoded in bytes. Ties go to the lower code point.
        num_unused: Reserved tokens after the special ones.

    Raises:
        InputError: `vocab_size` leaves no room for merges, or the texts are empty.
    """
    reserved = _reserved(num_unused)
    smallest = len(reserved) + len(_ALWAYS_KNOWN)
    if vocab_size <= smallest:
        raise InputError(
            f"vocab_size must be larger than the {smallest} tokens that are always there (special, "
            f"unused, bytes, ASCII), got {vocab_size}; give at least a thousand"
        )
    tokenizer = _untrained(tokenizer_models.BPE(unk_token=UNK, byte_fallback=True, fuse_unk=True))
    held = list(_some(texts, max_characters))
    # The trainer keeps its whole alphabet even if that exceeds vocab_size.
    alphabet = _alphabet(held, min(alphabet_coverage, vocab_size - len(reserved)))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        # It would choose randomly among equally rare characters.
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=reserved,
        show_progress=False,
    )
    tokenizer.train_from_iterator(held, trainer)
    if tokenizer.get_vocab_size() <= smallest:
        raise InputError(
            "expected texts to train a tokenizer on, got none or only empty ones; "
            "give the texts of the training records"
        )
    return _finished(tokenizer, num_unused)


def byte_tokenizer() -> Tokenizer:
    """Return a tokenizer that needs no training: each UTF-8 byte is a token.

    Ids of special tokens and bytes and the template are those of `train_tokenizer`; a space is
    its byte.
    """
    vocabulary = {token: number for number, token in enumerate(_reserved(NUM_UNUSED))}
    model = tokenizer_models.BPE(vocab=vocabulary, merges=[], unk_token=UNK, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _finished(tokenizer, NUM_UNUSED)


def _untrained(model: tokenizer_models.BPE) -> Tokenizer:
    """Return a tokenizer around the model that splits and joins text as described above."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(SPACE, _LITERAL_SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace(_LITERAL_SPACE, SPACE),
        ]
    )
    return tokenizer


def _some(texts: Iterable[str], max_characters: int) -> Iterator[str]:
    """Yield texts until `max_characters` have been read."""
    left = max_characters
    for text in texts:
        if text:
            yield text
        left -= len(text)
        if left <= 0:
            break
    if isinstance(texts, Generator):
        texts.close()


def _alphabet(texts: Iterable[str], size: int) -> list[str]:
    """Return the characters always known and the most frequent others, `size` at most in all."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    if SPACE in counts:
        counts[_LITERAL_SPACE] += counts[SPACE]
    others = counts.keys() - {*_ALWAYS_KNOWN, " "}
    frequent = sorted(others, key=lambda character: (-counts[character], character))
    return [*_ALWAYS_KNOWN, *frequent[: max(0, size - len(_ALWAYS_KNOWN))]]


def _finished(tokenizer: Tokenizer, num_unused: int) -> Tokenizer:
    """Return the tokenizer with its template, and with no byte among the added tokens.

    The trainer marks every reserved token as special. A byte must not be: the text "<0x41>" would
    turn into the letter A, and decoding without special tokens would drop each character encoded
    in bytes.
    """
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = []
    finished: Tokenizer = Tokenizer.from_str(json.dumps(state))
    special = [*SPECIAL_TOKENS, *_unused(num_unused)]
    finished.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special]
    )
    finished.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        pair=f"{BOS} $A {EOS} {BOS} $B {EOS}",
        special_tokens=[(token, finished.token_to_id(token)) for token in (BOS, EOS)],
    )
    return finished


def _unused(count: int) -> list[str]:
    return [f"<unused{number}>" for number in range(count)]


def _reserved(num_unused: int) -> list[str]:
    return [*SPECIAL_TOKENS, *_unused(num_unused), *BYTES]
