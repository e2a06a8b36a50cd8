"""Model folders whose weights culet does not read, or not alone, each refused by what it is."""

from __future__ import annotations

import re
from pathlib import Path

from culet.errors import CheckpointError


def refuse_pickle(folder: Path) -> None:
    """Raise CheckpointError if the only weights in a folder are pickles."""
    pickles = [p.name for p in folder.glob("*") if re.search(r"\.(bin|pt|pth|pkl|ckpt)$", p.name)]
    if pickles and not list(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} holds its weights as pickle ({', '.join(sorted(pickles))}), which can run "
            "code when read; culet reads safetensors only: convert the file, for example with "
            "transformers' save_pretrained"
        )


def refuse_adapter(folder: Path) -> None:
    """Raise CheckpointError if a folder holds an adapter, alone or beside whole weights."""
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder} holds an adapter (adapter_config.json) that other tools would add to the "
            "weights; merge it into them and save the whole model"
        )
