"""What a decoder or an encoder-decoder is, as a person reads it in a terminal, and as JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from tokenizers import Tokenizer

from culet.architecture.encoder_config import EncoderConfig
from culet.architecture.generating_config import EncoderDecoderConfig
from culet.checkpoints.embedding import Checkpoint, read_checkpoint
from culet.checkpoints.folder import read_json
from culet.checkpoints.gemma import ARCHITECTURES as DECODERS
from culet.checkpoints.gemma import (
    DecoderCheckpoint,
    EncoderDecoderCheckpoint,
    read_generating,
)
from culet.checkpoints.t5gemma import ARCHITECTURES as ENCODER_DECODERS
from culet.cli.hits import readable_size, show_rows
from culet.errors import CheckpointError

_TABLES = ("embed", "head")
_UNUSED = re.compile(r"<unused\d+>", re.ASCII)


def read_described(path: Path) -> Checkpoint | DecoderCheckpoint | EncoderDecoderCheckpoint:
    """Return the embedding model, decoder or encoder-decoder at a path, with everything checked.

    Raises:
        CheckpointError: If it is none of these, or cannot be trusted.
    """
    config = path / "config.json"
    if path.is_dir() and not (path / "modules.json").exists() and config.exists():
        raw = read_json(config)
        named = raw.get("architectures")
        name = named[0] if isinstance(named, list) and named else named
        if name not in (*DECODERS, *ENCODER_DECODERS):
            raise CheckpointError(
                f"{path} has no modules.json, so it is no embedding model that could be used, and "
                f"config.json names the architecture {name!r}, which is no decoder or "
                f"encoder-decoder known here; known are {', '.join((*DECODERS, *ENCODER_DECODERS))}"
            )
        return read_generating(path)
    return read_generating(path) if path.is_file() else read_checkpoint(path)


def generating_json(found: DecoderCheckpoint | EncoderDecoderCheckpoint) -> dict[str, Any]:
    """Return what is known of a model that writes text, as JSON."""
    config = found.config
    shapes = config.weight_shapes()
    numbers = {name: math.prod(shape) for name, shape in shapes.items()}
    tables = sum(n for name, n in numbers.items() if name.rpartition(".")[2] in _TABLES)
    paired = isinstance(config, EncoderDecoderConfig)
    decoder = config.decoder if isinstance(config, EncoderDecoderConfig) else config
    facts: dict[str, Any] = {
        "path": str(found.path),
        "kind": "encoder-decoder" if paired else "decoder",
        "architecture": found.architecture,
        "fingerprint": found.fingerprint,
        "num_parameters": sum(numbers.values()),
        "num_embedding_parameters": tables,
    }
    if isinstance(config, EncoderDecoderConfig):
        facts["encoder"] = _stack(config.encoder)
        facts |= {"cross": config.cross, "tied_embeddings": config.tied_embeddings}
    facts |= {
        "decoder": _stack(decoder.stack),
        "tied_head": decoder.tied_head,
        "logit_softcap": decoder.logit_softcap,
        "num_unused_tokens": _num_unused(found.tokenizer_json),
        "uses": _uses(found),
        "files": {name: file.stat().st_size for name, file in _files(found.path).items()},
        "notes": list(found.notes),
    }
    return facts


def show_generating(found: DecoderCheckpoint | EncoderDecoderCheckpoint, console: Console) -> None:
    """Print what is known of a model that writes text."""
    facts = generating_json(found)
    tables, whole = facts["num_embedding_parameters"], facts["num_parameters"]
    decoder = facts["decoder"]
    rows = {
        "path": facts["path"],
        "kind": f"{facts['kind']} ({facts['architecture']})",
        "fingerprint": facts["fingerprint"],
        "parameters": f"{whole:,}: {tables:,} in token tables, {whole - tables:,} in the rest",
        "encoder": _stack_line(facts["encoder"]) if "encoder" in facts else "",
        "decoder": _stack_line(decoder),
        "attention": {
            "separate": "to the encoder in a sub-layer of its own",
            "merged": "to encoder and decoder at once, with the weights of self-attention",
        }.get(facts.get("cross", ""), ""),
        "tables": _tables_line(facts),
        "logits": f"capped at {facts['logit_softcap']:g}" if facts["logit_softcap"] else "",
        "max length": f"{decoder['max_length']:,} tokens",
        "vocabulary": f"{decoder['vocab_size']:,} tokens, {facts['num_unused_tokens']:,} of them "
        "unused ones",
        "can be used for": "\n".join(facts["uses"]),
        "files": "\n".join(
            f"{name}  {readable_size(count)}" for name, count in facts["files"].items()
        ),
        "notes": "\n".join(facts["notes"]),
    }
    show_rows({name: text for name, text in rows.items() if text}, console)


def _stack(stack: EncoderConfig) -> dict[str, Any]:
    return {
        "num_layers": stack.num_layers,
        "global_layers": list(stack.global_layers),
        "window": stack.window,
        "window_after": 0 if stack.causal else stack.window_after or stack.window,
        "model_dim": stack.model_dim,
        "ffn_dim": stack.ffn_dim,
        "num_heads": stack.num_heads,
        "num_kv_heads": stack.num_kv_heads,
        "head_dim": stack.head_dim,
        "query_key_norm": stack.query_key_norm,
        "attention_softcap": stack.attention_softcap,
        "vocab_size": stack.vocab_size,
        "max_length": stack.max_length,
    }


def _stack_line(stack: Mapping[str, Any]) -> str:
    whole, after = len(stack["global_layers"]), stack["window_after"]
    seen = f"{stack['window']} tokens before" + (f" and {after} after" if after else "")
    return (
        f"{stack['num_layers']} layers ({stack['num_layers'] - whole} local, {seen}; {whole} "
        f"global), {stack['model_dim']} wide, feed-forward {stack['ffn_dim']}, "
        f"{stack['num_heads']} heads of {stack['head_dim']}, {stack['num_kv_heads']} key/value"
    )


def _tables_line(facts: Mapping[str, Any]) -> str:
    if facts.get("tied_embeddings"):
        return "encoder, decoder and head share one"
    head = "the head is tied to the token embedding"
    if not facts["tied_head"]:
        head = "the head has a table of its own"
    return f"encoder and decoder have their own; {head}" if "encoder" in facts else head


def _uses(found: DecoderCheckpoint | EncoderDecoderCheckpoint) -> list[str]:
    """Return the commands and stages that take such a model."""
    if isinstance(found, EncoderDecoderCheckpoint):
        return [
            "culet generate: answers sources",
            "stage pretrain: UL2, which leaves its encoder as an embedding checkpoint",
            "stage seq2seq: inputs and targets",
            "stage trim: a smaller vocabulary",
        ]
    return [
        "culet generate: continues prompts",
        "stage adapt: an encoder-decoder from it, for stage pretrain",
        "stage encoder: an embedding checkpoint from it, the cheap way",
        "stage decoder: further training",
        "stage trim: a smaller vocabulary",
    ]


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {path.name: path}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file for file in files}


def _num_unused(tokenizer_json: str) -> int:
    """Return how many tokens are kept for sentinels and modes of later stages."""
    vocabulary = Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True)
    return sum(bool(_UNUSED.fullmatch(token)) for token in vocabulary)
