from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from word_embedder import WordEmbedder

from culet.bulk import job
from culet.bulk.job import EmbedSettings, embed_rows
from culet.errors import InputError
from culet.files.texts import TextRow


def test_rows_are_embedded_in_order_across_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "BATCH_TEXTS", 2)
    embedder = WordEmbedder()
    rows = [TextRow(text) for text in ("a", "b b", "c", "d", "e")]
    seen: list[str] = []
    parts: list[np.ndarray] = []

    def take(batch: list[TextRow], embedding: np.ndarray) -> None:
        seen.extend(row.text for row in batch)
        parts.append(embedding)

    assert embed_rows(embedder, rows, take, progress=False) == 5  # type: ignore[arg-type]
    assert seen == ["a", "b b", "c", "d", "e"]
    expected = embedder.encode_document([row.text for row in rows])
    assert np.array_equal(np.concatenate(parts), expected)


def test_side_task_titles_and_width_reach_the_embedder() -> None:
    embedder = WordEmbedder()
    got: list[np.ndarray] = []
    rows = [TextRow("mars", "planets")]
    sides: list[Literal["query", "document"]] = ["query", "document"]
    for side in sides:
        embed_rows(
            embedder,  # type: ignore[arg-type]
            rows,
            lambda _, embedding: got.append(embedding),
            EmbedSettings(side, "clustering", truncate_to=32),
            progress=False,
        )
    assert np.array_equal(
        got[0], embedder.encode_query(["mars"], task="clustering", truncate_to=32)
    )
    assert np.array_equal(
        got[1], embedder.encode_document(["mars"], titles=["planets"], truncate_to=32)
    )
    assert got[0].shape == (1, 32)


def test_a_task_or_width_that_is_not_there_is_refused_before_the_first_row() -> None:
    def rows() -> Iterator[TextRow]:
        raise AssertionError("a row was read")
        yield

    for settings, message in (
        (EmbedSettings("query", "sreach"), "unknown task 'sreach'"),
        (EmbedSettings(truncate_to=31), r"trained widths \(64, 32\), got 31"),
    ):
        with pytest.raises(InputError, match=message):
            embed_rows(WordEmbedder(), rows(), lambda *_: None, settings)  # type: ignore[arg-type]


def test_an_error_in_a_later_batch_says_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "BATCH_TEXTS", 2)
    rows = [TextRow("a"), TextRow("b"), TextRow("c"), TextRow("word " * 99)]
    with pytest.raises(InputError, match="text 3 has 99 words"):
        embed_rows(
            WordEmbedder(),  # type: ignore[arg-type]
            rows,
            lambda *_: None,
            EmbedSettings(on_long="error"),
            progress=False,
        )


def test_cut_texts_are_reported_with_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "BATCH_TEXTS", 2)
    rows = [TextRow("a"), TextRow("b"), TextRow("word " * 99)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        embed_rows(WordEmbedder(), rows, lambda *_: None, progress=False)  # type: ignore[arg-type]
    assert [str(warning.message) for warning in caught] == ["1 of 1 texts were cut"]


def test_cut_texts_are_reported_beside_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    embed_rows(WordEmbedder(), [TextRow("word " * 99)], lambda *_: None)  # type: ignore[arg-type]
    assert capsys.readouterr().err == "warning: 1 of 1 texts were cut\n"
