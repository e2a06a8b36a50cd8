"""The inverse of denoising, by hand."""

from __future__ import annotations

import numpy as np

from culet.data.batches.denoise import Denoised, Markers


def restore(example: Denoised, markers: Markers) -> np.ndarray:
    """Return the window an example was made of; the inverse of `denoise`."""
    source = example.source
    if len(source) and int(source[0]) in markers.modes.values():
        source = source[1:]
    known = set(markers.sentinels)
    if not any(int(token) in known for token in example.target):
        return np.concatenate([source, example.target])
    spans: dict[int, list[int]] = {}
    for token in example.target.tolist():
        if token in known:
            spans[token] = current = []
        else:
            current.append(token)
    parts: list[int] = []
    for token in source.tolist():
        parts.extend(spans.get(token, [token]))
    return np.array(parts, dtype=np.int64)
