"""How processes of one run learn that another one has stopped, and why.

A thread of every process writes a heartbeat into the run's key-value store and reads those of the
others, since the main thread may hang in a collective operation that will never end. A process that
fails first leaves its message, so that the others can stop with it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from culet.terminal.lines import complain

LOOK_EVERY_SECONDS = 0.5
SILENT_SECONDS = 120.0  # without a heartbeat, a process on another machine counts as dead
GRACE_SECONDS = 10.0  # for the main thread to stop by itself once another process has stopped
LEAVING_SECONDS = 5.0  # how long a process that failed waits for the others to have read it


class Store(Protocol):
    """What is used of `torch.distributed.TCPStore`."""

    def set(self, key: str, value: str) -> None:
        """Set a key."""

    def get(self, key: str) -> bytes:
        """Return the value of a key that is there."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return it."""

    def check(self, keys: list[str]) -> bool:
        """Return whether all keys are there."""


class Heartbeat:
    """Watches the other processes of a run until it is closed.

    Args:
        store: A connection of its own: a thread that waits on a shared one would block the other.
        rank: Which process this is.
        size: How many there are.
        end: Ends this process when the main thread does not; replaced in tests.
    """

    def __init__(
        self, store: Store, *, rank: int, size: int, end: Callable[[str], None] | None = None
    ) -> None:
        self._store = store
        self._rank = rank
        self._others = [other for other in range(size) if other != rank]
        self._end = _end if end is None else end
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._barriers = 0
        self._size = size
        self.failure: str | None = None
        store.set(f"process/{rank}", f"{socket.gethostname()} {os.getpid()}")
        store.set(f"beat/{rank}", "0")
        self._thread = threading.Thread(target=self._watch, name="culet-heartbeat", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the other processes, however long they take, and as long as they live.

        Raises:
            ConnectionError: If one of them has stopped.
        """
        self._barriers += 1
        key = f"barrier/{self._barriers}"
        with self._lock:
            there = self._store.add(key, 1)
        while there < self._size:
            if self.failure is not None:
                raise ConnectionError(self.failure)
            time.sleep(0.01)
            with self._lock:
                there = self._store.add(key, 0)

    def report(self, message: str) -> None:
        """Leave the reason why this process stops, and give the others time to read it."""
        with self._lock:
            first = self._store.add("failures", 1) == 1
            if first:
                self._store.set("failed", f"{self._rank} {message}")
        deadline = time.monotonic() + LEAVING_SECONDS
        while first and time.monotonic() < deadline:
            with self._lock:
                if self._store.add("read", 0) >= len(self._others):
                    return
            time.sleep(0.05)

    def why(self, seconds: float = 4.0) -> str | None:
        """Return why another process has stopped, after waiting a moment for the message."""
        deadline = time.monotonic() + seconds
        while self.failure is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.failure

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._thread.join(timeout=5)

    def leave(self) -> None:
        """Stop watching, and record that this process has done its part.

        The first process, which may host the store, waits a moment for all others to do so.
        """
        self.close()
        with suppress(Exception), self._lock:
            self._store.set(f"beat/{self._rank}", "left")
            left = self._store.add("left", 1)
            deadline = time.monotonic() + LEAVING_SECONDS
            while self._rank == 0 and left < self._size and time.monotonic() < deadline:
                time.sleep(0.01)
                left = self._store.add("left", 0)

    def _watch(self) -> None:
        beats = 0
        while not self._closed.wait(LOOK_EVERY_SECONDS):
            beats += 1
            try:
                with self._lock:
                    self._store.set(f"beat/{self._rank}", str(beats))
                    self.failure = self._look()
                    if self.failure is not None:
                        self._store.add("read", 1)
            except Exception as error:  # the store's connection is gone, and with it its host
                self.failure = f"the process that hosts the run is gone ({error})"
            if self.failure is not None:
                if not self._closed.wait(GRACE_SECONDS):
                    self._end(self.failure)
                return

    def _look(self) -> str | None:
        """Return why the run has to stop, or None."""
        if self._store.check(["failed"]):
            rank, _, message = self._store.get("failed").decode().partition(" ")
            return None if int(rank) == self._rank else f"process {rank} stopped: {message}"
        for other in self._others:
            keys = [f"process/{other}", f"beat/{other}"]
            if not self._store.check(keys):
                continue  # it has not joined yet
            host, _, pid = self._store.get(keys[0]).decode().rpartition(" ")
            beat, now = self._store.get(keys[1]), time.monotonic()
            if beat == b"left":
                continue
            if host == socket.gethostname() and not _alive(int(pid)):
                return f"process {other} was killed or crashed without a word"
            before, since = self._heard.get(other, (b"", now))
            if beat != before:
                self._heard[other] = (beat, now)
            elif now - since > SILENT_SECONDS:
                return f"process {other} on {host} has been silent for {now - since:.0f} s"
        return None


def _alive(pid: int) -> bool:
    """Return whether a process of this machine runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:  # no /proc on this system
        return True


def _end(message: str) -> None:
    complain(f"culet: {message}")
    os._exit(1)
