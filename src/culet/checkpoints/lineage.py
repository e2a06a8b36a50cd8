"""Which checkpoints a checkpoint comes from, kept in a small file of its folder.

A chain of fingerprints, the oldest first: models that share one began from the same weights, which
is what their average needs (model soups, arXiv 2203.05482; see `culet.checkpoints.soup`).
"""

from __future__ import annotations

import json

from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.errors import CheckpointError

LINEAGE_FILE = "culet_lineage.json"


def lineage(checkpoint: EmbeddingCheckpoint) -> tuple[str, ...] | None:
    """Return the fingerprints of a checkpoint's ancestors and its own, or None if none is recorded.

    Raises:
        CheckpointError: If the file is there and cannot be read.
    """
    path = checkpoint.path / LINEAGE_FILE
    try:
        chain = json.loads(path.read_text(encoding="utf-8"))["ancestors"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a readable lineage: {error!r}") from error
    return (*map(str, chain), checkpoint.fingerprint)


def descent(*parents: EmbeddingCheckpoint) -> dict[str, str]:
    """Return the file to write into a checkpoint that is made from these ones, as name to content.

    A parent without a record counts as an ancestor itself.
    """
    chain: list[str] = []
    for parent in parents:
        chain += lineage(parent) or (parent.fingerprint,)
    ancestors = list(dict.fromkeys(chain))
    return {LINEAGE_FILE: json.dumps({"ancestors": ancestors}, indent=2) + "\n"}
