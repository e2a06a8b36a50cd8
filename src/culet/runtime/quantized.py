"""The file of quantised weights that an int8 or int4 engine maps, made once from a checkpoint.

It lies in the user's cache folder under the checkpoint's fingerprint, beside its CRC-32: a
damaged one is made again, one that belongs to other weights is never found. Format: safetensors;
for a linear map or the token table W, `W.codes` and `W.scales`.

    int8   codes int8 [O, I]           scales float32 [O, 1]         a scale a row
    int4   codes uint8 [O, I/32, 16]   scales float32 [O, I/32, 1]   two codes a byte, and
                                       zeros uint8 [O, I/32, 1]

Norms are kept as they are.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from culet.atomic import new_file
from culet.cachefolder import cache_folder
from culet.checkpoint import Checkpoint
from culet.errors import CheckpointError, InputError
from culet.quant.grids import int4_blocks, int8_rows
from culet.runtime.weights import QuantizedWeights, linear_maps, matrix, pack
from culet.tensorfile import checksum, read_tensors, to_float32, write_tensors

BLOCK = 32  # weights of a row that share a scale in int4
_VERSION = 2
_TABLE_ROWS = 8192  # of the token table at a time: it is large and memory is what int4 is for


def quantized_weights(
    checkpoint: Checkpoint,
    precision: str,
    *,
    folder: Path | None = None,
) -> QuantizedWeights:
    """Return a checkpoint's weights in int8 or int4, from the cache or made now and kept there.

    A damaged or unwritable cache is a warning.

    Args:
        checkpoint: The model.
        precision: "int8" or "int4".
        folder: Where the file is kept; the user's cache folder if None.
    """
    folder = folder or cache_folder() / "weights"
    path = folder / f"{checkpoint.fingerprint}-{precision}-{_VERSION}.safetensors"
    if path.exists():
        try:
            return _read(path)
        except (CheckpointError, OSError, ValueError) as error:
            _warn(f"the cached weights are damaged and are made again: {error}")
    arrays = dict(_arrays(checkpoint, precision))
    try:
        write_tensors(path, arrays)
        with new_file(path.with_suffix(".crc32")) as aside:
            aside.write_text(checksum(path))
    except InputError as error:
        _warn(f"the {precision} weights are not kept for the next start: {error}")
        return QuantizedWeights(arrays)
    return _read(path)


def _read(path: Path) -> QuantizedWeights:
    stated = path.with_suffix(".crc32").read_text().strip()
    found = checksum(path)
    if stated != found:
        raise CheckpointError(f"{path} has the CRC-32 {found} instead of {stated}")
    tensors = read_tensors(path, codes=True)
    # private, since OpenVINO takes views of writable arrays only
    return QuantizedWeights({name: tensor.mapped(private=True) for name, tensor in tensors.items()})


def _arrays(checkpoint: Checkpoint, precision: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what the file holds, by name."""
    tensors = checkpoint.tensors
    for name, shape in checkpoint.config.weight_shapes().items():
        if len(shape) == 1:
            yield name, tensors[name].float32()
    for names in linear_maps(checkpoint.config):
        for part, array in _quantize(matrix(tensors, *names), precision).items():
            yield f"{'+'.join(names)}.{part}", array
    table, dtype = tensors["embed"].mapped(), tensors["embed"].dtype
    pieces = [
        _quantize(to_float32(table[first : first + _TABLE_ROWS], dtype), precision)
        for first in range(0, len(table), _TABLE_ROWS)
    ]
    for part in pieces[0]:
        yield f"embed.{part}", np.concatenate([piece[part] for piece in pieces])


def _quantize(weights: np.ndarray, precision: str) -> dict[str, np.ndarray]:
    if precision == "int8":
        codes, scales = int8_rows(weights)
        return {"codes": codes, "scales": scales}
    codes, zeros, scales = int4_blocks(weights, block=math.gcd(weights.shape[1], BLOCK))
    return {"codes": pack(codes), "scales": scales, "zeros": zeros}


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=4)
