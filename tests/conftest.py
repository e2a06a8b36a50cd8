"""For every test: shapes in annotations are checked, and no model hub is asked for anything."""

from __future__ import annotations

import os

from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"

# Not `model.config`: its values come from users and are refused by its own words.
MODEL = (
    "attention",
    "batch",
    "cache",
    "cross_attention",
    "decoder",
    "embedding",
    "encoder",
    "encoder_decoder",
    "generate",
    "layers",
    "lora",
    "pooling",
    "weights",
)
install_import_hook(
    [*(f"culet.model.{name}" for name in MODEL), "culet.losses", "culet.train.contrastive"],
    "beartype.beartype",
)
