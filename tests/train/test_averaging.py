"""The mean of the last weights, and only of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from culet.errors import TrainingError
from culet.files.tensors import write_tensors
from culet.train.averaging import average_files, mean, save_weights, saved


def weights(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "a": torch.randn(3, 4, generator=generator),
        "b": torch.randn(5, generator=generator),
    }


def test_the_mean_of_five_is_the_running_average(tmp_path: Path) -> None:
    running = {name: torch.zeros_like(value) for name, value in weights(0).items()}
    for step in range(1, 6):
        save_weights(tmp_path, weights(step), step=step, keep=5)
        for name, value in weights(step).items():
            running[name] += (value - running[name]) / step
    found = average_files(list(saved(tmp_path).values()))
    for name, value in running.items():
        assert np.allclose(found[name], value.numpy(), atol=1e-6)
        assert found[name].dtype == np.float32


def test_only_the_newest_are_kept_and_none_of_a_run_that_went_further(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save_weights(tmp_path, weights(step), step=step, keep=3)
    assert list(saved(tmp_path)) == [20, 30, 40]
    save_weights(tmp_path, weights(30), step=30, keep=3)  # resumed from before 30
    assert list(saved(tmp_path)) == [20, 30]


def test_half_a_file_is_none(tmp_path: Path) -> None:
    save_weights(tmp_path, weights(1), step=1, keep=2)
    (tmp_path / ".step-000000002.safetensors.partial").write_bytes(b"half")
    assert list(saved(tmp_path)) == [1]


def test_whole_numbers_have_no_mean() -> None:
    assert mean([np.array([1, 2]), np.array([3, 9])]).tolist() == [3, 9]
    assert mean([np.array([1.0]), np.array([4.0])]).tolist() == [2.5]


def test_weights_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path, weights(1), step=1, keep=2)
    write_tensors(tmp_path / "step-000000002.safetensors", {"c": np.zeros(3, dtype=np.float32)})
    with pytest.raises(TrainingError, match="does not hold the tensors of"):
        average_files(list(saved(tmp_path).values()))
    with pytest.raises(TrainingError, match="no saved weights"):
        average_files([])
