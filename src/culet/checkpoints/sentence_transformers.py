"""What sentence-transformers adds to a stack of layers: modules, pooling, dense heads, prompts.

Two generations of files are read (transformers 4.57 and 5, sentence-transformers 5 and 6), and
every setting is written under its old and its new name where they differ. What a folder sets that
this family does not have, and what would change the vectors, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from culet.architecture.embedding_config import POOLINGS, EmbeddingConfig, Pooling
from culet.architecture.encoder_config import EncoderConfig
from culet.checkpoints.families import EMBEDDINGGEMMA, write_stack
from culet.checkpoints.folder import (
    json_text,
    read_json,
    required,
    tokenizer_settings,
)
from culet.checkpoints.json_fields import integer
from culet.checkpoints.refusals import refuse_adapter, refuse_pickle
from culet.errors import CheckpointError
from culet.files.tensors import StoredDtype, StoredTensor, read_tensors

ARCHITECTURE = "Gemma3TextModel"
_PUBLISHED_WIDTHS = (768, 512, 256, 128)
_MODULES = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
_PLACES = ("", "1_Pooling", "2_Dense", "3_Dense", "4_Normalize")
_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "first", "lasttoken": "last"}
_FLAGS = {  # the older spelling of each mode
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


def module_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of the five stock modules, by what each of them does."""
    refuse_pickle(folder)
    path = folder / "modules.json"
    if not path.exists():
        refuse_adapter(folder)
        raise CheckpointError(
            f"{folder} has no modules.json, so its pooling and dense heads are unknown and the "
            "vectors would be wrong; expected the sentence-transformers folder of an embedding "
            "model"
        )
    modules = read_json(path, kind=list)
    if not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{path} must list JSON objects with a type and a path")
    kinds = [str(m.get("type", "")).rpartition(".")[2] for m in modules]
    shown = ["Pooling" if kind == "CuletPooling" else kind for kind in kinds]
    if shown != _MODULES:
        missing = "; a dense head is missing" if shown.count("Dense") < 2 else ""
        raise CheckpointError(
            f"{path} lists the modules {kinds}, expected {_MODULES}{missing}; vectors made "
            "without exactly these would be wrong: take the complete folder"
        )
    folders = []
    for module in modules:
        name = str(module.get("path", ""))
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{path} names {name!r}, which is not a folder inside {folder}")
        folders.append(folder / name)
    refuse_adapter(folders[0])
    names = ("transformer", "pooling", "up", "down", "normalize")
    return dict(zip(names, folders, strict=True))


@dataclass(frozen=True)
class PoolingSettings:
    """How token states become one vector."""

    kind: Pooling
    tokens: int = 1
    heads: int = 4


def pooling_config(
    raw: Mapping[str, Any], encoder: EncoderConfig, *, where: Path
) -> PoolingSettings:
    """Return the pooling a Pooling module's config describes, in its old or new spelling."""
    if "culet_pooling" in raw:
        return _own_pooling(raw["culet_pooling"], where)
    mode = raw.get("pooling_mode") or [name for key, name in _FLAGS.items() if raw.get(key)]
    modes = mode if isinstance(mode, list) else [mode]
    if len(modes) != 1 or not isinstance(modes[0], str) or modes[0] not in _POOLINGS:
        raise CheckpointError(f"{where}: pooling must be one of {sorted(_POOLINGS)}, got {modes}")
    if raw.get("include_prompt", True) is not True:
        raise CheckpointError(
            f"{where}: include_prompt must be true; this family pools the prompt's tokens too"
        )
    width = raw.get("embedding_dimension", raw.get("word_embedding_dimension"))
    if width not in (None, encoder.model_dim):
        raise CheckpointError(
            f"{where}: pools vectors of width {width}, the encoder's are {encoder.model_dim} wide"
        )
    return PoolingSettings(_POOLINGS[modes[0]])


def _own_pooling(stated: Any, where: Path) -> PoolingSettings:
    """Return the pooling that culet wrote under its own key."""
    expected = {"kind", "tokens", "heads"}
    if not isinstance(stated, dict) or set(stated) != expected or stated["kind"] not in POOLINGS:
        raise CheckpointError(
            f"{where}: culet_pooling must give a kind among {POOLINGS}, tokens and heads, "
            f"got {stated!r}"
        )
    return PoolingSettings(
        stated["kind"], integer(stated, "tokens", where), integer(stated, "heads", where)
    )


def _stated_shape(raw: Mapping[str, Any], *, where: Path) -> tuple[Any, Any]:
    """Return (out, in) features of a Dense module after checking that it is only a linear map."""
    activation = str(raw.get("activation_function", "")).rpartition(".")[2]
    if raw.get("bias", True) or activation != "Identity" or raw.get("use_residual"):
        raise CheckpointError(
            f"{where}: expected a dense head without bias and residual and with activation "
            f"Identity, got bias={raw.get('bias', True)}, "
            f"residual={raw.get('use_residual', False)} and activation {activation!r}"
        )
    check_flow(raw, where=where)
    return raw.get("out_features"), raw.get("in_features")


def check_flow(raw: Mapping[str, Any], *, where: Path) -> None:
    """Raise CheckpointError if a module reads or writes anything but the text's one vector."""
    for key in ("module_input_name", "module_output_name"):
        if raw.get(key) not in (None, "sentence_embedding"):
            raise CheckpointError(
                f"{where}: {key} must be 'sentence_embedding', got {raw[key]!r}; this model "
                "is built another way than EmbeddingGemma"
            )


def check_head(up: tuple[int, ...], down: tuple[int, ...], model_dim: int, folder: Path) -> None:
    """Raise CheckpointError unless the two dense heads follow on from the encoder."""
    if up[1] != model_dim or down[1] != up[0]:
        raise CheckpointError(
            f"{folder}: the dense heads map {up[1]} -> {up[0]} and {down[1]} -> {down[0]}, which "
            f"does not continue from the encoder's width {model_dim}"
        )


def trained_widths(
    raw: Mapping[str, Any], encoder: EncoderConfig, embedding_dim: int, *, where: Path
) -> tuple[int, ...]:
    """Return the trained widths, largest first: stated, EmbeddingGemma's own, or the full one."""
    stated = raw.get("matryoshka_dimensions")
    if not stated:
        shape = (encoder.num_layers, encoder.model_dim, embedding_dim)
        stated = list(_PUBLISHED_WIDTHS) if shape == (24, 768, 768) else []
    if not isinstance(stated, list) or not all(
        type(width) is int and 0 < width <= embedding_dim for width in stated
    ):
        raise CheckpointError(
            f"{where}: matryoshka_dimensions must list widths up to {embedding_dim}, got {stated!r}"
        )
    return tuple(sorted({*stated, embedding_dim}, reverse=True))


def read_dense(folder: Path) -> StoredTensor:
    """Return the weight of a Dense module after checking that it is a plain linear map."""
    refuse_pickle(folder)
    stated = _stated_shape(read_json(folder / "config.json"), where=folder / "config.json")
    tensors = read_tensors(required(folder / "model.safetensors"))
    if list(tensors) != ["linear.weight"]:
        raise CheckpointError(f"{folder}: expected one tensor linear.weight, got {sorted(tensors)}")
    weight = tensors["linear.weight"]
    if weight.shape != stated:
        raise CheckpointError(
            f"{folder}: the dense head has shape {weight.shape}, its config says {stated}"
        )
    return weight


def read_prompts(path: Path) -> dict[str, str]:
    """Return the prompts of config_sentence_transformers.json, name to prefix.

    Raises:
        CheckpointError: If the file is missing: without its prompts a model gives other vectors.
    """
    if not path.exists():
        raise CheckpointError(
            f"{path} is missing, or a link to a file that is not there, so the model's prompts are "
            'unknown; take it again, or write {"prompts": {}} there if the model has none'
        )
    prompts = read_json(path).get("prompts")
    prompts = {} if prompts is None else prompts
    if not isinstance(prompts, dict) or not all(
        isinstance(prompt, str | None) for prompt in prompts.values()
    ):
        raise CheckpointError(f"{path}: prompts must map names to strings, got {prompts!r:.200}")
    return {name: prompt for name, prompt in prompts.items() if prompt is not None}


def small_files(
    config: EmbeddingConfig, *, dtype: StoredDtype, prompts: Mapping[str, str]
) -> dict[str, str]:
    """Return the small files of an embedding model's folder, path to content."""
    max_length = config.encoder.max_length
    stock, pooling = _pooling_file(config)
    kinds = [f"sentence_transformers.models.{kind}" for kind in _MODULES]
    kinds[1] = kinds[1] if stock else "culet.CuletPooling"
    texts: dict[str, Any] = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": kind}
            for i, (path, kind) in enumerate(zip(_PLACES, kinds, strict=True))
        ],
        "config.json": {
            "architectures": [ARCHITECTURE],
            **write_stack(config.encoder, EMBEDDINGGEMMA),
            "dtype": dtype,
            "torch_dtype": dtype,
            "matryoshka_dimensions": list(config.widths),
        },
        "1_Pooling/config.json": pooling,
        "2_Dense/config.json": _dense_file(config.encoder.model_dim, config.projection_dim),
        "3_Dense/config.json": _dense_file(config.projection_dim, config.embedding_dim),
        "4_Normalize/config.json": {},
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "__version__": {},
            "prompts": dict(prompts),
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "tokenizer_config.json": tokenizer_settings(max_length, padding_side="right"),
    }
    return {name: json_text(value) for name, value in texts.items()}


def _pooling_file(config: EmbeddingConfig) -> tuple[bool, dict[str, Any]]:
    """Return whether a stock module can pool like this, and the content of its config."""
    mode = next((mode for mode, kind in _POOLINGS.items() if kind == config.pooling), None)
    if mode is not None and config.pooling_tokens == 1:
        return True, {
            "word_embedding_dimension": config.encoder.model_dim,
            **{flag: mode == name for flag, name in _FLAGS.items()},
            "include_prompt": True,
        }
    # none does: a name of our own makes other readers stop, not guess
    own = {
        "kind": config.pooling,
        "tokens": config.pooling_tokens,
        "heads": config.pooling_heads,
    }
    return False, {"culet_pooling": own}


def _dense_file(in_dim: int, out_dim: int) -> dict[str, Any]:
    return {
        "in_features": in_dim,
        "out_features": out_dim,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
