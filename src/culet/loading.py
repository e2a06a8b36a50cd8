"""From a name to an embedder: which folder, which backend, which device, which precision."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.recognize import recognize
from culet.checkpoints.sums import SUMS_FILE, check_sums
from culet.embedder import Embedder, Engine
from culet.errors import CheckpointError, InputError, need

Backend = Literal["openvino", "torch"]
PACKAGED = Path(__file__).parent / "packaged"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "i8": "int8", "i4": "int4"}
# What a GPU's driver leaves behind on Linux; asking PyTorch costs its import, a second or two.
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def load(
    path_or_name: str | Path | None = None,
    *,
    device: str | None = None,
    precision: str | None = None,
    backend: Backend | None = None,
    threads: int | None = None,
    verify: bool = False,
) -> Embedder:
    """Return an embedder.

    Args:
        path_or_name: A checkpoint folder, a hub id ("google/embeddinggemma-300m"), or None for
            the small model that ships with the package.
        device: "cpu", "cuda", "mps"; None takes the best there is.
        precision: "float32", "bfloat16", and on CPUs "int8" and "int4"; None means bfloat16 where
            the device computes in it, else float32.
        backend: "openvino" (CPUs, the default there) or "torch".
        threads: CPU threads; None leaves the backend's choice.
        verify: Check the SHA-256 of each file too, by the sums that culet writes into a folder.

    Raises:
        CheckpointError: If the folder cannot be trusted; see `culet.checkpoints.embedding`.
        InputError: If the name is neither a folder nor a hub id, or the device cannot compute
            in that precision, or there is too little memory.
        MissingExtra: If the backend needs PyTorch and it is not installed.
    """
    folder = find_checkpoint(path_or_name)
    checkpoint = read_embedding_model(folder)
    if verify and check_sums(folder) is None:
        raise CheckpointError(f"{folder} has no {SUMS_FILE}, so its files cannot be verified")
    name = "culet-default" if path_or_name is None else str(path_or_name)
    device, backend, threads = _place(device, backend, threads)
    engine = _engine(checkpoint, device, precision, backend, threads)
    again = partial(
        _load_again,
        None if path_or_name is None else folder.absolute(),
        name=name,
        fingerprint=checkpoint.fingerprint,
        device=device,
        precision=engine.precision,
        backend=backend,
        threads=threads,
    )
    return Embedder(checkpoint, engine, name=name, again=again)


def _load_again(folder: Path | None, *, name: str, fingerprint: str, **options: Any) -> Embedder:
    """Return the embedder that was pickled or copied.

    Raises:
        CheckpointError: If another model is in its folder now.
    """
    embedder = load(folder, **options)
    if embedder.fingerprint != fingerprint:
        raise CheckpointError(
            f"{embedder.checkpoint.path} holds another model (fingerprint "
            f"{embedder.fingerprint}) than when the embedder was pickled ({fingerprint})"
        )
    embedder.name = name
    return embedder


def _place(
    device: str | None, backend: Backend | None, threads: Any
) -> tuple[str, Backend, int | None]:
    """Return device, backend and threads, chosen where they are not given."""
    if backend not in (None, "openvino", "torch"):
        raise InputError(f"backend must be 'openvino' or 'torch', got {backend!r}")
    if threads is not None:
        whole = isinstance(threads, Integral) and not isinstance(threads, bool)
        if not whole or threads < 1:
            raise InputError(f"threads must be a whole number of at least 1, got {threads!r}")
        threads = int(threads)
    device = device or ("cpu" if backend == "openvino" else _best_device())
    return device, backend or ("openvino" if device == "cpu" else "torch"), threads


def _engine(
    checkpoint: EmbeddingCheckpoint,
    device: str,
    precision: str | None,
    backend: Backend,
    threads: int | None,
) -> Engine:
    precision = None if precision is None else _PRECISIONS.get(str(precision), str(precision))
    if backend == "openvino":
        if device != "cpu":
            raise InputError(f"the OpenVINO backend runs on device 'cpu', got {device!r}")
        from culet.runtime.openvino.engine import OpenVinoEngine

        return OpenVinoEngine(checkpoint, precision, threads=threads)
    need("torch", extra="torch", purpose=f"device {device!r}")
    from culet.runtime.pytorch import torch_engine

    return torch_engine(checkpoint, precision, device=device, threads=threads)


def _best_device() -> str:
    """Return "cuda" or "mps" where PyTorch can use one, else "cpu"."""
    likely = sys.platform != "linux" or any(Path(file).exists() for file in _GPU_FILES)
    if not likely or importlib.util.find_spec("torch") is None:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def find_checkpoint(path_or_name: str | Path | None) -> Path:
    """Return the folder of a checkpoint, fetched from the hub if the name is a hub id."""
    if path_or_name is None:
        if recognize(PACKAGED) is None:
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
                allow_patterns=[
                    SUMS_FILE,
                    "*.json",
                    "*/config.json",
                    "*.safetensors",
                    "*/*.safetensors",
                ],
                ignore_patterns=["onnx/*", "openvino/*"],
            )
        )
    except Exception as error:  # network, gate and naming errors of many kinds
        raise InputError(
            f"{path_or_name} is not a folder here and could not be fetched from the hub: {error}"
        ) from error
