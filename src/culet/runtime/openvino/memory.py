"""How much memory a model takes, and what the system and the control groups leave a process.

A container's limit is that of its control group (cgroup), not the free memory of the system.
Formats: proc(5) `meminfo`, and the kernel's Documentation/admin-guide, `cgroup-v2.rst` and
`cgroup-v1/memory.rst`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from culet.architecture.embedding_config import EmbeddingConfig
from culet.errors import InputError
from culet.runtime.openvino.weights import Precision

# Peak bytes for each weight of a linear map, as measured with 300M's shape (LOG.md), rounded up;
# bfloat16 is float32's constants and two packed copies of half the size.
_BYTES = {"float32": 12.5, "bfloat16": 8.5, "int8": 4.2, "int4": 1.6}


@dataclass(frozen=True)
class _Files:
    """Names of the files and of the counters of reclaimable pages of a cgroup version."""

    limit: str
    used: str
    reclaimable: tuple[str, ...]


_V2 = _Files("memory.max", "memory.current", ("inactive_file", "active_file"))
_V1 = _Files(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)


def check_memory(config: EmbeddingConfig, precision: Precision, available: int | None) -> None:
    """Raise InputError if the model would not fit, before anything is loaded.

    Args:
        config: The architecture.
        precision: What it would be computed in.
        available: Bytes that are free, None if unknown.
    """
    encoder = config.encoder
    linear = config.num_parameters() - encoder.vocab_size * encoder.model_dim
    needed = int(linear * _BYTES[precision]) + 100_000_000
    if available is not None and needed > available:
        smaller = [p for p in ("int8", "int4") if _BYTES[p] < _BYTES[precision]]
        advice = f" or choose another precision ({', '.join(smaller)})" if smaller else ""
        raise InputError(
            f"the model needs about {needed / 1e6:,.0f} MB of memory in {precision}, and "
            f"{available / 1e6:,.0f} MB are free; close other programs{advice}"
        )


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes available to this process; None if the system does not report them.

    Args:
        root: Where proc and sys are.
    """
    found = [*_of_system(root), *_of_groups(root)]
    return min(found) if found else None


def _of_system(root: Path) -> Iterator[int]:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_groups(root: Path) -> Iterator[int]:
    """Yield the bytes left in each group of this process and in the groups above it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mount, files = root / "sys/fs/cgroup", _V2
        elif "memory" in controllers.split(","):
            mount, files = root / "sys/fs/cgroup/memory", _V1
        else:
            continue
        own = mount / path.strip("/")
        # A container may not see its own folder; the mount's root is that folder then.
        for folder in (own, *own.parents):
            left = _left(folder, files)
            if left is not None:
                yield left
            if folder == mount:
                break


def _left(folder: Path, files: _Files) -> int | None:
    limit, used = _text(folder / files.limit).strip(), _text(folder / files.used).strip()
    if not limit.isdigit() or not used.isdigit():  # "max", or no such file
        return None
    pairs = (line.split() for line in _text(folder / "memory.stat").splitlines())
    cached = sum(int(pair[1]) for pair in pairs if pair[0] in files.reclaimable)
    return max(0, int(limit) - int(used) + cached)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
