"""Model folders whose weights culet does not read, or not alone, each refused by what it is."""

from __future__ import annotations

import re
from pathlib import Path

from culet.checkpoints.folder import read_json
from culet.errors import CheckpointError
from culet.files.lookalikes import lookalike


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
    if not (folder / "adapter_config.json").exists():
        return
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    of = f" of {base}" if isinstance(base, str) and base else ""
    raise CheckpointError(
        f"{folder} holds an adapter{of} (adapter_config.json) that other tools would add to the "
        "weights; merge it into them (peft: merge_and_unload) and save the whole model"
    )


def refuse_file(path: Path) -> None:
    """Raise CheckpointError, by what it is, for a file where the folder of a model should be."""
    if path.is_file():
        found = lookalike(path) or "a file"
        raise CheckpointError(
            f"{path} is not a folder, it is {found}; an embedding model is a folder with "
            "modules.json, config.json, tokenizer.json and model.safetensors"
        )
