"""The static model in closed form: its solver and its damper, on toy data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

import culet
from culet.checkpoints.write import write_checkpoint
from culet.text.tokenizer_training import BOS

ROOT = Path(__file__).parent.parent.parent

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "recipes" / "closed_form"))
    import damper
    import letters
    import ridge
    import unigram

WIDTH = 16
WORDS = ("a", "b", "c")


def test_the_solver_agrees_with_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    x = sparse.random(60, 20, density=0.2, random_state=1, format="csr", dtype=np.float64)
    y, start = rng.standard_normal((60, 4)), rng.standard_normal((20, 4))
    weights = rng.uniform(0.1, 2, 60)
    dense, by_text = x.toarray(), np.diag(weights)
    exact = np.linalg.solve(
        dense.T @ by_text @ dense + 0.5 * np.eye(20), dense.T @ by_text @ y + 0.5 * start
    )
    found = ridge.solve(x, y, start, ridge=0.5, weights=weights, steps=40)
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_bags_are_counts_over_the_root_of_the_length() -> None:
    found = ridge.bags([np.array([2, 0, 2, 2]), np.array([1])], 3).toarray()
    np.testing.assert_allclose(found, [[0.5, 0, 1.5], [0, 1, 0]])


def test_letters_are_alike_in_words_that_are() -> None:
    rows = letters.hashed_letters([" walking", " walked", " blue", ""], 512)
    alike, unlike = rows[0] @ rows[1], rows[0] @ rows[2]
    assert alike > 0.1 > abs(unlike)
    assert not rows[3].any()


@pytest.fixture(scope="module")
def model_and_rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[culet.Embedder, np.ndarray]:
    """A damped model of three words with orthogonal rows [3, WIDTH], read from its folder."""
    mass = unigram.folded((f"▁{word}", -2.0) for word in WORDS)
    unigram.add_words(mass, WORDS)
    tokenizer = unigram.unigram(mass, 600, [])
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, WIDTH)))[0]
    content = np.zeros((tokenizer.get_vocab_size(), WIDTH), np.float32)
    rows = 0.5 * axes[: len(WORDS)]
    content[[tokenizer.token_to_id(f"▁{word}") for word in WORDS]] = rows
    table = damper.token_table(content, tokenizer.token_to_id(BOS))
    config = damper.model_config(*table.shape, (WIDTH, 8))
    weights = damper.model_weights(config, table, np.eye(WIDTH), damper.Damping())
    folder = tmp_path_factory.mktemp("closed") / "model"
    write_checkpoint(folder, config, weights, tokenizer_json=tokenizer.to_str())
    return culet.load(folder, device="cpu", precision="float32", threads=1), rows


@pytest.mark.parametrize("times", [2, 3, 5, 10])
def test_a_word_that_occurs_n_times_counts_by_the_root(
    model_and_rows: tuple[culet.Embedder, np.ndarray], times: int
) -> None:
    model, rows = model_and_rows
    once, often = model.encode_document(["a b", "a " * times + "b"])
    assert (rows @ once)[0] == pytest.approx((rows @ once)[1], rel=0.02)
    a, b, c = rows @ often
    assert a / b == pytest.approx(times**0.5, rel=0.1)
    assert abs(c) < 0.01 * b
