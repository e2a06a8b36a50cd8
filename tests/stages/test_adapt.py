from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from decoder_doubles import gemma3_like, loud_arrays, texts_of

from culet.checkpoints.t5gemma import read_encoder_decoder
from culet.checkpoints.write import write_checkpoint
from culet.errors import CheckpointError, InputError
from culet.files.settings import build
from culet.model.adapt import adapt, adapted_config
from culet.model.batch import pack_pairs
from culet.model.weights import from_arrays
from culet.stages.adapt import STAGE, AdaptConfig
from culet.stages.contract import run_stage
from culet.text.tokenizer_training import byte_tokenizer

WIDE = gemma3_like(model_dim=48, num_heads=2, num_kv_heads=1)


def decoder(folder: Path, *, seed: int = 0, wide: bool = False) -> Path:
    config = WIDE if wide else gemma3_like()
    arrays = loud_arrays(config, seed=seed)
    write_checkpoint(folder, config, arrays, tokenizer_json=byte_tokenizer().to_str())
    return folder


def test_the_checkpoint_is_the_adapted_decoder(tmp_path: Path) -> None:
    lines: list[str] = []
    source = decoder(tmp_path / "decoder")
    config = build(AdaptConfig, {"encoder_window": "split"}, where="adapt")
    out = run_stage(
        STAGE, config, decoder=source, out=tmp_path / "adapt", say=lines.append, name="adapt"
    )
    checkpoint = read_encoder_decoder(out)
    shape = adapted_config(gemma3_like(), encoder_window="split")
    assert checkpoint.config == shape
    expected = adapt(shape, loud_arrays(gemma3_like()))
    arrays = checkpoint.arrays()
    assert sorted(arrays) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert lines == [
        f"adapt: balanced, {shape.num_parameters():,} parameters, {7 * 2 * 32} of them new"
    ]
    with torch.inference_mode():
        model = from_arrays(checkpoint.config, arrays)
        assert model(pack_pairs(texts_of(3, 9), texts_of(5, 4))).isfinite().all()


def test_a_finished_stage_is_not_done_again_and_other_settings_move_it(tmp_path: Path) -> None:
    lines: list[str] = []
    source, out = decoder(tmp_path / "decoder"), tmp_path / "adapt"
    run_stage(STAGE, AdaptConfig(), decoder=source, out=out, say=lines.append, name="adapt")
    moved = source.rename(tmp_path / "elsewhere")  # the same decoder in another place
    run_stage(
        STAGE, AdaptConfig(decoder=moved), decoder=moved, out=out, say=lines.append, name="adapt"
    )
    assert lines[-1] == "adapt: finished before, nothing to do"
    merged = AdaptConfig(cross="merged", tied_embeddings=True, dtype="bfloat16")
    run_stage(STAGE, merged, decoder=moved, out=out, say=lines.append, name="adapt")
    assert "the earlier run is kept in" in lines[-2]
    assert lines[-1].endswith(" 0 of them new")
    assert read_encoder_decoder(out / "checkpoint").config.tied_embeddings


def test_two_decoders_become_an_unbalanced_pair(tmp_path: Path) -> None:
    lines: list[str] = []
    small, wide = decoder(tmp_path / "small"), decoder(tmp_path / "wide", seed=1, wide=True)
    checkpoint = run_stage(
        STAGE,
        AdaptConfig(),
        decoder=small,
        encoder=wide,
        out=tmp_path / "adapt",
        say=lines.append,
        name="adapt",
    )
    shape = read_encoder_decoder(checkpoint).config
    assert (shape.encoder.model_dim, shape.decoder.stack.model_dim) == (48, 32)
    assert "adapt: unbalanced" in lines[-1]


def test_what_cannot_be_adapted_is_refused(tmp_path: Path) -> None:
    source = decoder(tmp_path / "decoder")
    other = decoder(tmp_path / "other", wide=True)
    text = (other / "tokenizer.json").read_text().replace("<unused0>", "<another>")
    (other / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match=r"must share a tokenizer, but tokenizer\.json of"):
        run_stage(
            STAGE,
            AdaptConfig(),
            decoder=source,
            encoder=other,
            out=tmp_path / "adapt",
            name="adapt",
        )
    with pytest.raises(CheckpointError, match="does not exist"):
        run_stage(
            STAGE, AdaptConfig(), decoder=tmp_path / "nothing", out=tmp_path / "adapt", name="adapt"
        )
    wide = decoder(tmp_path / "wide", wide=True)
    with pytest.raises(InputError, match="merged attention needs an encoder as wide"):
        run_stage(
            STAGE,
            AdaptConfig(cross="merged"),
            decoder=source,
            encoder=wide,
            out=tmp_path / "adapt",
            name="adapt",
        )
