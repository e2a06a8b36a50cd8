"""Stacks and decoders in culet's own words, for settings that no other library has a name for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from culet.architecture.encoder_config import EncoderConfig
from culet.architecture.generating_config import DecoderConfig
from culet.checkpoints.families import check_num_layers
from culet.checkpoints.json_fields import optional_number
from culet.errors import CheckpointError, InputError

_TYPES: dict[str, set[type]] = {
    "int": {int},
    "float": {int, float},
    "bool": {bool},
    "None": {type(None)},
    "tuple[int, ...]": set(),  # a list in JSON
}


def own_decoder(config: DecoderConfig, key: str) -> dict[str, Any]:
    """Return a decoder as a JSON object, with its stack under the key."""
    return {
        key: own_table(config.stack),
        "logit_softcap": config.logit_softcap,
        "tied_head": config.tied_head,
    }


def read_own_decoder(raw: Mapping[str, Any], key: str, where: Path) -> DecoderConfig:
    """Return the decoder that `own_decoder` wrote; see `read_own`."""
    return DecoderConfig(
        read_own(raw.get(key), where),
        optional_number(raw, "logit_softcap", where),
        raw.get("tied_head", True) is True,
    )


def own_table(stack: EncoderConfig) -> dict[str, Any]:
    """Return a stack as a JSON object, field by field."""
    return {**asdict(stack), "dropout": 0.0}


def read_own(raw: Any, where: Path) -> EncoderConfig:
    """Return the stack that `own_table` wrote.

    Raises:
        CheckpointError: If a value is missing, unknown or of another type.
    """
    types = {field.name: str(field.type) for field in fields(EncoderConfig)}
    if not isinstance(raw, dict) or set(raw) != set(types):
        odd = sorted(set(raw) ^ set(types)) if isinstance(raw, dict) else raw
        raise CheckpointError(f"{where}: a stack must give exactly {sorted(types)}; wrong: {odd}")
    for name, expected in types.items():
        if not _is(raw[name], expected):
            raise CheckpointError(f"{where}: {name} must be {expected}, got {raw[name]!r}")
    check_num_layers(raw["num_layers"], "num_layers", where)
    try:
        lists = {name: tuple(value) for name, value in raw.items() if isinstance(value, list)}
        return EncoderConfig(**{**raw, **lists})
    except InputError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _is(value: Any, expected: str) -> bool:
    parts = expected.split(" | ")
    if isinstance(value, list):
        return "tuple[int, ...]" in parts and all(type(item) is int for item in value)
    return any(type(value) in _TYPES[part] for part in parts)
