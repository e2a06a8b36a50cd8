"""A teacher's vectors of texts, or of the tokens of a vocabulary, kept so that none is made twice.

Texts: WORK/vectors/TEACHER/*.npz with `keys` and float16 `rows`, a file each few minutes; a run
that was stopped goes on where it was. Tokens: WORK/tokens-TEACHER.npz with `ids` and `rows`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from teachers import DIM, TEACHERS, Teacher
from tokenizers import Tokenizer
from unigram import strings

from culet.text.tokenizer_training import BYTES

TEXTS_A_FILE = 4096
_TOKENS_OF_A_TOKEN = 24
_EVENNESS = 0.6  # of languages: 1 takes equally many of each, 0 takes them as they come


def kept(work: Path, teacher: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys [N], rising, and vectors [N, 384] in float16 that are on disk."""
    keys, rows = [np.zeros(0, np.int64)], [np.zeros((0, DIM), np.float16)]
    for path in sorted((work / "vectors" / teacher).glob("*.npz")):
        with np.load(path) as file:
            keys.append(file["keys"])
            rows.append(file["rows"])
    unique, first = np.unique(np.concatenate(keys), return_index=True)
    return unique, np.concatenate(rows)[first]


def chosen(work: Path, selection: str) -> tuple[np.ndarray, list[str]]:
    """Return keys and texts of a selection, the most useful first.

    pivot: English sides, by the number of their translations. english: English and code, mixed.
    other: other languages, evenly at first, so that small ones come whole.
    """
    table = pq.read_table(work / "texts.parquet", columns=["key", "text", "lang"])
    keys, rng = table["key"].to_numpy(), np.random.default_rng(1)
    langs = np.array(table["lang"].to_pylist())
    english = (langs == "en") | np.char.startswith(langs, "code")
    if selection == "pivot":
        sides = pq.read_table(work / "links.parquet", columns=["en"])["en"].to_numpy()
        used, times = np.unique(sides, return_counts=True)
        by_key = np.argsort(keys)
        order = by_key[np.searchsorted(keys, used, sorter=by_key)][np.argsort(-times)]
    elif selection == "english":
        order = rng.permutation(np.flatnonzero(english))
    else:
        mixed = rng.permutation(np.flatnonzero(~english))
        _, numbers, sizes = np.unique(langs[mixed], return_inverse=True, return_counts=True)
        by_language = np.argsort(numbers, kind="stable")
        rank = np.empty(len(mixed), np.int64)
        rank[by_language] = np.arange(len(mixed)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        order = mixed[np.argsort(rank / sizes[numbers] ** _EVENNESS, kind="stable")]
    return keys[order], table["text"].take(order).to_pylist()


def embed_texts(teacher: Teacher, name: str, work: Path, selection: str, limit: int) -> None:
    """Embed up to `limit` texts of a selection that have no vector yet."""
    folder = work / "vectors" / name
    folder.mkdir(parents=True, exist_ok=True)
    keys, texts = chosen(work, selection)
    missing = np.flatnonzero(~np.isin(keys, kept(work, name)[0]))[:limit]
    for start in range(0, len(missing), TEXTS_A_FILE):
        part = missing[start : start + TEXTS_A_FILE]
        rows = teacher.encode([texts[place] for place in part]).astype(np.float16)
        path = folder / f"{selection}-{time.time_ns()}.npz"
        aside = path.with_suffix(".unfinished")
        with aside.open("wb") as file:
            np.savez(file, keys=keys[part], rows=rows)
        aside.rename(path)
        print(f"{name} {selection}: {start + len(part):,}/{len(missing):,}", flush=True)


def embed_tokens(teacher: Teacher, name: str, work: Path) -> None:
    """Embed what each token spells."""
    words = [word.strip() for word in strings(Tokenizer.from_file(str(work / "tokenizer.json")))]
    ids = [number for number, word in enumerate(words) if word and word not in BYTES]
    rows = teacher.encode([words[number] for number in ids]).astype(np.float16)
    np.savez(work / f"tokens-{name}.npz", ids=np.array(ids), rows=rows)


def main() -> None:
    """Embed a selection."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher", choices=TEACHERS)
    parser.add_argument("path", type=Path, help="e5-small-q4.bin, or the folder of MiniLM")
    parser.add_argument("selection", choices=("pivot", "english", "other", "tokens"))
    parser.add_argument("--limit", type=int, default=100_000, help="texts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    if args.selection == "tokens":
        teacher = Teacher(
            args.teacher, args.path, max_tokens=_TOKENS_OF_A_TOKEN, threads=args.threads
        )
        embed_tokens(teacher, args.teacher, args.work)
    else:
        teacher = Teacher(args.teacher, args.path, threads=args.threads)
        embed_texts(teacher, args.teacher, args.work, args.selection, args.limit)


if __name__ == "__main__":
    main()
