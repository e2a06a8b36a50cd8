"""What a measurement was made on: processor, memory, versions. And how it is made: interleaved."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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
) -> dict[str, float]:
    """Return the median seconds of each contender, run in turns so that noise hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm_up + repeats):
        for name, call in contenders.items():
            began = time.perf_counter()
            call()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


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
