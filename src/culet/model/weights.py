"""Weights in and out of the models as named numpy arrays.

The names are culet's own (`weight_shapes` of each config), one array per matrix of the paper;
`culet.checkpoints.embedding` translates them to and from the names on disk. Inside the model query,
key and value are one matrix, and so are gate and up, because one large product is faster than
three small ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import overload

import numpy as np
import torch

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
from culet.errors import CheckpointError
from culet.model.decoder import Decoder
from culet.model.embedding_model import EmbeddingModel
from culet.model.encoder_decoder import EncoderDecoder

Config = EmbeddingConfig | DecoderConfig | EncoderDecoderConfig
Model = EmbeddingModel | Decoder | EncoderDecoder

_FUSED = {
    "qkv": ("query", "key", "value"),
    "key_value": ("key", "value"),
    "gate_up": ("gate", "up"),
}


def parameter_sources(model: Model) -> dict[str, tuple[str, ...]]:
    """Return, for each parameter of the model, the canonical weights stacked in it."""
    sources = {}
    for name, _ in model.named_parameters():
        path = name.removesuffix(".weight").removesuffix(".own").replace("stack.", "")
        if isinstance(model, EmbeddingModel):
            path = path.removeprefix("encoder.")
        parent, _, last = path.rpartition(".")
        parts = _FUSED.get(last, (last,))
        sources[name] = tuple(f"{parent}.{part}" if parent else part for part in parts)
    return sources


@overload
def from_arrays(
    config: EmbeddingConfig,
    arrays: Mapping[str, np.ndarray],
    *,
    dtype: torch.dtype = ...,
    device: torch.device | str = ...,
) -> EmbeddingModel: ...
@overload
def from_arrays(
    config: DecoderConfig,
    arrays: Mapping[str, np.ndarray],
    *,
    dtype: torch.dtype = ...,
    device: torch.device | str = ...,
) -> Decoder: ...
@overload
def from_arrays(
    config: EncoderDecoderConfig,
    arrays: Mapping[str, np.ndarray],
    *,
    dtype: torch.dtype = ...,
    device: torch.device | str = ...,
) -> EncoderDecoder: ...
def from_arrays(
    config: Config,
    arrays: Mapping[str, np.ndarray],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Model:
    """Return a model with the given weights.

    Args:
        config: The architecture, which decides the kind of model.
        arrays: float32 arrays under their canonical names.
        dtype: Dtype of the parameters.
        device: Device of the parameters.

    Raises:
        CheckpointError: If a weight is missing, unexpected or of the wrong shape.
    """
    shapes = config.weight_shapes()
    missing = [name for name in shapes if name not in arrays]
    extra = [name for name in arrays if name not in shapes]
    if missing or extra:
        raise CheckpointError(f"weights do not fit: missing {missing}, unexpected {extra}")
    with torch.device("meta"):
        model = _model_of(config)
    model = model.to_empty(device=device).to(dtype)
    if isinstance(model, EncoderDecoder):
        model.tie()
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for name, sources in parameter_sources(model).items():
            row = 0
            for source in sources:
                value = np.array(arrays[source], dtype=np.float32)  # a copy: files are read-only
                if value.shape != shapes[source]:
                    raise CheckpointError(
                        f"weight {source} must have shape {shapes[source]} by the config, "
                        f"got {value.shape}"
                    )
                parameters[name][row : row + len(value)].copy_(torch.from_numpy(value))
                row += len(value)
    return model.eval()


def _model_of(config: Config) -> Model:
    if isinstance(config, EmbeddingConfig):
        return EmbeddingModel(config)
    return Decoder(config) if isinstance(config, DecoderConfig) else EncoderDecoder(config)


def to_arrays(model: Model) -> dict[str, np.ndarray]:
    """Return the weights of a model as float32 arrays under their canonical names.

    Arrays of a float32 model on the CPU are views: they change as training continues.
    """
    shapes = model.config.weight_shapes()
    parameters = dict(model.named_parameters())
    arrays = {}
    for name, sources in parameter_sources(model).items():
        value = parameters[name].detach().float().cpu().numpy()
        row = 0
        for source in sources:
            arrays[source] = value[row : row + shapes[source][0]]
            row += shapes[source][0]
    return {name: arrays[name] for name in shapes}
