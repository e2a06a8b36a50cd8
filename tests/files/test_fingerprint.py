from __future__ import annotations

from pathlib import Path

import pytest

from culet.files import fingerprint


def test_data_are_read_whole_and_large_weights_in_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_WHOLE_BYTES", 100_000)
    monkeypatch.setattr(fingerprint, "_BLOCK_BYTES", 64)
    content = bytes(400_000)
    between = content[:201_000] + b"1" + content[201_001:]  # no place that is looked at
    everywhere = b"1" * len(content)
    found = {}
    for suffix in ("jsonl", "parquet", "npy", "safetensors", "gguf"):
        path = tmp_path / f"file.{suffix}"
        names = []
        for written in (content, between, everywhere):
            path.write_bytes(written)
            names.append(fingerprint.of_files([path]))
        found[suffix] = len(set(names))
    assert found == {"jsonl": 3, "parquet": 3, "npy": 3, "safetensors": 2, "gguf": 2}
