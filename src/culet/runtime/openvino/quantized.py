"""The file of quantised weights that an int8 or int4 engine maps, made once from a checkpoint.

It lies in the user's cache folder under the checkpoint's fingerprint, beside its CRC-32: a
damaged file is made again, and a file of other weights is never used. Format: safetensors;
for a linear map or the token table W, `W.codes` and `W.scales`; a stack of maps is `A+B`.

    8 bits   codes int8 [O, I]           scales float32 [O, 1]         a scale per row
    4 bits   codes uint8 [O, I/32, 16]   scales float32 [O, I/32, 1]   two codes per byte, and
                                         zeros uint8 [O, I/32, 1]
    table    as 4 bits; in int8 codes int8 [V, D/32, 32], scales float32 [V, D/32, 1]

"int4" keeps value, out and down at 8 bits: they caused three quarters of the error of a
24-layer model (LOG.md); llama.cpp's Q4_K_M spends its extra bits similarly. Norms, the head and
the maps of attention pooling are float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from culet.architecture.embedding_config import EmbeddingConfig
from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.errors import CheckpointError, InputError
from culet.files.cache import cache_folder, check, remove_older, seal, warn
from culet.files.tensors import StoredTensor, new_tensors, read_tensors, to_float32
from culet.quant.grids import int4_blocks, int8_rows
from culet.runtime.openvino.weights import HEAD, matrix, pack, release
from culet.terminal.progress import Progress

BLOCK = 32  # weights of a row that share a scale in 4 bits and in the token table
_VERSION = 3
_TABLE_ROWS = 4096  # quantised at a time: the table is large, and int4 is to save memory

Stacks = dict[tuple[str, ...], int]
Shapes = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]


def quantized_weights(
    checkpoint: EmbeddingCheckpoint,
    precision: str,
    *,
    folder: Path | None = None,
) -> Mapping[str, np.ndarray]:
    """Return a checkpoint's weights in int8 or int4, from the cache, or made now and cached.

    A damaged or unwritable cache causes a warning.

    Args:
        checkpoint: The model.
        precision: "int8" or "int4".
        folder: Where the file is kept; the user's cache folder if None.
    """
    folder = folder or cache_folder() / "weights"
    prefix = f"{checkpoint.fingerprint}-{precision}-"
    path = folder / f"{prefix}{_VERSION}.safetensors"
    if path.exists():
        try:
            return _read(path)
        except (CheckpointError, OSError, ValueError) as error:
            warn(f"the cached weights are damaged and are made again: {error}")
    shapes = _shapes(checkpoint.config, precision)
    try:
        with new_tensors(path, shapes) as arrays:
            _fill(arrays, checkpoint, precision)
        seal(path)
        remove_older(path, prefix)
    except InputError as error:
        warn(f"the {precision} weights are not kept for the next start: {error}")
        arrays = {name: np.empty(shape, dtype) for name, (dtype, shape) in shapes.items()}
        _fill(arrays, checkpoint, precision)
        return arrays
    return _read(path)


def _stacks(config: EmbeddingConfig, precision: str) -> Stacks:
    """Return the weights stacked in each matrix, and its bits per weight (32: float)."""
    small = 4 if precision == "int4" else 8
    found: Stacks = {}
    for layer in range(config.encoder.num_layers):
        attention, ffn = f"blocks.{layer}.attention", f"blocks.{layer}.ffn"
        if config.encoder.heads(layer)[0]:
            if small == 4:
                found[f"{attention}.query", f"{attention}.key"] = 4
                found[(f"{attention}.value",)] = 8
            else:
                found[f"{attention}.query", f"{attention}.key", f"{attention}.value"] = 8
            found[(f"{attention}.out",)] = 8
        found[f"{ffn}.gate", f"{ffn}.up"] = small
        found[(f"{ffn}.down",)] = 8
    if config.pooling == "attention":
        found[("pool.key",)] = found[("pool.value",)] = 32
    return found | {(HEAD,): 32}


def int8_widths(config: EmbeddingConfig) -> set[int]:
    """Return the row and column counts of the matrices that an int8 model multiplies as codes."""
    weights = config.weight_shapes()
    coded = [names for names, bits in _stacks(config, "int8").items() if bits == 8]
    rows = {sum(weights[name][0] for name in names) for names in coded}
    return rows | {weights[names[0]][1] for names in coded}


def _read(path: Path) -> Mapping[str, np.ndarray]:
    check(path)
    tensors = read_tensors(path, codes=True)
    # private, since OpenVINO takes views of writable arrays only
    return {name: tensor.mapped(private=True) for name, tensor in tensors.items()}


def _shapes(config: EmbeddingConfig, precision: str) -> Shapes:
    """Return the dtype and shape of each array in the file."""
    weights = config.weight_shapes() | {HEAD: (config.embedding_dim, config.encoder.model_dim)}
    float32: np.dtype[Any] = np.dtype("<f4")
    int8: np.dtype[Any] = np.dtype("i1")
    uint8: np.dtype[Any] = np.dtype("u1")
    shapes: Shapes = {name: (float32, s) for name, s in weights.items() if len(s) == 1}

    def blocks(name: str, rows: int, columns: int, bits: int) -> None:
        size = _block(columns)
        counts = (rows, columns // size)
        shapes[f"{name}.scales"] = (float32, (*counts, 1))
        if bits == 8:
            shapes[f"{name}.codes"] = (int8, (*counts, size))
        else:
            shapes[f"{name}.codes"] = (uint8, (*counts, size // 2))
            shapes[f"{name}.zeros"] = (uint8, (*counts, 1))

    for names, bits in _stacks(config, precision).items():
        stack = "+".join(names)
        rows, columns = sum(weights[name][0] for name in names), weights[names[0]][1]
        if bits == 32:
            shapes[stack] = (float32, (rows, columns))
        elif bits == 8:
            shapes[f"{stack}.codes"] = (int8, (rows, columns))
            shapes[f"{stack}.scales"] = (float32, (rows, 1))
        else:
            blocks(stack, rows, columns, 4)
    rows, columns = weights["embed"]
    blocks("embed", rows, columns, 4 if precision == "int4" else 8)
    return shapes


def _fill(
    arrays: Mapping[str, np.ndarray], checkpoint: EmbeddingCheckpoint, precision: str
) -> None:
    """Quantise a checkpoint into arrays of `_shapes`, by matrices and pieces of the table."""
    with Progress(
        f"weights to {precision}",
        total=checkpoint.config.encoder.vocab_size,
        unit="rows",
        show=None,
    ) as bar:
        _fill_maps(arrays, checkpoint, precision)
        _fill_table(arrays, checkpoint.tensors["embed"], precision, bar)


def _fill_maps(
    arrays: Mapping[str, np.ndarray], checkpoint: EmbeddingCheckpoint, precision: str
) -> None:
    tensors = checkpoint.tensors
    for name, shape in checkpoint.config.weight_shapes().items():
        if len(shape) == 1:
            arrays[name][...] = tensors[name].float32()
    for names, bits in _stacks(checkpoint.config, precision).items():
        stack, weights = "+".join(names), matrix(tensors, *names)
        if bits == 32:
            arrays[stack][...] = weights
            continue
        parts = _blocks4(weights) if bits == 4 else _codes8(weights)
        for part, array in parts.items():
            arrays[f"{stack}.{part}"][...] = array


def _fill_table(
    arrays: Mapping[str, np.ndarray], stored: StoredTensor, precision: str, bar: Progress
) -> None:
    table, size = stored.mapped(), _block(stored.shape[1])
    for first in range(0, len(table), _TABLE_ROWS):
        piece = to_float32(table[first : first + _TABLE_ROWS], stored.dtype)
        if precision == "int4":
            parts = _blocks4(piece)
        else:
            rows = _codes8(piece.reshape(-1, size))  # a block is a row of its own
            parts = {k: v.reshape(len(piece), -1, v.shape[1]) for k, v in rows.items()}
        for part, array in parts.items():
            arrays[f"embed.{part}"][first : first + len(piece)] = array
        bar.advance(len(piece))
        release(table)
        for array in arrays.values():
            release(array)


def _codes8(weights: np.ndarray) -> dict[str, np.ndarray]:
    codes, scales = int8_rows(weights)
    return {"codes": codes, "scales": scales}


def _blocks4(weights: np.ndarray) -> dict[str, np.ndarray]:
    codes, zeros, scales = int4_blocks(weights, block=_block(weights.shape[1]))
    return {"codes": pack(codes), "scales": scales, "zeros": zeros}


def _block(columns: int) -> int:
    return math.gcd(columns, BLOCK)
