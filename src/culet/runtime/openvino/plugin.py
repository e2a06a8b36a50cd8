"""OpenVINO's CPU plugin: how it is set up, and three of its side effects on the process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

from culet.runtime.openvino.weights import Precision

# Compiled operations that are kept for shapes seen before; about 15 a shape, of 30 to 250 KB.
KEPT_CODE: dict[Precision, int] = {"float32": 512, "bfloat16": 512, "int8": 512, "int4": 64}


def compile_settings(precision: Precision, threads: int | None, *, rounds: bool) -> dict[str, Any]:
    """Return the settings of a compilation for one stream.

    Args:
        precision: Of the weights.
        threads: CPU threads; None leaves OpenVINO's choice, one a core.
        rounds: Compute in bfloat16.
    """
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if rounds else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "64" if precision == "int8" else "0",
        "CPU_RUNTIME_CACHE_CAPACITY": str(KEPT_CODE[precision]),
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
        # else each of several processes would bind itself to the same first cores
        settings["ENABLE_CPU_PINNING"] = False
    return settings


class _Engine(Protocol):
    def leave_to_parent(self) -> None:
        """In a forked child: never free what the parent has compiled."""


_ENGINES: weakref.WeakSet[_Engine] = weakref.WeakSet()


def leave_to_parent_at_fork(engine: _Engine) -> None:
    """Have an engine leave to the parent what is compiled, in every child that is forked."""
    _ENGINES.add(engine)


def _leave_to_parent() -> None:
    for engine in _ENGINES:
        engine.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


@contextlib.contextmanager
def own_signal_stack() -> Iterator[None]:
    """Leave the thread's alternate signal stack as it was.

    OpenVINO 2026.4 gives the thread that loads its CPU plugin another one, and takes it away on
    the thread that frees the last model. Where that is not the same, as with garbage collection,
    the next signal (Ctrl-C) would be handled on memory that is gone, and kill the process.
    """
    sigaltstack = getattr(ctypes.CDLL(None), "sigaltstack", None) if os.name == "posix" else None
    before = ctypes.create_string_buffer(64)  # larger than any system's stack_t
    if sigaltstack is None or sigaltstack(None, before) != 0:
        yield
        return
    try:
        yield
    finally:
        sigaltstack(before, None)


@contextlib.contextmanager
def few_primitives(capacity: int) -> Iterator[None]:
    """Bound the code that oneDNN, under OpenVINO, keeps for shapes it has seen.

    It reads the bound once in a process, when it first compiles; one that the user has set stays.
    """
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(capacity)
    try:
        yield
    finally:
        del os.environ[name]
