"""The weights of an engine: what a graph holds as constants, and the token table beside it.

float32 and bfloat16 engines read the checkpoint itself. Quantised ones read a file that is made
once from the checkpoint (`culet.runtime.openvino.quantized`). Both are memory-mapped, so of the
token table, two thirds of EmbeddingGemma, only the rows that texts use are ever loaded.

The two maps of the head have no activation between them, so they are one matrix: E·D weights
instead of (D + E)·projection_dim. It is float32 in every precision: it is small, and its error
would go into the embedding undiminished.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
from openvino import opset15 as op

from culet.files.tensors import StoredTensor, to_float32

Precision = Literal["float32", "bfloat16", "int8", "int4"]
HEAD = "head"


class Weights(Protocol):
    """How a graph gets its weights."""

    def linear(self, x: Any, *names: str) -> Any:
        """Return the node x Wᵀ, where W stacks the rows of the named weights."""

    def vector(self, name: str) -> Any:
        """Return the node of a norm's weight or another small array, float32."""


class Table(Protocol):
    """The token table."""

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows [N, D] of tokens, float32."""


class FloatWeights:
    """The weights of a checkpoint as they are.

    Args:
        tensors: Where each weight is stored, under its canonical name.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors

    def vector(self, name: str) -> Any:
        """Return a small array."""
        return op.constant(np.array(self._tensors[name].float32()))

    def linear(self, x: Any, *names: str) -> Any:
        """Return x Wᵀ."""
        return op.matmul(x, op.constant(matrix(self._tensors, *names)), False, True)


class CodedWeights:
    """Weights from arrays of 8-bit codes and scales, see `culet.runtime.openvino.quantized`.

    The graph's constants are views of the arrays: keep them until the graph is compiled.

    Args:
        arrays: What the file holds. A matrix without codes is float32.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays

    def vector(self, name: str) -> Any:
        """Return a small array."""
        return op.constant(self._arrays[name], shared_memory=True)

    def linear(self, x: Any, *names: str) -> Any:
        """Return x Wᵀ with W decoded inside the product."""
        name = "+".join(names)
        if name in self._arrays:
            return op.matmul(x, self.vector(name), False, True)
        codes = op.convert(op.constant(self._arrays[f"{name}.codes"], shared_memory=True), "f32")
        return op.matmul(x, op.multiply(codes, self.vector(f"{name}.scales")), False, True)


class FloatTable:
    """The token table of a checkpoint, mapped.

    Args:
        tensor: Where it is stored.
    """

    def __init__(self, tensor: StoredTensor) -> None:
        self._table = tensor.mapped()
        self._dtype = tensor.dtype

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return rows, float32."""
        return to_float32(self._table[ids], self._dtype)

    def arrays(self) -> list[np.ndarray]:
        """Return the mapped arrays."""
        return [self._table]


class CodedTable:
    """The token table in 8-bit or 4-bit codes, with a scale per block of a row.

    Args:
        arrays: "embed.codes", "embed.scales" and, with 4 bits, "embed.zeros".
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._codes, self._scales = arrays["embed.codes"], arrays["embed.scales"]
        self._zeros = arrays.get("embed.zeros")

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return rows, decoded."""
        codes, scales = self._codes[ids], self._scales[ids]
        if self._zeros is None:
            blocks = codes * scales
        else:
            blocks = (unpack(codes) - np.float32(self._zeros[ids])) * scales
        rows: np.ndarray = blocks.reshape(len(ids), -1)
        return rows


def release(array: np.ndarray) -> None:
    """Release the memory of a mapped file; a later read loads it again.

    Arrays that are not mapped are left alone. Reading a row of a mapped table loads 16 pages.
    """
    mapped: Any = array.base
    if isinstance(mapped, mmap.mmap):
        with contextlib.suppress(AttributeError, OSError):  # not on every system
            mapped.madvise(mmap.MADV_DONTNEED)


def matrix(tensors: Mapping[str, StoredTensor], *names: str) -> np.ndarray:
    """Return the named weights stacked by rows, float32; `HEAD` is down·up."""
    if names == (HEAD,):
        with np.errstate(over="ignore", invalid="ignore"):  # vectors are checked
            product: np.ndarray = tensors["down"].float32() @ tensors["up"].float32()
        return product
    parts = [tensors[name].float32() for name in names]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def pack(codes: np.ndarray) -> np.ndarray:
    """Return 4-bit codes [..., 2n] two per byte, uint8 [..., n], the first in the low half."""
    packed: np.ndarray = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed


def unpack(packed: np.ndarray) -> np.ndarray:
    """Return the codes that `pack` packed."""
    codes = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), dtype=np.uint8)
    codes[..., 0::2], codes[..., 1::2] = packed & 0x0F, packed >> 4
    return codes
