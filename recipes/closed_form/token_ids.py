"""Token ids of the texts that the fits need, and a sample of links that is fair to languages.

Writes fit-texts.parquet (key, lang, source, ids; by rising key) and fit-links.parquet.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from keep_vectors import kept
from teachers import TEACHERS
from tokenizers import Tokenizer

BATCH = 50_000


def fair_sample(langs: np.ndarray, total: int, *, power: float = 0.5, seed: int = 5) -> np.ndarray:
    """Return places of about `total` rows; a language has a share of size^power, or all it has."""
    _, numbers, sizes = np.unique(langs, return_inverse=True, return_counts=True)
    total = min(total, len(langs))
    low, high = 0.0, float(max(sizes, default=0))
    for _ in range(60):
        middle = (low + high) / 2
        enough = np.minimum(sizes, middle * sizes**power).sum() >= total
        low, high = (low, middle) if enough else (middle, high)
    quota = np.minimum(sizes, np.ceil(high * sizes**power))
    mixed = np.random.default_rng(seed).permutation(len(langs))
    by_language = mixed[np.argsort(numbers[mixed], kind="stable")]
    rank = np.arange(len(langs)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(by_language[rank < np.repeat(quota, sizes)])


@dataclass(frozen=True)
class FitData:
    """Texts as token ids and the links among them.

    Attributes:
        keys: Of the texts, rising [N].
        langs: Language of each text, without a script or a country.
        sources: First part of each text's source.
        ids: Token ids of each text.
        english: Keys of the English sides of links [L].
        others: Keys of the other sides [L].
    """

    keys: np.ndarray
    langs: np.ndarray
    sources: np.ndarray
    ids: list[np.ndarray]
    english: np.ndarray
    others: np.ndarray

    @classmethod
    def read(cls, work: Path) -> FitData:
        """Read what this step wrote."""
        texts = pq.read_table(work / "fit-texts.parquet")
        links = pq.read_table(work / "fit-links.parquet")
        ids = texts["ids"].combine_chunks()
        flat, starts = ids.values.to_numpy(), ids.offsets.to_numpy()
        return cls(
            keys=texts["key"].to_numpy(),
            langs=np.array([lang.split("-")[0] for lang in texts["lang"].to_pylist()]),
            sources=np.array([name.split("/")[0] for name in texts["source"].to_pylist()]),
            ids=[flat[a:b] for a, b in pairwise(starts)],
            english=links["en"].to_numpy(),
            others=links["xx"].to_numpy(),
        )


def main() -> None:
    """Choose links, then encode what they and the teachers' vectors need."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--links", type=int, default=450_000)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    work = args.work
    have = np.unique(np.concatenate([kept(work, teacher)[0] for teacher in TEACHERS]))
    links = pq.read_table(work / "links.parquet")
    links = links.filter(pc.is_in(links["en"], pa.array(have)))
    links = links.take(fair_sample(np.array(links["lang"].to_pylist()), args.links))
    need = np.unique(np.concatenate([have, links["en"].to_numpy(), links["xx"].to_numpy()]))
    texts = pq.read_table(work / "texts.parquet")
    texts = texts.filter(pc.is_in(texts["key"], pa.array(need))).sort_by("key")
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    ids: list[list[int]] = []
    for start in range(0, len(texts), BATCH):
        batch = texts["text"].slice(start, BATCH).to_pylist()
        ids += [one.ids for one in tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
    texts = texts.drop_columns(["text"]).append_column("ids", pa.array(ids, pa.list_(pa.int32())))
    pq.write_table(texts, work / "fit-texts.parquet")
    pq.write_table(links, work / "fit-links.parquet")
    print(f"{len(texts):,} texts, {sum(map(len, ids)):,} tokens, {len(links):,} links")


if __name__ == "__main__":
    main()
