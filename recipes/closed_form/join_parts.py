"""The checkpoint: the teachers' parts on joint axes, letters beside them, the damper, a head.

The head turns content to the principal axes of damped texts, so that the first numbers of a
vector hold the most.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from damper import Damping, model_config, model_weights, token_table, within_unit
from fit_part import EVERY_THIRD
from letters import hashed_letters
from ridge import counts, principal_axes, unit
from scipy import sparse
from token_ids import FitData
from token_weights import information
from tokenizers import Tokenizer
from unigram import strings

from culet.checkpoints.write import write_checkpoint
from culet.text.prompts import Prompts
from culet.text.tokenizer_training import BOS, SPECIAL_TOKENS

SAMPLE = 20_000
FLATTER = 0.25  # axes are scaled by their variance to minus this power
_LEAST_VARIANCE = 1e-6
WIDTHS = (512, 256, 128)


def sampled(langs: np.ndarray, size: int, seed: int = 0) -> np.ndarray:
    """Return places of texts, languages by the root of their size, English three times that."""
    _, numbers, sizes = np.unique(langs, return_inverse=True, return_counts=True)
    chance = np.where(langs == "en", 3, 1) / np.sqrt(sizes[numbers])
    rng = np.random.default_rng(seed)
    size = min(size, len(langs))
    places: np.ndarray = rng.choice(len(langs), size, replace=False, p=chance / chance.sum())
    return places


def of_one_size(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return rows whose lengths have the root mean square 1 over tokens that weigh something."""
    size = np.sqrt(np.square(rows[weights > 0]).sum(1).mean())
    scaled: np.ndarray = rows / size
    return scaled.astype(np.float32)


def flattened(rows: np.ndarray, texts: sparse.csr_matrix, weights: np.ndarray) -> np.ndarray:
    """Return rows on the principal axes of texts, strong axes made weaker."""
    axes, variance = principal_axes(unit(texts @ rows))
    return of_one_size(rows @ axes * np.maximum(variance, _LEAST_VARIANCE) ** -FLATTER, weights)


def joined(
    parts: Sequence[np.ndarray], letters: np.ndarray, texts: sparse.csr_matrix, joint: int
) -> np.ndarray:
    """Return content [V, joint + letters]: the parts on their `joint` strongest axes, letters."""
    both = np.concatenate(parts, 1)
    axes = principal_axes(unit(texts @ both))[0][:, :joint]
    return within_unit(np.concatenate([both @ axes, letters], 1))


def main() -> None:
    """Join the parts and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the checkpoint")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--e5", type=float, default=1.4, help="weight of this part")
    parser.add_argument("--minilm", type=float, default=1.0)
    parser.add_argument("--letters", type=float, default=1.0)
    parser.add_argument("--joint", type=int, default=384, help="numbers of both teachers' parts")
    parser.add_argument("--letters-dim", type=int, default=640)
    parser.add_argument("--repeat", type=float, default=Damping.repeat, help="r of the damper")
    args = parser.parse_args()
    data = FitData.read(args.work)
    tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
    weights = information(tokenizer, data.ids[::EVERY_THIRD])
    some = sampled(data.langs, SAMPLE)
    texts = counts([data.ids[place] for place in some], len(weights))
    parts = [
        weight
        * flattened(
            np.load(args.work / f"part-{name}.npy") * np.sqrt(weights)[:, None], texts, weights
        )
        for name, weight in (("e5", args.e5), ("minilm", args.minilm))
    ]
    letters = hashed_letters(strings(tokenizer), args.letters_dim) * weights[:, None]
    letters = args.letters * of_one_size(letters, weights)
    content = joined(parts, letters, texts, args.joint)
    width = content.shape[1]
    head = principal_axes(unit(texts.sqrt() @ content))[0]
    table = token_table(content, SPECIAL_TOKENS.index(BOS))
    widths = (width, *(narrow for narrow in WIDTHS if narrow < width))
    config = model_config(table.shape[0], table.shape[1], widths)
    write_checkpoint(
        args.out,
        config,
        model_weights(config, table, head, Damping(repeat=args.repeat)),
        tokenizer_json=tokenizer.to_str(),
        prompts=Prompts.default().to_names(),
        dtype="bfloat16",
    )


if __name__ == "__main__":
    main()
