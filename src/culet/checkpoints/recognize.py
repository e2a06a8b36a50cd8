"""What lies at a path: the one place that recognizes a model, and opens it whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from culet.checkpoints import gemma, t5gemma
from culet.checkpoints.checkpoint import AnyCheckpoint, GeneratingCheckpoint
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.folder import architecture, read_json
from culet.errors import CheckpointError, InputError

Kind = Literal["embedding model", "decoder", "encoder-decoder"]
_KNOWN = (*gemma.ARCHITECTURES, *t5gemma.ARCHITECTURES)


def recognize(path: Path) -> Kind | None:
    """Return what the small files at a path show it to be; None if they show nothing.

    An embedding model is any sentence-transformers folder, also one that culet cannot read; a
    decoder is also any GGUF file, and any other folder with a config.json that does not name an
    encoder-decoder.

    Raises:
        CheckpointError: If config.json cannot be read.
    """
    if (path / "modules.json").exists():
        return "embedding model"
    if (path / "config.json").exists():
        raw = read_json(path / "config.json")
        paired = raw.get("is_encoder_decoder") or architecture(raw) in t5gemma.ARCHITECTURES
        return "encoder-decoder" if paired else "decoder"
    return "decoder" if path.suffix == ".gguf" else None


def read_any(path: Path | str) -> AnyCheckpoint:
    """Return the embedding model, decoder or encoder-decoder at a path, with everything checked.

    Raises:
        CheckpointError: If it is none of these, or cannot be trusted.
    """
    path = Path(path)
    kind = recognize(path)
    if kind == "embedding model" or (kind is None and path.is_dir()):
        return read_embedding_model(path)
    if path.is_dir() and (name := architecture(read_json(path / "config.json"))) not in _KNOWN:
        raise CheckpointError(
            f"{path} has no modules.json, so it is no embedding model that could be used, and "
            f"config.json names the architecture {name!r}, which is no decoder or "
            f"encoder-decoder known here; known are {', '.join(_KNOWN)}"
        )
    return read_generating(path)


def read_generating(path: Path | str) -> GeneratingCheckpoint:
    """Return the decoder (a folder or a GGUF file) or the encoder-decoder at a path.

    Raises:
        CheckpointError: If it is neither, or cannot be trusted.
        InputError: If it is an embedding model, which writes nothing.
    """
    path = Path(path)
    kind = recognize(path)
    if kind == "embedding model":
        raise InputError(
            f"{path} is an embedding model, which writes no text; expected a decoder or an "
            "encoder-decoder"
        )
    if kind == "encoder-decoder":
        return t5gemma.read_encoder_decoder(path)
    return gemma.read_decoder(path)
