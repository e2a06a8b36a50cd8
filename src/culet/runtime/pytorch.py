"""The PyTorch engine: token ids to unit vectors, packed, on whatever device PyTorch has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from culet.architecture.multimodal import SoftTokens
from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.errors import InputError
from culet.model.batch import TokenBatch, TokenVectors, pack, split_by_length
from culet.model.embedding_model import EmbeddingModel, check_dtype
from culet.model.weights import from_arrays

_CHUNK_TOKENS = {"cpu": 2048, "mps": 16_384, "cuda": 65_536}


class TorchEngine:
    """A model on a device.

    Args:
        model: The model, already there.
        device: "cpu", "cuda", "mps", …
        dtype: What it computes in.

    Attributes:
        name: Backend, device and precision, for messages.
        backend: "torch".
        precision: "float32" or "bfloat16".
    """

    def __init__(self, model: EmbeddingModel, *, device: str, dtype: torch.dtype) -> None:
        self.precision = str(dtype).removeprefix("torch.")
        self.backend = "torch"
        self.name = f"torch {device} {self.precision}"
        self._process = os.getpid()
        self._model = model
        self._device = device
        self._dtype = dtype

    def embed(
        self, texts: Sequence[np.ndarray], *, soft: Mapping[int, SoftTokens] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (indices of some texts, their unit vectors float32 [b, E]) until all are done.

        Args:
            texts: Token ids of each text; none without tokens.
            soft: Soft tokens of some texts, by index.

        Raises:
            InputError: If soft tokens do not fit; or in a forked child, which has none of
                PyTorch's threads and would hang.
        """
        if os.getpid() != self._process:
            raise InputError(
                f"this embedder ({self.name}) was loaded before a fork; load it in the child, or "
                "use spawn"
            )
        soft = soft or {}
        for i, tokens in soft.items():
            tokens.check(len(texts[i]), self._model.config.encoder.model_dim)
        budget = _CHUNK_TOKENS.get(self._device.partition(":")[0], 2048)
        for index in split_by_length([len(ids) for ids in texts], budget, first="longest"):
            with torch.inference_mode():  # not around the yield: it would reach the caller
                batch = pack([texts[i] for i in index])
                stand_in = _packed(soft, index, batch)
                if stand_in is not None:
                    stand_in = stand_in.to(self._device)
                batch = batch.to(self._device)
                vectors = self._model(batch, compute_dtype=self._dtype, soft=stand_in)
            yield index, vectors.cpu().numpy()


def torch_engine(
    checkpoint: EmbeddingCheckpoint,
    precision: str | None = None,
    *,
    device: str,
    threads: int | None = None,
) -> TorchEngine:
    """Return the engine of a checkpoint.

    Args:
        checkpoint: The model.
        precision: "float32" or "bfloat16"; None is bfloat16 on an accelerator.
        device: Where.
        threads: CPU threads of PyTorch, for the whole process; None leaves its choice.

    Raises:
        InputError: If this machine has no such device, or the precision is another.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a build without it
        raise InputError(
            f"device {device!r} cannot be used here: {str(error).splitlines()[0]}"
        ) from error
    precision = precision or ("float32" if device == "cpu" else "bfloat16")
    dtype = getattr(torch, precision, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(
            f"precision must be float32 or bfloat16 with PyTorch, got {precision!r}; "
            "int8 and int4 run on device='cpu' with the OpenVINO backend"
        )
    dtype = check_dtype(dtype)
    if threads is not None:
        torch.set_num_threads(threads)
    model = from_arrays(checkpoint.config, checkpoint.arrays(), dtype=dtype, device=device)
    return TorchEngine(model, device=device, dtype=dtype)


def _packed(
    soft: Mapping[int, SoftTokens], index: np.ndarray, batch: TokenBatch
) -> TokenVectors | None:
    """Return the soft tokens of the texts that a batch holds, None if there are none."""
    found = [(text, soft[i]) for text, i in enumerate(index.tolist()) if i in soft]
    if not found:
        return None
    texts = np.repeat([text for text, _ in found], [len(tokens.places) for _, tokens in found])
    positions = np.concatenate([tokens.places for _, tokens in found])
    vectors = np.concatenate([tokens.vectors for _, tokens in found]).astype(np.float32)
    places = batch.places(torch.from_numpy(texts), torch.from_numpy(positions))
    return TokenVectors(places, torch.from_numpy(vectors))
