"""Texts to vectors: the object most people use.

>>> import culet
>>> embedder = culet.load()
>>> embedder.encode_query(["where is the culet?"]).shape == (1, embedder.dim)
True
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from culet.checkpoint import Checkpoint, read_checkpoint
from culet.errors import CheckpointError, InputError, MissingExtra
from culet.progress import Progress
from culet.prompts import Prompts
from culet.tokenizer import TextTokenizer

if TYPE_CHECKING:
    import torch

    from culet.model.embedding import EmbeddingModel

OnLong = Literal["truncate", "error"]
PACKAGED = Path(__file__).parent / "packaged"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_CHUNK_TOKENS = {"cpu": 2048, "mps": 16_384, "cuda": 65_536}


def load(
    path_or_name: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
) -> Embedder:
    """Return an embedder.

    Args:
        path_or_name: A checkpoint folder, a hub id ("google/embeddinggemma-300m"), or None for
            the small model that ships with the package.
        device: "cpu", "cuda", "mps"; None takes the best there is.
        dtype: "float32" or "bfloat16"; None means bfloat16 on an accelerator, float32 on a CPU.

    Raises:
        CheckpointError: If the folder cannot be trusted; see `culet.checkpoint`.
        InputError: If the name is neither a folder nor a hub id, or the dtype is float16.
        MissingExtra: If PyTorch is not installed.
    """
    folder = find_checkpoint(path_or_name)
    checkpoint = read_checkpoint(folder)
    name = "culet-default" if path_or_name is None else str(path_or_name)
    try:
        import torch

        from culet.model.embedding import check_dtype
        from culet.model.weights import from_arrays
    except ImportError as error:
        raise MissingExtra("torch", extra="torch", purpose="embedding") from error
    device = _checked_device(device or _best_device())
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    compute = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(compute, torch.dtype):
        raise InputError(f"dtype must be float32 or bfloat16, got {dtype!r}")
    compute = check_dtype(compute)
    model = from_arrays(checkpoint.config, checkpoint.arrays(), dtype=compute, device=device)
    return Embedder(checkpoint, model, name=name, device=device, dtype=compute)


class Embedder:
    """A loaded model with its tokenizer and prompts.

    Attributes:
        name: What it was loaded by.
        prompts: The checkpoint's prompts.
        widths: Trained widths, largest first.
        dim: The full width.
        max_length: Longest text in tokens, prompt, BOS and EOS included.
        fingerprint: 16 hex digits that change with weights, config, tokenizer or prompts.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: EmbeddingModel,
        *,
        name: str,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.name = name
        self.checkpoint = checkpoint
        self.prompts = Prompts.from_names(checkpoint.prompts)
        self.widths = checkpoint.config.widths
        self.dim = checkpoint.config.embedding_dim
        self.max_length = checkpoint.config.encoder.max_length
        self.fingerprint = checkpoint.fingerprint
        self._tokenizer = TextTokenizer.load(
            checkpoint.tokenizer_json.parent, max_length=self.max_length
        )
        self._model = model
        self._device = device
        self._dtype = dtype

    def __repr__(self) -> str:
        return (
            f"Embedder({self.name!r}, dim={self.dim}, widths={self.widths}, "
            f"max_length={self.max_length}, device={self._device!r}, dtype={self._dtype})"
        )

    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        task: str = "search",
        instruction: str | None = None,
        truncate_to: int | None = None,
        on_long: OnLong = "truncate",
        progress: bool | None = None,
    ) -> np.ndarray:
        """Return the unit vector of each query, float32 [B, E], in the order given.

        One string gives one vector [E]. No text gives an array [0, E]. An empty string is a
        valid text: its vector is that of the prompt alone.

        Args:
            texts: What is searched with; also both sides of symmetric tasks.
            task: One of `embedder.prompts.tasks`: "search", "similarity", "classification", …
            instruction: Own words in place of the task's.
            truncate_to: A trained width; None means the full one.
            on_long: A text beyond `max_length` tokens is cut with a warning, or an error.
            progress: True shows it, False does not, None once it takes more than two seconds.

        Raises:
            InputError: Unknown task, untrained width, or a text that is none or too long.
        """
        prompt = self.prompts.query(task, instruction=instruction)
        listed = _listed(texts)
        prefixes = [prompt] * len(listed)
        vectors = self._encode(listed, prefixes, truncate_to, on_long, progress, "queries")
        return vectors[0] if isinstance(texts, str) else vectors

    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        titles: str | Sequence[str | None] | None = None,
        truncate_to: int | None = None,
        on_long: OnLong = "truncate",
        progress: bool | None = None,
    ) -> np.ndarray:
        """Return the unit vector of each document, float32 [B, E], in the order given.

        Args:
            texts: The documents; see `encode_query` for one, none and empty ones.
            titles: A title for each document, or None where there is none.
            truncate_to: A trained width; None means the full one.
            on_long: As in `encode_query`.
            progress: As in `encode_query`.

        Raises:
            InputError: As in `encode_query`, or titles and texts differ in number.
        """
        listed = _listed(texts)
        given = [None] * len(listed) if titles is None else _listed(titles)
        if len(given) != len(listed):
            raise InputError(
                f"expected a title for each document, got {len(given)} titles for "
                f"{len(listed)} documents; give None where there is no title"
            )
        for i, title in enumerate(given):
            if not isinstance(title, str | None):
                raise InputError(f"title {i} must be a string or None, got {type(title).__name__}")
        prefixes = [self.prompts.document(title) for title in given]
        vectors = self._encode(listed, prefixes, truncate_to, on_long, progress, "documents")
        return vectors[0] if isinstance(texts, str) else vectors

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the cosine of each row of a with each row of b, float32 [A, B].

        Raises:
            InputError: If the widths differ.
        """
        left, right = (np.atleast_2d(np.asarray(x, dtype=np.float32)) for x in (a, b))
        if left.shape[1] != right.shape[1]:
            raise InputError(
                f"similarity needs vectors of one width, got {left.shape[1]} and {right.shape[1]}; "
                "truncate both sides alike"
            )
        cosines: np.ndarray = _unit(left) @ _unit(right).T
        return cosines

    def _encode(
        self,
        texts: list[str],
        prefixes: list[str],
        truncate_to: int | None,
        on_long: OnLong,
        progress: bool | None,
        what: str,
    ) -> np.ndarray:
        import torch

        from culet.model.batch import pack
        from culet.model.embedding import check_width, normalize

        width = self.dim if truncate_to is None else truncate_to
        check_width(width, self.widths)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {i} must be a string, got {type(text).__name__}")
        prompted = [prefix + text for prefix, text in zip(prefixes, texts, strict=True)]
        tokenized = self._tokenizer.encode(prompted, on_long=on_long)
        if tokenized.overlong:
            longest = max(length for _, length in tokenized.overlong)
            warnings.warn(
                f"{len(tokenized.overlong)} of {len(texts)} {what} are longer than "
                f"{self.max_length} tokens and were cut (the first is number "
                f"{tokenized.overlong[0][0]}, the longest has {longest} tokens); split them, or "
                "pass on_long='error' to be stopped",
                UserWarning,
                stacklevel=3,
            )
        vectors = np.empty((len(texts), width), dtype=np.float32)
        budget = _CHUNK_TOKENS.get(self._device.partition(":")[0], 2048)
        with (
            Progress("embedding", total=len(texts), unit=what, show=progress) as bar,
            torch.inference_mode(),
        ):
            for index in _chunks([len(ids) for ids in tokenized.ids], budget):
                batch = pack([tokenized.ids[i] for i in index]).to(self._device)
                embedding = self._model(batch, compute_dtype=self._dtype)
                if width < self.dim:
                    embedding = normalize(embedding[:, :width])
                vectors[index] = embedding.cpu().numpy()
                bar.advance(len(index))
        if not np.isfinite(vectors).all():
            raise CheckpointError(
                f"{self.name} gives vectors that are not finite; its weights are damaged"
            )
        return vectors


def _chunks(lengths: Sequence[int], budget: int) -> list[np.ndarray]:
    """Return indices of texts of similar length, at most `budget` tokens together, longest first.

    Longest first, so that memory peaks at once and not after an hour.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    chunks: list[list[int]] = []
    filled = budget
    for i in order:
        if filled + lengths[i] > budget:
            chunks.append([])
            filled = 0
        chunks[-1].append(int(i))
        filled += lengths[i]
    return [np.array(chunk) for chunk in chunks]


def _listed(texts: str | Iterable[Any]) -> list[Any]:
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable):
        raise InputError(f"expected a string or a list of strings, got {type(texts).__name__}")
    return list(texts)


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.maximum(norms, 1e-12)
    return unit


def _checked_device(device: str) -> str:
    """Return the name of a device, or say that this machine has none of that kind."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a build without it
        raise InputError(
            f"device {device!r} cannot be used here: {str(error).splitlines()[0]}"
        ) from error
    return device


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def find_checkpoint(path_or_name: str | Path | None) -> Path:
    """Return the folder of a checkpoint, fetched from the hub if the name is a hub id."""
    if path_or_name is None:
        if not (PACKAGED / "modules.json").exists():
            raise CheckpointError(
                "this installation carries no packaged model; name a checkpoint folder"
            )
        return PACKAGED
    path = Path(path_or_name)
    if path.exists():
        return path
    if not isinstance(path_or_name, str) or not _HUB_NAME.fullmatch(path_or_name):
        raise InputError(
            f"{path_or_name} is neither a folder that exists nor a hub id like "
            "google/embeddinggemma-300m"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                path_or_name,
                allow_patterns=["*.json", "*/config.json", "*.safetensors", "*/*.safetensors"],
                ignore_patterns=["onnx/*", "openvino/*"],
            )
        )
    except Exception as error:  # network, gate and naming errors of many kinds
        raise InputError(
            f"{path_or_name} is not a folder here and could not be fetched from the hub: {error}"
        ) from error
