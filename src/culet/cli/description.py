"""What a checkpoint is: facts for JSON, and two columns for a person at a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.encoder_config import EncoderConfig
from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
from culet.checkpoints.checkpoint import AnyCheckpoint
from culet.checkpoints.sums import SUMS_FILE, check_sums
from culet.terminal.tables import show_rows, size
from culet.text.prompts import Prompts

_TABLES = ("embed", "head")
# The commands and stages that take such a model.
_DECODER_USES = [
    "culet generate: continues prompts",
    "stage adapt: an encoder-decoder from it, for stage pretrain",
    "stage encoder: an embedding checkpoint from it, the cheap way",
    "stage decoder: further training",
    "stage trim: a smaller vocabulary",
]
_ENCODER_DECODER_USES = [
    "culet generate: answers sources",
    "stage pretrain: UL2, which leaves its encoder as an embedding checkpoint",
    "stage seq2seq: inputs and targets",
    "stage trim: a smaller vocabulary",
]
_UNUSED = re.compile(r"<unused\d+>", re.ASCII)


def facts_of(found: AnyCheckpoint) -> dict[str, Any]:
    """Return what is known of a checkpoint, as JSON."""
    config = found.config
    if isinstance(config, EmbeddingConfig):
        return _embedding_facts(found, config)
    return _generating_facts(found, config)


def show_checkpoint(found: AnyCheckpoint, console: Console) -> None:
    """Print what is known of a checkpoint."""
    facts = facts_of(found)
    embeds = isinstance(found.config, EmbeddingConfig)
    rows = _embedding_rows(facts) if embeds else _generating_rows(facts)
    sizes: dict[str, int] = facts["files"]
    show_rows(
        {
            **rows,
            "files": "\n".join(f"{name}  {size(count)}" for name, count in sizes.items()),
            "total": size(sum(sizes.values())),
            "verified": _verified_line(facts["verified_files"]),
            "notes": "\n".join(facts["notes"]),
        },
        console,
    )


def _embedding_facts(found: AnyCheckpoint, config: EmbeddingConfig) -> dict[str, Any]:
    encoder = config.encoder
    return {
        "folder": str(found.path),
        "fingerprint": found.fingerprint,
        "num_parameters": config.num_parameters(),
        "num_embedding_parameters": encoder.vocab_size * encoder.model_dim,
        "stored_as": sorted({str(tensor.dtype) for tensor in found.tensors.values()}),
        **_stack(encoder),
        "pooling": config.pooling,
        "projection_dim": config.projection_dim,
        "embedding_dim": config.embedding_dim,
        "widths": list(config.widths),
        "prompts": dict(found.prompts),
        "files": _file_sizes(found.path),
        "verified_files": check_sums(found.path) if found.path.is_dir() else None,
        "notes": list(found.notes),
    }


def _embedding_rows(facts: Mapping[str, Any]) -> dict[str, str | Text]:
    return {
        "folder": Text(facts["folder"], style="bold cyan"),
        "fingerprint": facts["fingerprint"],
        "parameters": f"{facts['num_parameters']:,} "
        f"({facts['num_embedding_parameters']:,} of them token embeddings), "
        f"stored as {', '.join(facts['stored_as'])}",
        "encoder": _stack_line(facts),
        "head": f"{facts['pooling']} pooling, {facts['model_dim']} → {facts['projection_dim']} → "
        f"{facts['embedding_dim']}",
        "widths": ", ".join(map(str, facts["widths"])),
        "max length": f"{facts['max_length']:,} tokens",
        "vocabulary": f"{facts['vocab_size']:,} tokens",
        "prompts": "\n".join(_prompt_lines(Prompts.from_names(facts["prompts"]))),
    }


def _prompt_lines(prompts: Prompts) -> list[str]:
    """Return each prompt once, with all the names it goes by."""
    if prompts.empty:
        return ["none: texts are embedded as they are"]
    names: dict[str, list[str]] = {}
    for name, prompt in prompts.pairs:
        names.setdefault(prompt, []).append(name)
    return [f"{prompt!r}  {', '.join(known)}" for prompt, known in names.items()]


def _generating_facts(
    found: AnyCheckpoint, config: DecoderConfig | EncoderDecoderConfig
) -> dict[str, Any]:
    paired = isinstance(config, EncoderDecoderConfig)
    decoder = config.decoder if isinstance(config, EncoderDecoderConfig) else config
    numbers = {name: math.prod(shape) for name, shape in config.weight_shapes().items()}
    tables = sum(n for name, n in numbers.items() if name.rpartition(".")[2] in _TABLES)
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
    return facts | {
        "decoder": _stack(decoder.stack),
        "tied_head": decoder.tied_head,
        "logit_softcap": decoder.logit_softcap,
        "num_unused_tokens": _num_unused(found.tokenizer_json),
        "uses": _ENCODER_DECODER_USES if paired else _DECODER_USES,
        "files": _file_sizes(found.path),
        "verified_files": check_sums(found.path) if found.path.is_dir() else None,
        "notes": list(found.notes),
    }


def _generating_rows(facts: Mapping[str, Any]) -> dict[str, str | Text]:
    tables, whole = facts["num_embedding_parameters"], facts["num_parameters"]
    decoder = facts["decoder"]
    return {
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
    }


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


def _verified_line(files: int | None) -> str:
    if files is None:
        return f"nothing: there is no {SUMS_FILE}, which culet writes into its folders"
    return f"{files} files, by their SHA-256"


def _file_sizes(path: Path) -> dict[str, int]:
    """Return the bytes of a file, or of each file of a folder."""
    if path.is_file():
        return {path.name: path.stat().st_size}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file.stat().st_size for file in files}


def _num_unused(tokenizer_json: str) -> int:
    """Return how many tokens are reserved for the sentinels and modes of later stages."""
    vocabulary = Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True)
    return sum(bool(_UNUSED.fullmatch(token)) for token in vocabulary)
