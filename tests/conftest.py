"""For every test: shapes in annotations are checked, no hub is asked, no cache is littered."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
# What reference tests download stays from run to run; all else goes.
_kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("CULET_TEST_DOWNLOADS", str(_kept / "culet" / "tests"))
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="culet-test-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

MODEL = (
    "attention",
    "batch",
    "cross_attention",
    "decoder",
    "embedding_model",
    "encoder",
    "encoder_decoder",
    "layers",
    "lora",
    "pooling",
    "weights",
)
install_import_hook(
    [
        *(f"culet.model.{name}" for name in MODEL),
        "culet.generation.decode",
        "culet.generation.kv_cache",
        "culet.losses.contrastive",
        "culet.train.contrastive_step",
    ],
    "beartype.beartype",
)
