"""What the tests of the runtime share: random texts, and vectors from the engine and the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch

from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.model.batch import pack
from culet.model.weights import from_arrays
from culet.runtime.openvino.engine import OpenVinoEngine

HAS_BFLOAT16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
BFLOAT16 = pytest.param(
    "bfloat16",
    marks=pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no bfloat16 instructions"),
)
LENGTHS = (
    1,
    2,
    3,
    17,
    254,
    255,
    256,
    257,
    258,
    259,
    511,
    512,
    513,
    514,
    700,
    768,
    769,
    800,
    1024,
    1025,
    2048,
)


def texts(lengths: Sequence[int], *, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(16, 272, size=length).astype(np.int32) for length in lengths]


def embed(engine: OpenVinoEngine, ids: list[np.ndarray]) -> np.ndarray:
    parts = list(engine.embed(ids))
    order = np.concatenate([index for index, _ in parts])
    assert sorted(order.tolist()) == list(range(len(ids)))
    vectors = np.empty_like(np.concatenate([vectors for _, vectors in parts]))
    vectors[order] = np.concatenate([vectors for _, vectors in parts])
    return vectors


def reference(checkpoint: EmbeddingCheckpoint, ids: list[np.ndarray]) -> np.ndarray:
    model = from_arrays(checkpoint.config, checkpoint.arrays())
    with torch.inference_mode():
        return np.asarray(model(pack(ids)))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
