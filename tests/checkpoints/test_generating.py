"""Decoders and encoder-decoders go to transformers and come back with the same logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from culet.architecture.embedding_config import tiny
from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
from culet.checkpoints.checkpoint import DecoderCheckpoint, EncoderDecoderCheckpoint
from culet.checkpoints.gemma import read_decoder
from culet.checkpoints.t5gemma import read_encoder_decoder
from culet.checkpoints.write import write_checkpoint
from culet.errors import CheckpointError
from culet.model.batch import pack, pack_pairs
from culet.model.weights import from_arrays
from culet.text.tokenizer_training import byte_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 7,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": 6,
    "max_position_embeddings": 128,
}
TINY_IMAGES = {
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 2,
    "patch_size": 1,
    "vision_use_head": False,
}
LINEAR = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


def gemma3(**more: Any) -> Any:
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**SIZES | more))


def gemma2() -> Any:
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SIZES))


def gemma3_with_images() -> Any:
    images = transformers.SiglipVisionConfig(**TINY_IMAGES)
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**SIZES | {"rope_parameters": LINEAR}),
        vision_config=images,
        mm_tokens_per_image=1,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def t5gemma(**more: Any) -> Any:
    # T5Gemma's own code and transformers 4.57 see less than sliding_window tokens each way, 5.23
    # one more: only where no text is as long do all agree
    wide = SIZES | {"hidden_size": 48, "num_hidden_layers": 3, "sliding_window": 20}
    config = transformers.T5GemmaConfig(encoder=wide, decoder=SIZES, vocab_size=272, **more)
    return transformers.T5GemmaForConditionalGeneration(config)


def t5gemma2(window: int = 6) -> Any:
    encoder = transformers.T5Gemma2EncoderConfig(
        text_config=SIZES | {"sliding_window": window},
        vision_config=TINY_IMAGES,
        mm_tokens_per_image=1,
    )
    return transformers.T5Gemma2ForConditionalGeneration(
        transformers.T5Gemma2Config(encoder=encoder, decoder=SIZES)
    )


def saved(make: Callable[[], Any], folder: Path, **options: Any) -> Any:
    """Save a model whose every weight, norms included, is random; return it."""
    torch.manual_seed(0)
    model = make().eval()
    model.set_attn_implementation("eager")  # the only one that caps scores
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "vision" not in name:
                weight.copy_(torch.randn_like(weight) * (0.3 if weight.dim() == 1 else 0.2))
    model.save_pretrained(folder, **options)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return model


def ids(length: int, seed: int) -> torch.Tensor:
    return torch.randint(5, 272, (2, length), generator=torch.Generator().manual_seed(seed))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            begun = torch.cat([torch.full((2, 1), 2), ids(15, 2)[:, :-1]], dim=1)
            out = model(input_ids=ids(20, 1), decoder_input_ids=begun)
        else:
            out = model(input_ids=ids(20, 1))
    return out.logits


def our_logits(read: DecoderCheckpoint | EncoderDecoderCheckpoint) -> torch.Tensor:
    """Return the logits of the same tokens by our own model, from the same folder."""
    sources, targets = ids(20, 1).numpy(), ids(15, 2).numpy()
    model = from_arrays(read.config, read.arrays())
    with torch.inference_mode():
        if isinstance(read.config, EncoderDecoderConfig):
            pairs = pack_pairs(list(sources), list(targets))
            packed, order = model.logits(model(pairs)).unflatten(0, (2, 15)), pairs.target.order
        else:
            batch = pack(list(sources))
            packed, order = model.logits(model(batch)).unflatten(0, (2, 20)), batch.order
    return packed[order]


@pytest.mark.parametrize(
    ("make", "architecture"),
    [
        (gemma3, "Gemma3ForCausalLM"),
        (lambda: gemma3(tie_word_embeddings=False), "Gemma3ForCausalLM"),
        (lambda: gemma3(rope_parameters=LINEAR, final_logit_softcapping=5.0), "Gemma3ForCausalLM"),
        (gemma2, "Gemma2ForCausalLM"),
        (gemma3_with_images, "Gemma3ForCausalLM"),
    ],
)
def test_decoders_come_and_go_with_the_same_logits(
    make: Callable[[], Any], architecture: str, tmp_path: Path
) -> None:
    theirs = saved(make, tmp_path / "theirs")
    read = read_decoder(tmp_path / "theirs")
    write_checkpoint(
        tmp_path / "ours", read.config, read.arrays(), tokenizer_json=read.tokenizer_json
    )
    back, loading = getattr(transformers, architecture).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(loading.values())
    back.set_attn_implementation("eager")
    torch.testing.assert_close(logits(back.eval()), logits(theirs), rtol=0, atol=1e-6)
    again = read_decoder(tmp_path / "ours")
    assert again.config == read.config
    assert all(np.array_equal(again.arrays()[n], read.arrays()[n]) for n in read.tensors)


def test_the_stored_window_counts_the_token_itself(tmp_path: Path) -> None:
    saved(gemma3, tmp_path)
    stack = read_decoder(tmp_path).config.stack
    assert stack.window == 5  # and itself: the 6 of SIZES
    assert stack.causal
    assert stack.global_layers == (5,)
    assert stack.scale == pytest.approx(24**-0.5)


def test_image_tensors_are_left_out_with_a_word(tmp_path: Path) -> None:
    saved(gemma3_with_images, tmp_path)
    read = read_decoder(tmp_path)
    assert read.notes[0].startswith("left out 23 tensors that read images: ")
    assert read.config.stack.global_rope_scaling == 8


def test_shards_and_bfloat16_are_read(tmp_path: Path) -> None:
    theirs = saved(lambda: gemma3().bfloat16(), tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    arrays = read_decoder(tmp_path).arrays()
    expected = theirs.model.embed_tokens.weight.float().detach().numpy()
    assert np.array_equal(arrays["embed"], expected)


@pytest.mark.parametrize(
    ("make", "architecture"),
    [
        (t5gemma, "T5GemmaForConditionalGeneration"),
        (lambda: t5gemma(tie_word_embeddings=False), "T5GemmaForConditionalGeneration"),
        (t5gemma2, "T5Gemma2ForConditionalGeneration"),
        (lambda: t5gemma2(window=7), "T5Gemma2ForConditionalGeneration"),
    ],
)
def test_encoder_decoders_come_and_go_with_the_same_logits(
    make: Callable[[], Any], architecture: str, tmp_path: Path
) -> None:
    theirs = saved(make, tmp_path / "theirs")
    read = read_encoder_decoder(tmp_path / "theirs")
    torch.testing.assert_close(our_logits(read), logits(theirs), rtol=0, atol=1e-4)
    write_checkpoint(
        tmp_path / "ours", read.config, read.arrays(), tokenizer_json=read.tokenizer_json
    )
    back, loading = getattr(transformers, architecture).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(loading.values())
    back.set_attn_implementation("eager")
    torch.testing.assert_close(logits(back.eval()), logits(theirs), rtol=0, atol=1e-6)
    assert read_encoder_decoder(tmp_path / "ours").config == read.config


def test_t5gemma2s_encoder_sees_one_more_after_if_its_window_is_even(tmp_path: Path) -> None:
    for window, expected in ((6, (2, 3)), (7, (3, None))):
        saved(lambda window=window: t5gemma2(window), tmp_path / str(window))
        encoder = read_encoder_decoder(tmp_path / str(window)).config.encoder
        assert (encoder.window, encoder.window_after) == expected


def random(config: DecoderConfig | EncoderDecoderConfig) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in config.weight_shapes().items()
    }


def decoder(**more: Any) -> DecoderConfig:
    return DecoderConfig(replace(tiny().encoder, causal=True, **more))


@pytest.mark.parametrize(
    "config",
    [
        decoder(attention_softcap=20.0),
        decoder(query_key_norm=False),
        decoder(attention_scale=0.3),
        replace(decoder(num_heads=3, num_kv_heads=1), logit_softcap=7.0, tied_head=False),
    ],
)
def test_what_no_gemma_can_say_is_written_in_our_words(
    config: DecoderConfig, tmp_path: Path
) -> None:
    arrays = random(config)
    write_checkpoint(tmp_path / "a", config, arrays, tokenizer_json=byte_tokenizer().to_str())
    assert json.loads((tmp_path / "a/config.json").read_text())["architectures"] == ["CuletDecoder"]
    read = read_decoder(tmp_path / "a")
    assert read.config == config
    assert all(np.array_equal(read.arrays()[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("cross", ["separate", "merged"])
@pytest.mark.parametrize("tied", [False, True])
def test_encoder_decoders_of_gemma3_layers_are_kept(cross: Any, tied: bool, tmp_path: Path) -> None:
    config = EncoderDecoderConfig(tiny().encoder, decoder(), cross=cross, tied_embeddings=tied)
    arrays = random(config)
    write_checkpoint(tmp_path / "a", config, arrays, tokenizer_json=byte_tokenizer().to_str())
    named = json.loads((tmp_path / "a/config.json").read_text())["architectures"]
    second = cross == "merged" and tied
    assert named == ["T5Gemma2ForConditionalGeneration" if second else "CuletEncoderDecoder"]
    read = read_encoder_decoder(tmp_path / "a")
    assert read.config == config
    assert all(np.array_equal(read.arrays()[name], arrays[name]) for name in arrays)


def written(folder: Path) -> Path:
    config = decoder()
    write_checkpoint(folder, config, random(config), tokenizer_json=byte_tokenizer().to_str())
    return folder


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def test_a_tied_copy_beside_the_table_is_dropped_under_its_older_name_too(tmp_path: Path) -> None:
    config = json.loads((written(tmp_path / "a") / "config.json").read_text())
    arrays = {
        f"language_model.{name}": array
        for name, array in load_file(tmp_path / "a/model.safetensors").items()
    }
    table = arrays["language_model.model.embed_tokens.weight"]
    named = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": config}
    (tmp_path / "a/config.json").write_text(json.dumps(named))
    copy = "language_model.lm_head.weight"
    save_file(arrays | {copy: table}, tmp_path / "a/model.safetensors")
    assert np.array_equal(read_decoder(tmp_path / "a").arrays()["embed"], table)
    save_file(arrays | {copy: table + 1}, tmp_path / "a/model.safetensors")
    with pytest.raises(CheckpointError, match="but both are there and differ"):
        read_decoder(tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "'LlamaForCausalLM' .*expected one of Gemma3For"),
        ({"architectures": None}, "the architecture is None"),
        ({"model_type": "gemma"}, "model_type must be 'gemma3_text', got 'gemma'"),
        ({"use_bidirectional_attention": True}, "this is an encoder; expected a causal decoder"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping must be None, got 50.0"),
        ({"attention_bias": True}, "attention_bias must be False, got True"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be 1 to 1000"),
        ({"hidden_size": "wide"}, "hidden_size must be a whole number, got 'wide'"),
        ({"num_attention_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"layer_types": ["full_attention"]}, "layer_types must name 7 layers"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rotary scaling .*'factor': 2"),
        (
            {"hidden_size": 64},
            r"tensor model\.\S+ has shape \(272, 32\), config.json says \(272, 6",
        ),
        ({"tie_word_embeddings": False}, "missing head, unexpected nothing"),
        ({"vocab_size": 100}, r"has shape \(272, 32\), config.json says \(100, 32\)"),
        ({"num_hidden_layers": 8, "layer_types": None}, r"missing blocks\.7\.\S+, .* and 8 more"),
        ({"num_hidden_layers": 6, "layer_types": None}, r"unexpected model\.layers\.6\."),
    ],
)
def test_a_wrong_config_is_refused_in_words(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    edit(written(tmp_path / "a") / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_decoder(tmp_path / "a")


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist; expected a folder or a GGUF"):
        read_decoder(tmp_path / "nothing")
    folder = written(tmp_path / "a")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        read_decoder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        read_decoder(folder)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(tmp_path: Path) -> None:
    config = decoder(vocab_size=200)
    with pytest.raises(CheckpointError, match="token ids up to 271, but the model embeds only 200"):
        write_checkpoint(
            tmp_path / "a", config, random(config), tokenizer_json=byte_tokenizer().to_str()
        )
    assert not (tmp_path / "a").exists()


def test_the_place_of_an_image_needs_no_row(tmp_path: Path) -> None:
    folder = written(tmp_path / "a")
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(["<image_soft_token>"])
    assert tokenizer.encode("<image_soft_token>").ids[1] == 272  # one more than there are rows
    tokenizer.save(str(folder / "tokenizer.json"))
    kept = Tokenizer.from_str(read_decoder(folder).tokenizer_json)
    assert kept.get_vocab_size() == 272
    assert len(kept.encode("<image_soft_token>").ids) == 2 + 18  # text like any other
    tokenizer.add_tokens(["another"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="token ids up to 273, but the model embeds only 272"):
        read_decoder(folder)


def test_own_words_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    config = decoder(query_key_norm=False)
    write_checkpoint(tmp_path, config, random(config), tokenizer_json=byte_tokenizer().to_str())
    own = json.loads((tmp_path / "config.json").read_text())["culet"]
    for stack, message in (
        ({**own["stack"], "window": "wide"}, "window must be int, got 'wide'"),
        ({**own["stack"], "causal": False}, "the stack of a decoder must be causal"),
        ({"window": 3}, "a stack must give exactly"),
    ):
        edit(tmp_path / "config.json", culet={**own, "stack": stack})
        with pytest.raises(CheckpointError, match=message):
            read_decoder(tmp_path)


def test_an_encoder_decoder_of_another_kind_is_refused(tmp_path: Path) -> None:
    saved(t5gemma, tmp_path)
    edit(tmp_path / "config.json", architectures=["T5ForConditionalGeneration"])
    with pytest.raises(CheckpointError, match="expected one of T5GemmaForConditionalGeneration, T"):
        read_encoder_decoder(tmp_path)
    with pytest.raises(CheckpointError, match="is not a folder"):
        read_encoder_decoder(tmp_path / "config.json")


def test_a_tied_copy_must_be_the_same(tmp_path: Path) -> None:
    saved(lambda: gemma3(tie_word_embeddings=False), tmp_path)
    edit(tmp_path / "config.json", tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match=r"ties lm_head\.weight to model\.embed_tokens"):
        read_decoder(tmp_path)


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    config = decoder()
    arrays = random(config)
    prints = []
    for change in (0.0, 0.0, 1.0):
        arrays["norm"] = arrays["norm"] + np.float32(change)
        write_checkpoint(tmp_path / "a", config, arrays, tokenizer_json=byte_tokenizer().to_str())
        prints.append(read_decoder(tmp_path / "a").fingerprint)
    assert prints[0] == prints[1] != prints[2]
