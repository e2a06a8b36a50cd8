from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from random_checkpoint import random_arrays

from culet.architecture.embedding_config import (
    EmbeddingConfig,
    check_width,
    embeddinggemma_300m,
    tiny,
)
from culet.errors import InputError
from culet.model.batch import TokenBatch, pack
from culet.model.embedding_model import (
    EmbeddingModel,
    check_dtype,
    initialize,
    normalize,
    truncate,
)
from culet.model.layers import GatedFeedForward, RMSNorm, rotary_table, rotate
from culet.model.weights import from_arrays


def texts_of(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(16, 272, length) for length in lengths]


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    return from_arrays(tiny(), random_arrays(tiny()))


def embed(model: EmbeddingModel, texts: list[np.ndarray]) -> torch.Tensor:
    with torch.inference_mode():
        return model(pack(texts))


# --- sizes ---------------------------------------------------------------------------------------


def test_embeddinggemma_has_exactly_the_published_number_of_parameters() -> None:
    config = embeddinggemma_300m()
    assert config.num_parameters() == 307_581_696
    with torch.device("meta"):
        model = EmbeddingModel(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 307_581_696
    assert model.encoder.embed.numel() == 201_326_592


def test_every_sixth_layer_of_embeddinggemma_is_global() -> None:
    encoder = embeddinggemma_300m().encoder
    assert encoder.global_layers == (5, 11, 17, 23)
    assert [block.attention.window for block in EmbeddingModel(tiny()).encoder.blocks] == [
        256, 256, 256, 256, 256, None, 256,
    ]  # fmt: skip
    assert encoder.scale == 1 / 16


# --- packing -------------------------------------------------------------------------------------


def test_packing_lays_texts_by_length_and_remembers_their_order() -> None:
    batch = pack([[7, 8, 9], [5], [1, 2, 3], [4, 6]])
    assert batch.ids.tolist() == [5, 4, 6, 7, 8, 9, 1, 2, 3]
    assert batch.positions.tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 2]
    assert batch.lengths.tolist() == [1, 2, 3, 3]
    assert batch.runs == ((1, 1), (2, 1), (3, 2))
    assert batch.order.tolist() == [2, 0, 3, 1]
    assert (batch.num_texts, batch.num_tokens) == (4, 9)


def test_packing_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="at least one text, got none"):
        pack([])
    with pytest.raises(InputError, match="text 1 has no tokens"):
        pack([[3], []])


def test_packed_equals_one_by_one_in_the_order_given(model: EmbeddingModel) -> None:
    texts = texts_of(600, 1, 9, 257, 2, 9, 258, 1)
    together = embed(model, texts)
    alone = torch.cat([embed(model, [text]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(8))
    backwards = embed(model, texts[::-1])
    torch.testing.assert_close(backwards.flip(0), together, rtol=0, atol=1e-6)


def test_a_changed_token_changes_its_own_text_only(model: EmbeddingModel) -> None:
    texts = texts_of(30, 5, 5, 300, 1)
    before = embed(model, texts)
    for changed in range(len(texts)):
        others = [text.copy() for text in texts]
        others[changed][-1] = (others[changed][-1] + 1 - 16) % 256 + 16
        after = embed(model, others)
        moved = (before - after).abs().amax(dim=1) > 0
        assert moved.tolist() == [i == changed for i in range(len(texts))]


def test_the_order_of_tokens_matters_and_both_sides_are_seen(model: EmbeddingModel) -> None:
    text = texts_of(20)[0]
    assert (embed(model, [text]) - embed(model, [text[::-1].copy()])).abs().max() > 1e-3
    changed = text.copy()
    changed[-1] = text[-1] % 255 + 16
    with torch.inference_mode():
        states = [
            model.encoder(pack([ids]), compute_dtype=torch.float32).hidden
            for ids in (text, changed)
        ]
    assert (states[0] - states[1])[0].abs().max() > 1e-4  # the last token reaches the first


# --- the small parts, by hand --------------------------------------------------------------------


def test_rms_norm_multiplies_by_one_plus_the_weight() -> None:
    norm = RMSNorm(2, eps=0.0)
    x = torch.tensor([[3.0, 4.0]])  # root mean square: sqrt(12.5)
    torch.testing.assert_close(norm(x), x / 12.5**0.5)
    norm.weight.data = torch.tensor([1.0, -1.0])
    torch.testing.assert_close(norm(x), torch.tensor([[2 * 3 / 12.5**0.5, 0.0]]))


def test_rms_norm_computes_in_float32_and_returns_what_came() -> None:
    norm = RMSNorm(4, eps=1e-6)
    large = torch.full((1, 4), 3e20, dtype=torch.bfloat16)  # its square leaves bfloat16's precision
    assert norm(large / 1e3).dtype == torch.bfloat16
    small = torch.tensor([[1.0, 1.01, 0.99, 1.0]], dtype=torch.bfloat16)
    expected = norm(small.float()).to(torch.bfloat16)
    assert torch.equal(norm(small), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_has_the_values_and_gradients_of_pytorchs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(8, 1e-6)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(5, 3, 8).to(dtype).requires_grad_()
    upstream = torch.randn(5, 3, 8).to(dtype)
    normed = norm(x)
    normed.backward(upstream)
    own = [x.grad, norm.weight.grad]
    x.grad = norm.weight.grad = None
    scale = 1 + norm.weight
    expected = torch.nn.functional.rms_norm(x.float(), scale.shape, scale, 1e-6).to(dtype)
    expected.backward(upstream)
    torch.testing.assert_close(normed, expected)
    for found, right in zip(own, [x.grad, norm.weight.grad], strict=True):
        torch.testing.assert_close(
            found, right, atol=1e-5, rtol=1e-2 if dtype != torch.float32 else 1e-5
        )


def test_rms_norm_passes_a_gradient_on_without_one_of_its_own() -> None:
    norm = RMSNorm(4, 1e-6).requires_grad_(False)
    x = torch.randn(2, 4, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is None


def test_rotation_turns_pairs_by_position_times_frequency() -> None:
    cos, sin = rotary_table(torch.tensor([0, 1, 5]), 4, 100.0, torch.float32)
    angles = torch.tensor([[0, 0, 0, 0], [1, 0.1, 1, 0.1], [5, 0.5, 5, 0.5]])  # 100^(-2/4) = 0.1
    torch.testing.assert_close(cos, angles.cos())
    torch.testing.assert_close(sin, angles.sin())
    x = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]).repeat(3, 1, 1)
    turned = rotate(x, cos, sin)[1, 0]
    torch.testing.assert_close(turned, torch.tensor([np.cos(1), 0, np.sin(1), 0]).float())


def test_rotation_makes_scores_depend_on_distance_only() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 16, generator=generator)

    def score(at: int, other: int) -> torch.Tensor:
        tables = [rotary_table(torch.tensor([p]), 16, 1e4, torch.float32) for p in (at, other)]
        return (rotate(query, *tables[0]) * rotate(key, *tables[1])).sum()

    torch.testing.assert_close(score(3, 10), score(103, 110), rtol=1e-4, atol=1e-4)
    assert (score(3, 10) - score(3, 11)).abs() > 1e-3


def test_feed_forward_gates_with_tanh_gelu() -> None:
    layer = GatedFeedForward(1, 1)
    layer.gate_up.weight.data = torch.tensor([[2.0], [3.0]])  # gate, then up
    layer.down.weight.data = torch.tensor([[10.0]])
    gelu = 0.5 * 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (2 + 0.044715 * 2**3)))
    assert layer(torch.ones(1, 1)).item() == pytest.approx(gelu * 3 * 10, rel=1e-6)


def test_embeddings_are_scaled_by_the_rounded_root_of_the_width() -> None:
    config = replace(tiny().encoder, model_dim=768, num_layers=1, global_layers=())
    model = EmbeddingModel(
        EmbeddingConfig(encoder=config, projection_dim=1, embedding_dim=1, widths=(1,))
    )
    initialize(model, seed=0)
    batch = pack([[20]])
    for dtype, scale in ((torch.float32, 768**0.5), (torch.bfloat16, 27.75)):
        encoded = model.encoder(batch, compute_dtype=dtype, keep={"embedded"})
        expected = model.encoder.embed[20].to(dtype) * torch.tensor(scale, dtype=dtype)
        torch.testing.assert_close(encoded.kept["embedded"][0], expected)


# --- the whole -----------------------------------------------------------------------------------


def test_intermediates_are_returned_for_the_asking(model: EmbeddingModel) -> None:
    batch = pack(texts_of(4, 2))
    encoded = model.encoder(batch, compute_dtype=torch.float32, keep={"embedded", "hidden.6"})
    assert set(encoded.kept) == {"embedded", "hidden.6"}
    torch.testing.assert_close(model.encoder.norm(encoded.kept["hidden.6"]), encoded.hidden)
    with pytest.raises(InputError, match=r"keep must be among .*'hidden\.0'.*got \['hidden\.7'\]"):
        model.encoder(batch, compute_dtype=torch.float32, keep={"hidden.7"})


def test_the_vector_is_two_maps_of_the_mean_at_unit_length(model: EmbeddingModel) -> None:
    text = texts_of(6)[0]
    hidden = model.encoder(pack([text]), compute_dtype=torch.float32).hidden
    vector = model.down.weight @ (model.up.weight @ hidden.mean(0))
    torch.testing.assert_close(model(pack([text]))[0], vector / vector.norm())


def test_dropout_acts_in_training_only() -> None:
    config = replace(tiny(), encoder=replace(tiny().encoder, dropout=0.5))
    model = from_arrays(config, random_arrays(config))
    texts = texts_of(9)
    assert torch.equal(embed(model, texts), embed(model, texts))
    model.train()
    assert not torch.allclose(embed(model, texts), embed(model, texts), atol=1e-3)


def test_truncation_keeps_the_front_at_unit_length() -> None:
    vectors = normalize(torch.tensor([[3.0, 4.0, 12.0, 84.0]]))
    torch.testing.assert_close(truncate(vectors, 2, widths=(4, 2)), torch.tensor([[0.6, 0.8]]))
    with pytest.raises(InputError, match=r"one of the trained widths \(4, 2\), got 3"):
        truncate(vectors, 3, widths=(4, 2))
    check_width(4, (4, 2))
    with pytest.raises(InputError, match="truncate_to must be a whole number, got '4'"):
        check_width("4", (4, 2))  # type: ignore[arg-type]


def test_float16_is_refused_and_says_why() -> None:
    assert check_dtype(torch.bfloat16) is torch.bfloat16
    with pytest.raises(InputError, match=r"exceed float16's range.*use bfloat16"):
        check_dtype(torch.float16)
    with pytest.raises(InputError, match=r"must be float32 or bfloat16, got torch\.int8"):
        check_dtype(torch.int8)


def test_random_starts_are_decided_by_the_seed_and_give_finite_gradients() -> None:
    first, again, other = (initialize(EmbeddingModel(tiny()), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.up.weight, again.up.weight)
    assert not torch.equal(first.up.weight, other.up.weight)
    vectors = first(pack(texts_of(300, 5)))
    (vectors[0] @ vectors[1]).backward()
    gradients = [parameter.grad for parameter in first.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_a_wrong_shape_is_refused_under_test() -> None:
    with pytest.raises(TypeCheckError):
        TokenBatch(
            ids=torch.zeros(3, dtype=torch.long),
            positions=torch.zeros(4, dtype=torch.long),
            lengths=torch.ones(1, dtype=torch.long),
            runs=((3, 1),),
            order=torch.zeros(1, dtype=torch.long),
        )
    with pytest.raises(TypeCheckError):
        rotate(torch.zeros(3, 1, 8), torch.zeros(3, 8), torch.zeros(3, 4))
