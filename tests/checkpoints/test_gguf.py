"""GGUF files written by the `gguf` package are read; damaged and foreign ones are named."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_doubles import DIM, HEAD, SCORES, TOKENS, write
from tokenizers import Tokenizer

from culet.checkpoints.checkpoint import DecoderCheckpoint
from culet.checkpoints.gemma import read_decoder
from culet.checkpoints.gguf.blocks import BLOCK_TYPES
from culet.checkpoints.gguf.container import read_gguf
from culet.checkpoints.write import write_checkpoint
from culet.errors import CheckpointError


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0"])
def test_weights_of_every_kind_are_read(kind: str, tmp_path: Path) -> None:
    expected = write(tmp_path / "a.gguf", kind)
    read = read_decoder(tmp_path / "a.gguf")
    arrays = read.arrays()
    assert np.array_equal(arrays["embed"], expected["token_embd.weight"])
    assert np.array_equal(arrays["blocks.5.ffn.down"], expected["blk.5.ffn_down.weight"])
    assert read.notes[0].startswith("tensors are stored as ")


def test_norms_are_stored_with_one_added(tmp_path: Path) -> None:
    expected = write(tmp_path / "a.gguf")
    arrays = read_decoder(tmp_path / "a.gguf").arrays()
    for ours, theirs in {
        "norm": "output_norm",
        "blocks.1.attention_norm": "blk.1.attn_norm",
        "blocks.1.attention.query_norm": "blk.1.attn_q_norm",
        "blocks.1.attention.key_norm": "blk.1.attn_k_norm",
        "blocks.1.attention_post_norm": "blk.1.post_attention_norm",
        "blocks.1.ffn_norm": "blk.1.ffn_norm",
        "blocks.1.ffn_post_norm": "blk.1.post_ffw_norm",
    }.items():
        assert np.array_equal(arrays[ours], expected[f"{theirs}.weight"] - 1)


def test_the_metadata_becomes_a_config(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf")
    config = read_decoder(tmp_path / "a.gguf").config
    stack = config.stack
    assert (stack.vocab_size, stack.model_dim, stack.head_dim) == (len(TOKENS), DIM, HEAD)
    assert (stack.window, stack.global_layers, stack.norm_eps) == (7, (5,), 1e-6)
    assert (stack.local_rope_base, stack.global_rope_base) == (1e4, 1e6)
    assert config.tied_head
    assert config.logit_softcap is None


def test_gemma2_has_caps_and_no_norms_of_queries(tmp_path: Path) -> None:
    metadata = {"rope.freq_base": 1e4, "final_logit_softcapping": 30.0}
    write(tmp_path / "a.gguf", architecture="gemma2", metadata=metadata)
    config = read_decoder(tmp_path / "a.gguf").config
    assert (config.stack.attention_softcap, config.logit_softcap) == (50.0, 30.0)
    assert config.stack.global_layers == (1, 3, 5)
    assert not config.stack.query_key_norm


def test_long_context_models_scale_global_positions(tmp_path: Path) -> None:
    scaling = {"rope.scaling.factor": 8.0}
    write(tmp_path / "a.gguf", metadata=scaling)
    assert read_decoder(tmp_path / "a.gguf").config.stack.global_rope_scaling == 1
    writer_type = {"rope.scaling.type": None}
    write(tmp_path / "b.gguf", metadata=scaling | writer_type)
    patched = with_text(tmp_path / "b.gguf", "gemma3.rope.scaling.type", "linear", tmp_path)
    assert read_decoder(patched).config.stack.global_rope_scaling == 8
    patched = with_text(tmp_path / "b.gguf", "gemma3.rope.scaling.type", "yarn", tmp_path)
    with pytest.raises(CheckpointError, match=r"rotary scaling .*'yarn'.* is not part"):
        read_decoder(patched)


def with_text(path: Path, key: str, value: str, folder: Path) -> Path:
    """Return a copy of a file with one more metadata entry, spelled out byte by byte."""
    raw = path.read_bytes()
    tensors, entries = struct.unpack_from("<QQ", raw, 8)
    entry = b"".join(struct.pack("<Q", len(text)) + text for text in (key.encode(),))
    entry += struct.pack("<IQ", 8, len(value)) + value.encode()
    assert len(entry) <= 96
    filler = 96 - len(entry)  # keep the alignment of what follows
    pad_key = b"p" * (filler - 8 - 4 - 1)
    entry += struct.pack("<Q", len(pad_key)) + pad_key + struct.pack("<IB", 0, 0)
    assert len(entry) == 96
    target = folder / f"{value}.gguf"
    head = raw[:8] + struct.pack("<QQ", tensors, entries + 2)
    target.write_bytes(head + entry + raw[24:])
    return target


def test_a_head_of_its_own_unties(tmp_path: Path) -> None:
    head = {"output.weight": np.ones((len(TOKENS), DIM), np.float32)}
    write(tmp_path / "a.gguf", more=head)
    read = read_decoder(tmp_path / "a.gguf")
    assert not read.config.tied_head
    assert read.arrays()["head"].all()


def test_it_goes_to_a_transformers_folder_and_back(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", "Q8_0")
    read = read_decoder(tmp_path / "a.gguf")
    write_checkpoint(tmp_path / "b", read.config, read.arrays(), tokenizer_json=read.tokenizer_json)
    again = read_decoder(tmp_path / "b")
    assert again.config == read.config
    assert again.tokenizer_json == read.tokenizer_json
    assert all(np.array_equal(again.arrays()[n], read.arrays()[n]) for n in read.tensors)


def tokens(read: DecoderCheckpoint, text: str) -> list[str]:
    return Tokenizer.from_str(read.tokenizer_json).encode(text).tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the", ["<bos>", "t", "he"]),
        ("in the", ["<bos>", "in", "▁the"]),
        ("the   ab", ["<bos>", "t", "he", "▁▁▁", "a", "b"]),
        ("a\n\n\nb", ["<bos>", "a", "\n\n", "\n", "b"]),
        ("é", ["<bos>", "<0xC3>", "<0xA9>"]),
        ("<b>a<unused1>", ["<bos>", "<b>", "a", "<unused1>"]),
    ],
)
def test_the_tokenizer_is_rebuilt(text: str, expected: list[str], tmp_path: Path) -> None:
    write(tmp_path / "a.gguf")
    read = read_decoder(tmp_path / "a.gguf")
    assert tokens(read, text) == expected
    assert (
        Tokenizer.from_str(read.tokenizer_json).decode(
            Tokenizer.from_str(read.tokenizer_json).encode(text).ids, skip_special_tokens=False
        )
        == f"<bos>{text}"
    )


def test_merges_follow_scores_and_spaces_come_first(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf")
    merges = json.loads(read_decoder(tmp_path / "a.gguf").tokenizer_json)["model"]["merges"]
    joined = ["".join(merge) for merge in merges]
    order = [joined.index(piece) for piece in ("▁▁", "▁▁▁", "▁t", "he", "▁the", "in")]
    assert order == sorted(order)
    # "▁the" is "▁t" + "he"; "▁" + "the" is none, because "the" is no piece
    assert [merge for merge in merges if "".join(merge) == "▁the"] == [["▁t", "he"]]


def truncated(path: Path, share: float) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])


def overwrite(path: Path, at: int, raw: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(raw)] = raw
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: truncated(path, 0.9), r"not a whole GGUF file: tensor \S+ ends at byte \d+"),
        (lambda path: truncated(path, 0.01), "it ends in the middle of its header; copy"),
        (lambda path: truncated(path, 0), "cannot read"),
        (lambda path: overwrite(path, 0, b"GGML"), "does not begin with 'GGUF'"),
        (lambda path: overwrite(path, 4, b"\1\0\0\0"), r"GGUF version 1; expected one of \(2, 3\)"),
        (lambda path: overwrite(path, 8, b"\xff" * 7), "in the middle of its header"),
        (lambda path: overwrite(path, 16, b"\xff" * 7), "in the middle of its header"),
        (lambda path: overwrite(path, 24, b"\xff" * 7), "in the middle of its header"),
    ],
)
def test_damaged_files_are_named(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.gguf")
    damage(tmp_path / "a.gguf")
    with pytest.raises(CheckpointError, match=message):
        read_decoder(tmp_path / "a.gguf")


def test_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf")
    raw = (tmp_path / "a.gguf").read_bytes()
    name = b"blk.3.ffn_up.weight"
    at = raw.index(name) + len(name) + 4 + 16  # dimensions: their number and two of them
    overwrite(tmp_path / "a.gguf", at, struct.pack("<I", 20))
    expected = r"blk\.3\.ffn_up\.weight is stored as IQ4_NL, which .* expected F32, F16, Q4_0"
    with pytest.raises(CheckpointError, match=expected):
        read_gguf(tmp_path / "a.gguf")


def test_lists_within_lists_within_lists_do_not_bring_it_down(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf")
    key = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9)
    deep = key + struct.pack("<IQ", 9, 1) * 5000
    raw = (tmp_path / "a.gguf").read_bytes()
    (tmp_path / "a.gguf").write_bytes(raw[:24] + deep + raw[24:])
    with pytest.raises(CheckpointError, match="not a whole GGUF file"):
        read_gguf(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"architecture": "llama"},
            "the architecture is 'llama', .*expected one of gemma3, gemma2",
        ),
        (
            {"drop": "blk.2.ffn_up.weight"},
            r"its metadata disagree; missing blocks\.2\.ffn\.up, une",
        ),
        ({"more": {"extra.weight": np.ones(3, np.float32)}}, r"unexpected extra\.weight"),
        ({"drop": "token_embd.weight"}, r"tensor token_embd\.weight is missing"),
        ({"tokenizer": False}, "the tokenizer is of the kind None"),
        ({"model": "gpt2"}, "the tokenizer is of the kind 'gpt2', .*expected 'llama'"),
        ({"scores": SCORES[:-1]}, f"{len(TOKENS)} tokens have {len(TOKENS) - 1} scores"),
        ({"metadata": {"block_count": 100_000}}, "block_count must be 1 to 1000, got 100000"),
        ({"metadata": {"block_count": None}}, "block_count must be a whole number, got None"),
        ({"metadata": {"attention.sliding_window": 1}}, "window must be at least 1, got 0"),
        (
            {"metadata": {"embedding_length": 32}},
            r"has shape \(\d+, 64\), its metadata says \(\d+, 32",
        ),
        (
            {"metadata": {"attn_logit_softcapping": 50.0}},
            "softcapping must be None, got 50",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.gguf", **options)
    with pytest.raises(CheckpointError, match=message):
        read_decoder(tmp_path / "a.gguf")


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    write(
        tmp_path / "a.gguf",
        drop="token_embd.weight",
        more={"token_embd.weight": np.ones((200, DIM), np.float32)},
    )
    expected = re.escape(f"token ids up to {len(TOKENS) - 1}, but the model embeds only 200")
    with pytest.raises(CheckpointError, match=expected):
        read_decoder(tmp_path / "a.gguf")


def test_metadata_equals_what_the_gguf_package_reads(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", "Q8_0")
    ours, theirs = read_gguf(tmp_path / "a.gguf"), gguf.GGUFReader(tmp_path / "a.gguf")
    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert ours.metadata == fields
    places = {t.name: (t.data_offset, t.n_bytes, t.tensor_type.name) for t in theirs.tensors}
    assert {n: (t.start, t.num_bytes, t.kind.name) for n, t in ours.tensors.items()} == places
    assert {kind.name for kind in BLOCK_TYPES.values()} >= {t[2] for t in places.values()}
