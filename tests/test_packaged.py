"""The model inside the package: small, offline, and better than counting character n-grams."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import culet
from culet.loading import PACKAGED

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def embedder() -> culet.Embedder:
    return culet.load(device="cpu")


def test_it_weighs_at_most_twenty_megabytes_with_its_tokenizer() -> None:
    total = sum(file.stat().st_size for file in PACKAGED.rglob("*") if file.is_file())
    assert 1_000_000 < total <= 20_000_000


def test_it_finds_the_document_that_answers(embedder: culet.Embedder) -> None:
    documents = [
        "Select the printer and the number of copies, then choose Print.",
        "The knight moves two squares in one direction and one square sideways.",
        "Removes a package together with its configuration files.",
    ]
    questions = ["how do I print a file?", "how does the knight move?", "uninstall a package"]
    similarity = embedder.similarity(
        embedder.encode_query(questions), embedder.encode_document(documents)
    )
    assert similarity.argmax(axis=1).tolist() == [0, 1, 2]


def test_it_brings_translations_of_interface_texts_together(embedder: culet.Embedder) -> None:
    english = ["Open file", "Network settings", "Delete all messages"]
    german = ["Datei öffnen", "Netzwerkeinstellungen", "Alle Nachrichten löschen"]
    similarity = embedder.similarity(
        embedder.encode_query(english, task="similarity"),
        embedder.encode_query(german, task="similarity"),
    )
    assert similarity.argmax(axis=1).tolist() == [0, 1, 2]


def test_its_narrow_widths_are_prefixes_at_unit_length(embedder: culet.Embedder) -> None:
    full = embedder.encode_query(["a narrow vector"])
    for width in embedder.widths:
        narrow = embedder.encode_query(["a narrow vector"], truncate_to=width)
        expected = full[:, :width] / np.linalg.norm(full[:, :width])
        np.testing.assert_allclose(narrow, expected, atol=1e-6)


@pytest.mark.slow
def test_it_beats_character_ngrams_on_the_bundled_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "machine", raising=False)
    import packaged

    means = packaged.compare(None)["mean"]
    assert means["512"] > means["tfidf"]
