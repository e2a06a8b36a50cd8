"""The state of an unfinished run on disk: whole or not there, and no pickle.

A folder with state.safetensors (weights, AdamW's moments, the average) and state.json (step,
random state, and the fingerprint of the run).
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from culet.errors import TrainingError
from culet.files.atomic import new_folder
from culet.files.tensors import read_tensors, write_tensors
from culet.train.optim import Optimizer
from culet.train.processes import current, is_sharded, unshard


def save_state(folder: Path, optimizer: Optimizer, *, step: int, fingerprint: str) -> None:
    """Write the state after `step` steps, replacing an older one only when it is whole.

    The first process writes; where weights are split, the others must call it too. The state does
    not depend on the number of processes: any number can resume from it.
    """
    first = current().first
    arrays = {}
    for name, tensor in optimizer.tensors().items():
        if first or is_sharded(tensor):
            value = unshard(tensor.detach())
            if first:
                arrays[name] = np.atleast_1d(value.float().cpu().numpy())
    if not first:
        return
    random = {"cpu": _encoded(torch.get_rng_state())}
    if torch.cuda.is_available():
        random["cuda"] = _encoded(torch.cuda.get_rng_state())
    with new_folder(folder) as aside:
        write_tensors(aside / "state.safetensors", arrays)
        state = {"step": step, "fingerprint": fingerprint, "random": random}
        (aside / "state.json").write_text(json.dumps(state))


def load_state(folder: Path, optimizer: Optimizer, *, fingerprint: str) -> int:
    """Load the saved state, random state included, and return the number of steps done.

    Without a saved state it returns 0 and changes nothing.

    Raises:
        TrainingError: If the state is of another run, damaged, or does not fit the model.
        CheckpointError: If its tensors are damaged.
    """
    if not folder.exists():  # killed between the two renames of `new_folder`, on some systems
        folder = folder.with_name(f".{folder.name}.old")
    if not folder.exists():
        return 0
    try:
        state = json.loads((folder / "state.json").read_text())
        recorded, step, random = state["fingerprint"], int(state["step"]), state["random"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{folder} is not a whole state ({error}); delete the folder to begin anew"
        ) from error
    if recorded != fingerprint:
        raise TrainingError(
            f"{folder} holds the state of another run (its recipe or data differ); "
            "delete the folder to begin anew"
        )
    stored = read_tensors(folder / "state.safetensors")
    optimizer.load({n: torch.from_numpy(np.array(t.float32())) for n, t in stored.items()})
    torch.set_rng_state(_decoded(random["cpu"]))
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(_decoded(random["cuda"]))
    return step


def drop_state(folder: Path) -> None:
    """Remove the state of a finished run, and what a kill may have left beside it."""
    for name in (folder.name, f".{folder.name}.old", f".{folder.name}.partial"):
        shutil.rmtree(folder.with_name(name), ignore_errors=True)


def _encoded(state: torch.Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def _decoded(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.uint8).copy())
