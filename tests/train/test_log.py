"""The log of a stage: a line a step, exactly once, also after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from culet.train.log import Report, peak_memory_bytes, read_log


def write(report: Report, step: int) -> None:
    report.write(
        step,
        {"loss": step / 2, "contrastive": 0.1},
        tokens=30,
        seconds=0.5,
        waited=0.25,
        source="toys",
        texts_cut=2,
    )


def test_each_step_is_one_json_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    with Report("toy", path, start=0, steps=2) as report:
        write(report, 1)
        assert len(read_log(path)) == 1  # at once: a kill must not take it away
        write(report, 2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.pop("peak_memory_mb") > 10 for line in lines] == [True, True]
    assert lines[1] == {
        "step": 2,
        "source": "toys",
        "loss": 1.0,
        "contrastive": 0.1,
        "tokens": 30,
        "seconds": 0.5,
        "waited_seconds": 0.25,
        "texts_cut": 2,
    }


def test_lines_of_steps_that_will_be_run_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with Report("toy", path, start=0, steps=9) as report:
        for step in range(1, 8):
            write(report, step)
    with Report("toy", path, start=4, steps=9) as report:
        write(report, 5)
    assert [line["step"] for line in read_log(path)] == [1, 2, 3, 4, 5]
    with Report("toy", path, start=0, steps=9):
        pass
    assert read_log(path) == []


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3}', "{", '{"a": {"step": 3}'])
def test_half_a_line_at_the_end_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + torn)
    with Report("toy", path, start=2, steps=3) as report:
        write(report, 3)
    assert [line["step"] for line in read_log(path)] == [1, 2, 3]


def test_a_kill_while_the_log_is_trimmed_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')

    def killed(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Report("toy", path, start=2, steps=3)
    assert [line["step"] for line in read_log(path)] == [1, 2, 3]


def test_a_person_sees_the_parts_the_speed_and_the_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Report("toy", tmp_path / "log.jsonl", start=0, steps=1) as report:
        write(report, 1)
    shown = capsys.readouterr()
    assert shown.out == ""
    for word in ("toy", "1/1 step ", "loss 0.5", "contrastive 0.1", "tok/s 60", "MB"):
        assert word in shown.err


def test_peak_memory_is_in_bytes() -> None:
    assert 20e6 < peak_memory_bytes() < 1e12  # an interpreter with torch, and no more than 1 TB


def test_no_log_is_an_empty_one(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none.jsonl") == []
