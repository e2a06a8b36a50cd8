"""Records of a text and the text to be written for it: {"input": …, "target": …}.

For evaluation a record may list further right answers: {"answers": [ … ]}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from culet.data.batches.shuffle import part_of
from culet.data.batches.slots import Slots
from culet.data.batches.windows import TokenPairs
from culet.errors import InputError
from culet.files.fields import text_of, texts_of
from culet.files.rows import read_rows
from culet.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class InputTarget:
    """One record.

    Attributes:
        input: What the encoder reads.
        target: What is to be written.
        answers: Everything that counts as right, the target among it.
        origin: "file:line", for messages.
    """

    input: str
    target: str
    answers: tuple[str, ...] = ()
    origin: str = ""


def read_pairs(paths: Sequence[Path]) -> list[InputTarget]:
    """Return the records of some files or folders, in order.

    Raises:
        InputError: If a record lacks a text; the message names file and line.
    """
    pairs = []
    for row in read_rows(paths, columns=("input", "target", "answers")):
        target = text_of(row, "target")
        answers = tuple(dict.fromkeys([target, *texts_of(row, "answers")]))
        pairs.append(InputTarget(text_of(row, "input"), target, answers, row.origin))
    if not pairs:
        raise InputError(f"no record in {', '.join(map(str, paths))}")
    return pairs


class PairBatcher:
    """Makes the batch of any step; what it gives follows from seed and step alone.

    Args:
        pairs: The records.
        tokenizer: Its limit cuts inputs.
        batch_size: Records in a batch.
        max_target_tokens: Longer targets are cut, EOS kept.
        seed: Decides the order.
        name: What messages call the data.
        rank: Which process of `world_size` this is, from 0; it gets its part of every batch.
        world_size: Processes that share each batch.
    """

    def __init__(
        self,
        pairs: Sequence[InputTarget],
        tokenizer: TextTokenizer,
        *,
        batch_size: int,
        max_target_tokens: int,
        seed: int,
        name: str,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._part = part_of(batch_size, rank, world_size)
        self._pairs = pairs
        self._tokenizer = tokenizer
        self._most = max_target_tokens
        self._name = name
        self._slots = Slots([len(pairs)], [1.0], batch_size=batch_size, seed=seed)

    def __call__(self, step: int) -> TokenPairs:
        """Return the batch of a step (from 0), or this process's part of it."""
        pairs = [self._pairs[slot.index] for slot in self._slots.draw(step)[self._part]]
        sources = self._tokenizer.encode([pair.input for pair in pairs])
        targets = [ids[1:] for ids in self._tokenizer.encode([p.target for p in pairs]).ids]
        cut = sum(len(ids) > self._most for ids in targets)
        for ids in targets:
            ids[self._most - 1 : self._most] = self._tokenizer.eos_id
        return TokenPairs(
            sources=list(sources.ids),
            targets=[ids[: self._most] for ids in targets],
            source=self._name,
            origin=tuple(pair.origin for pair in pairs),
            truncated=len(sources.overlong) + cut,
        )
