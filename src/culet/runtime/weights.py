"""The weights of an engine: what the graph holds as constants, and the token table beside it.

float32 and bfloat16 engines read the checkpoint itself. Quantised ones read a file that is made
once from the checkpoint (`culet.runtime.quantized`). Both are memory-mapped, so of the token
table, two thirds of EmbeddingGemma, only the rows that texts use ever come into memory.

The two maps of the head have nothing between them, so they are one matrix: E·D weights instead
of (D + E)·projection_dim.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import openvino as ov
from openvino import opset15 as op

from culet.model.config import EmbeddingConfig
from culet.tensorfile import StoredTensor, to_float32

Precision = Literal["float32", "bfloat16", "int8", "int4"]
HEAD = "head"


class Weights(Protocol):
    """What the graph and the engine ask for."""

    def linear(self, x: Any, *names: str) -> Any:
        """Return the node x Wᵀ, where W stacks the rows of the named weights."""

    def vector(self, name: str) -> np.ndarray:
        """Return a norm's weight or another small array, float32."""

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows [N, D] of the token table, float32."""

    def release(self) -> None:
        """Give back the memory of mapped files; the graph has copies of what it needs.

        Rows of the table are read again when asked for. Each brings sixteen pages with it.
        """


class FloatWeights:
    """The weights of a checkpoint as they are.

    Args:
        tensors: Where each weight is stored, under its canonical name.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors
        self._table = tensors["embed"].mapped()

    def vector(self, name: str) -> np.ndarray:
        """Return a small array."""
        return self._tensors[name].float32()

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        """Return rows of the token table."""
        return to_float32(self._table[ids], self._tensors["embed"].dtype)

    def release(self) -> None:
        """Give the pages of the token table back."""
        _release(self._table)

    def linear(self, x: Any, *names: str) -> Any:
        """Return x Wᵀ."""
        return op.matmul(x, op.constant(matrix(self._tensors, *names)), False, True)


class QuantizedWeights:
    """Weights from a file of codes and scales, see `culet.runtime.quantized`.

    The graph's constants are views of the file: keep this object until the graph is compiled.

    Args:
        arrays: What the file holds.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays

    def vector(self, name: str) -> np.ndarray:
        """Return a small array."""
        return self._arrays[name]

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        """Return rows of the token table, decoded."""
        codes, scales = self._arrays["embed.codes"][ids], self._arrays["embed.scales"][ids]
        if "embed.zeros" in self._arrays:
            blocks = (unpack(codes) - np.float32(self._arrays["embed.zeros"][ids])) * scales
        else:
            blocks = codes * scales
        rows: np.ndarray = blocks.reshape(len(ids), -1)
        return rows

    def release(self) -> None:
        """Give all pages back; whoever reads them again reads the file."""
        for array in self._arrays.values():
            _release(array)

    def linear(self, x: Any, *names: str) -> Any:
        """Return x Wᵀ with W decoded inside the product."""
        name = "+".join(names)
        codes = self._arrays[f"{name}.codes"]
        scales = op.constant(self._arrays[f"{name}.scales"], shared_memory=True)
        if codes.dtype == np.int8:
            constant = op.constant(codes, shared_memory=True)
            return op.matmul(x, op.multiply(op.convert(constant, "f32"), scales), False, True)
        rows, blocks, half = codes.shape
        packed = ov.Tensor(codes, ov.Shape([rows, blocks, 2 * half]), ov.Type.u4)
        zeros = op.constant(self._arrays[f"{name}.zeros"], shared_memory=True)
        value = op.subtract(op.convert(op.constant(packed), "f32"), op.convert(zeros, "f32"))
        shape = op.constant(np.array([rows, blocks * 2 * half], dtype=np.int64))
        return op.matmul(x, op.reshape(op.multiply(value, scales), shape, False), False, True)


def _release(array: np.ndarray) -> None:
    mapped: Any = array.base
    if isinstance(mapped, mmap.mmap):
        with contextlib.suppress(AttributeError, OSError):  # not on every system
            mapped.madvise(mmap.MADV_DONTNEED)


def matrix(tensors: Mapping[str, StoredTensor], *names: str) -> np.ndarray:
    """Return the named weights one below the other, float32; `HEAD` is down·up."""
    if names == (HEAD,):
        product: np.ndarray = tensors["down"].float32() @ tensors["up"].float32()
        return product
    parts = [tensors[name].float32() for name in names]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def linear_maps(config: EmbeddingConfig) -> list[tuple[str, ...]]:
    """Return the names of the weights that each linear map of the graph stacks."""
    maps: list[tuple[str, ...]] = []
    for layer in range(config.encoder.num_layers):
        name = f"blocks.{layer}"
        maps += [
            tuple(f"{name}.attention.{part}" for part in ("query", "key", "value")),
            (f"{name}.attention.out",),
            (f"{name}.ffn.gate", f"{name}.ffn.up"),
            (f"{name}.ffn.down",),
        ]
    if config.pooling == "attention":
        maps += [("pool.key",), ("pool.value",)]
    return [*maps, (HEAD,)]


def pack(codes: np.ndarray) -> np.ndarray:
    """Return 4-bit codes [..., 2n] two a byte, uint8 [..., n], the first in the low half."""
    packed: np.ndarray = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed


def unpack(packed: np.ndarray) -> np.ndarray:
    """Return the codes that `pack` packed."""
    codes = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), dtype=np.uint8)
    codes[..., 0::2], codes[..., 1::2] = packed & 0x0F, packed >> 4
    return codes
