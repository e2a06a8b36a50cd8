"""For every test: shapes in annotations are checked, and no model hub is asked for anything."""

from __future__ import annotations

import os

from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
install_import_hook(["culet.model", "culet.losses", "culet.train.contrastive"], "beartype.beartype")
