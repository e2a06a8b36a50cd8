"""What a measurement was made on, how contenders take turns, and how sure a mean is."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "numpy",
    "openvino",
    "onnxruntime",
    "llama-cpp-python",
    "culet",
)
# Student's t of a two-sided 95 % interval, by number of seeds.
_T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}


class Seconds(NamedTuple):
    """What a call takes; on a machine that others use, only the clock counts what they take."""

    clock: float
    processor: float


def describe() -> dict[str, Any]:
    """Return processor, core count, memory and package versions."""
    return {
        "date": date.today().isoformat(),
        "processor": _processor(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def interleaved(
    contenders: dict[str, Callable[[], Any]], *, repeats: int, warm_up: int = 1
) -> dict[str, Seconds]:
    """Return the median seconds of each contender, run in turns so that noise hits all alike."""
    taken: dict[str, list[Seconds]] = {name: [] for name in contenders}
    for turn in range(warm_up + repeats):
        for name, call in contenders.items():
            began = time.perf_counter(), time.process_time()
            call()
            ended = time.perf_counter(), time.process_time()
            if turn >= warm_up:
                taken[name].append(Seconds(ended[0] - began[0], ended[1] - began[1]))
    return {
        name: Seconds(*map(statistics.median, zip(*values, strict=True)))
        for name, values in taken.items()
    }


def half_interval(values: Sequence[float]) -> float | None:
    """Return half the width of the 95 % interval of a mean over seeds; None for a single seed."""
    if len(values) not in _T95:
        return None
    return _T95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))


def portable(value: object) -> object:
    """Return a setting with only the last two parts of its paths: nothing of this machine."""
    if isinstance(value, list):
        return [portable(item) for item in value]
    return f"{value.parent.name}/{value.name}" if isinstance(value, Path) else value


def write(name: str, result: dict[str, Any]) -> None:
    """Write a result with the machine it was measured on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": describe(), **result}, indent=2) + "\n")
    print(f"written to {path}")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _instructions() -> list[str]:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return []
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return [flag for flag in known if flag in flags]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
