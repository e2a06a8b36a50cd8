"""The tokenizer inside a GGUF file, as the tokenizer.json that Gemma's own folders have.

A GGUF file keeps a SentencePiece model's pieces, scores and types. What joins two pieces is not
there: every pair of pieces whose join is a piece too is a merge, in the order of the scores of what
they make (SentencePiece's rule, and how tokenizer.json files are made from its models).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from culet.errors import CheckpointError

_NORMAL, _CONTROL, _USER_DEFINED, _BYTE = 1, 3, 4, 6  # llama.cpp's token types
_UNKNOWN, _UNUSED = 2, 5
_SPACE = "▁"
_PRE_TOKENIZER = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
_DECODERS = [
    {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]


def tokenizer_json(metadata: Mapping[str, Any], path: Path) -> str:
    """Return the tokenizer of a GGUF file as the text of a tokenizer.json.

    Args:
        metadata: The metadata of the file.
        path: The file, for messages.

    Raises:
        CheckpointError: If the tokenizer is missing, of another family, or contradicts itself.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model != "llama" or metadata.get("tokenizer.ggml.add_space_prefix"):
        raise CheckpointError(
            f"{path}: the tokenizer is of the kind {model!r}, with add_space_prefix="
            f"{metadata.get('tokenizer.ggml.add_space_prefix')!r}; expected 'llama' (SentencePiece "
            "with scores) without a space in front, as in every Gemma file"
        )
    tokens, scores, kinds = (
        _list(metadata, f"tokenizer.ggml.{name}", path)
        for name in ("tokens", "scores", "token_type")
    )
    if not len(tokens) == len(scores) == len(kinds):
        raise CheckpointError(
            f"{path}: {len(tokens)} tokens have {len(scores)} scores and {len(kinds)} types"
        )
    # llama.cpp stores runs of spaces as such, because it looks for them before it does the rest
    pieces = [
        token.replace(" ", _SPACE) if kind == _USER_DEFINED else token
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    vocab = {piece: token_id for token_id, piece in enumerate(pieces)}
    if len(vocab) < len(pieces):
        raise CheckpointError(f"{path}: {len(pieces) - len(vocab)} tokens are listed twice")
    added = [
        (token_id, piece, kinds[token_id] != _USER_DEFINED)
        for token_id, piece in enumerate(pieces)
        if kinds[token_id] in (_CONTROL, _UNKNOWN, _USER_DEFINED) and piece.strip(_SPACE)
    ]
    bos = _special(metadata, "bos", pieces, path)
    return gemma_json(
        vocab,
        _merges(pieces, scores, kinds, vocab),
        added,
        bos=bos if metadata.get("tokenizer.ggml.add_bos_token", True) else None,
        unknown=_special(metadata, "unknown", pieces, path),
    )


def gemma_json(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    added: Sequence[tuple[int, str, bool]],
    *,
    bos: str | None,
    unknown: str,
) -> str:
    """Return a tokenizer.json of Gemma's form.

    Args:
        vocab: Piece to id.
        merges: What is joined, in this order.
        added: Id, piece and whether it is special, of pieces looked for in the raw text.
        bos: What begins every text, if anything does.
        unknown: What stands for what cannot be written even in bytes.
    """
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token_id,
                "content": piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": is_special,
            }
            for token_id, piece, is_special in added
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        "pre_tokenizer": _PRE_TOKENIZER,
        "post_processor": _template(bos, vocab),
        "decoder": {"type": "Sequence", "decoders": _DECODERS},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _template(bos: str | None, vocab: Mapping[str, int]) -> dict[str, Any]:
    """Return the post-processor that puts the beginning token in front of each text."""
    first, second = ({"Sequence": {"id": text, "type_id": i}} for i, text in enumerate("AB"))
    single: list[dict[str, Any]] = [first]
    pair: list[dict[str, Any]] = [first, second]
    special = {}
    if bos is not None:
        begins = [{"SpecialToken": {"id": bos, "type_id": i}} for i in range(2)]
        single, pair = [begins[0], first], [begins[0], first, begins[1], second]
        special[bos] = {"id": bos, "ids": [vocab[bos]], "tokens": [bos]}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": special,
    }


def _merges(
    pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int], vocab: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Return every pair of pieces that joins into a piece, in the order in which they are merged.

    User-defined pieces come before all others, runs of spaces among them: SentencePiece finds
    those before it joins anything. Of the pairs that make one piece, the one with the longest left
    part is first.
    """
    normal = (_NORMAL, _UNUSED)
    made = [token_id for token_id, kind in enumerate(kinds) if kind == _USER_DEFINED]
    made += sorted(
        (token_id for token_id, kind in enumerate(kinds) if kind in normal),
        key=lambda token_id: -scores[token_id],
    )
    merges = []
    for token_id in made:
        piece = pieces[token_id]
        for cut in range(len(piece) - 1, 0, -1):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                merges.append((left, right))
    return merges


def _list(metadata: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    value = metadata.get(key)
    if not isinstance(value, list) or not value:
        raise CheckpointError(
            f"{path} has no {key}, so its tokenizer cannot be rebuilt; expected a file with its "
            "tokenizer inside"
        )
    return value


def _special(metadata: Mapping[str, Any], name: str, pieces: Sequence[str], path: Path) -> str:
    token_id = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if type(token_id) is not int or not 0 <= token_id < len(pieces):
        raise CheckpointError(
            f"{path}: tokenizer.ggml.{name}_token_id must be an id below {len(pieces)}, got "
            f"{token_id!r}"
        )
    return pieces[token_id]
