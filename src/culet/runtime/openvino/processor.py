"""What this CPU can compute: its cores, its precisions, and int8 through several streams.

On CPUs with AMX, OpenVINO gives wrong and varying results for int8 weights through several streams
where a width is not a multiple of 64 (cosine to float32 from 0.67 to 0.99; LOG.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from culet.errors import InputError
from culet.runtime.openvino.weights import Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_AMX = frozenset({"amx_int8", "amx_bf16"})
_TILE_WIDTH = 64  # int8 values in a row of an AMX tile


def num_cores() -> int:
    """Return the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_precision(precision: str | None, capabilities: Sequence[str]) -> Precision:
    """Return the precision to compute in; None means bfloat16 where the CPU has it, else float32.

    Raises:
        InputError: If it is unknown, or bfloat16 is asked of a CPU that has none.
    """
    has_bf16 = "BF16" in capabilities
    if precision is None:
        return "bfloat16" if has_bf16 else "float32"
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "bfloat16" and not has_bf16:
        raise InputError(
            "this CPU has no bfloat16 instructions (it offers "
            f"{', '.join(capabilities)}); use float32, int8 or int4"
        )
    return precision


def cpu_flags(root: Path = Path("/")) -> frozenset[str] | None:
    """Return the instruction sets of the first CPU by Linux's cpuinfo; None where it is unknown.

    Args:
        root: Where proc is.
    """
    try:
        with (root / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, flags = line.partition(":")
                if name.strip() in ("flags", "Features"):  # on x86, on Arm
                    return frozenset(flags.split())
    except OSError:
        pass
    return None


def int8_needs_one_stream(widths: Iterable[int], flags: frozenset[str] | None) -> bool:
    """Return whether int8 maps of these widths may go wrong through several streams.

    Args:
        widths: Rows and columns of the maps.
        flags: Of this CPU; an unknown CPU may have AMX.
    """
    has_amx = flags is None or bool(flags & _AMX)
    return has_amx and any(width % _TILE_WIDTH for width in widths)
