"""The file of a compiled model, so that a second start need not build and compile the graph again.

OpenVINO's own format (`export_model`), in the user's cache folder, named by all that it depends
on: the checkpoint's fingerprint, the precision, the processor, OpenVINO's version and the code
that builds the graph. It holds the linear maps, which an engine reads from the mapped file: 418 MB
for EmbeddingGemma's shape in float32 and bfloat16, 114 MB in int8. A damaged file is made again.
When the folder exceeds 4 GB, as when training evaluates every checkpoint, the least recently used
files are deleted.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import openvino as ov

import culet.runtime.openvino.attention
import culet.runtime.openvino.graph
import culet.runtime.openvino.weights
from culet.errors import CheckpointError, InputError
from culet.files.atomic import new_file
from culet.files.cache import bound, checksum, remove_older, warn
from culet.files.fingerprint import of_settings

WORTH_LAYERS = 6  # with fewer, compiling takes less than half a second
_FOLDER_BYTES = 4_000_000_000
_SEAL_BYTES = (
    8  # the CRC-32, inside the file: exports differ, and two writers could mix up two files
)
_AT_START = (
    "INFERENCE_NUM_THREADS",
    "NUM_STREAMS",
    "PERFORMANCE_HINT",
)  # set at the start, not in the file
_CODE = (
    culet.runtime.openvino.attention,
    culet.runtime.openvino.graph,
    culet.runtime.openvino.weights,
)


def compiled(
    core: ov.Core,
    build: Callable[[], ov.Model],
    settings: dict[str, Any],
    *,
    folder: Path,
    name: str,
) -> tuple[ov.CompiledModel, np.ndarray | None]:
    """Return a compiled model, from the cache, or made now and cached.

    A damaged or unwritable cache causes a warning.

    Args:
        core: OpenVINO.
        build: Makes the graph.
        settings: Of the compilation. Threads and streams may change from start to start.
        folder: Where the file is kept.
        name: What the graph and its weights depend on, for the file's name.

    Returns:
        The model and, if it came from the cache, the file it reads, mapped.

    Raises:
        RuntimeError: If OpenVINO cannot compile the graph.
    """
    prefix = f"{name}-{_machine(core)}-"
    path = folder / f"{prefix}{_version(settings)}.blob"
    if path.exists():
        try:
            mapped = _mapped(path)
            with contextlib.suppress(OSError):
                os.utime(path)  # marks it as recently used
            blob = ov.Tensor(mapped[:-_SEAL_BYTES], shared_memory=True)
            return core.import_model(blob, "CPU", settings), mapped
        except (CheckpointError, OSError, ValueError, RuntimeError) as error:
            warn(f"the cached compiled model is damaged and is made again: {error}")
    model = core.compile_model(build(), "CPU", settings)
    try:
        with new_file(path, together=True) as aside:
            with aside.open("wb") as file:
                model.export_model(_Through(file))
            seal = checksum(aside)
            with aside.open("ab") as file:
                file.write(seal.encode())
        remove_older(path, prefix)
        bound(path, _FOLDER_BYTES)
    except (InputError, OSError, RuntimeError) as error:
        warn(f"the compiled model is not kept for the next start: {error}")
    return model, None


def _mapped(path: Path) -> np.ndarray:
    """Return a file whose last bytes are the CRC-32 of the others."""
    # private, since OpenVINO takes views of writable arrays only
    mapped = np.memmap(path, dtype=np.uint8, mode="c")
    stated = mapped[-_SEAL_BYTES:].tobytes().decode(errors="replace")
    found = checksum(path, but_last=_SEAL_BYTES)
    if stated != found:
        raise CheckpointError(f"{path} has the CRC-32 {found} instead of {stated}")
    return mapped


class _Through(io.BytesIO):
    """A BytesIO, which OpenVINO insists on, that keeps nothing and writes to a file.

    Args:
        file: The file.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def write(self, data: Any) -> int:
        """Write to the file."""
        return self._file.write(data)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()

    def seek(self, place: int, whence: int = 0, /) -> int:
        """Move to a position in the file: its header is written last."""
        return self._file.seek(place, whence)


def _machine(core: ov.Core) -> str:
    names = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
    return of_settings([core.get_property("CPU", name) for name in names])[:8]


def _version(settings: dict[str, Any]) -> str:
    kept = {name: value for name, value in settings.items() if name not in _AT_START}
    code = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in _CODE]
    return of_settings([ov.get_version(), kept, code])[:8]
