"""tokenizer.json and the settings beside it, checked against the rows, the length and the prompts.

What sentence-transformers reads there and culet would not do the same way is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from culet.architecture.encoder_config import EncoderConfig
from culet.checkpoints.folder import SPECIAL_IDS, read_json, required
from culet.errors import CheckpointError
from culet.files.lookalikes import unreadable
from culet.text.tokenizer import without_image_tokens

_SPARE_ROWS = 64  # tables are made larger so that their sizes divide well
_UNLIMITED = 1e9  # tokenizers without a limit state one beyond this
_ROLES = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}


def read_tokenizer(
    path: Path, vocab_size: int, check: Callable[[Tokenizer], object] = id
) -> Path | str:
    """Return a tokenizer.json that fits the embedding: its path, or its content if it was changed.

    Args:
        path: The file.
        vocab_size: Rows of the embedding.
        check: What else is asked of it.

    Raises:
        CheckpointError: If it is missing, damaged, of another family, or its ids and the rows
            differ in number.
    """
    try:
        content = required(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(unreadable(path, "a readable tokenizer", error)) from error
    fitting = fitting_tokenizer(content, vocab_size, path, check)
    return path if fitting is content else fitting


def fitting_tokenizer(
    content: str, vocab_size: int, where: Path, check: Callable[[Tokenizer], object] = id
) -> str:
    """Return a tokenizer.json, without the image token where the model has no row for it.

    Args:
        content: The text of a tokenizer.json.
        vocab_size: Rows of the embedding.
        where: Where it comes from, for messages.
        check: As in `read_tokenizer`.

    Raises:
        CheckpointError: If it is damaged, of another family, or its ids and the rows differ in
            number.
    """
    try:
        stored = Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception
        message = unreadable(Path(where), "a readable tokenizer", error)
        raise CheckpointError(message) from error
    tokenizer = without_image_tokens(stored, vocab_size)
    ids = stored.get_vocab(with_added_tokens=True)
    largest = max((ids[token] for token in tokenizer.get_vocab(with_added_tokens=True)), default=0)
    if largest >= vocab_size:
        raise CheckpointError(
            f"{where} has token ids up to {largest}, but the model embeds only {vocab_size}; "
            "tokenizer and weights are not of the same model"
        )
    for token, expected in SPECIAL_IDS.items():
        if (found := tokenizer.token_to_id(token)) != expected:
            raise CheckpointError(
                f"{where} gives {token} the id {found}, expected {expected}; this tokenizer is of "
                "another family, and other tools would put a wrong token around each text"
            )
    spare = vocab_size - len(set(ids.values()))
    if spare > max(_SPARE_ROWS, vocab_size // 10):
        raise CheckpointError(
            f"{where} has {len(set(ids.values()))} token ids and the model {vocab_size} rows for "
            "them; tokenizer and weights are not of the same model"
        )
    check(tokenizer)
    return content if tokenizer is stored else tokenizer.to_str()


def check_prompts_fit(
    tokenizer: Tokenizer, prompts: Iterable[str], max_length: int, *, where: Path
) -> None:
    """Raise CheckpointError if a prompt leaves no room for a text, or texts are cut at the left."""
    if (tokenizer.truncation or {}).get("direction", "right").lower() != "right":
        raise CheckpointError(_cut_left(where, "truncation.direction"))
    for prompt in sorted(set(prompts), key=len):
        length = len(tokenizer.encode(prompt, add_special_tokens=False).ids) + 2
        if length >= max_length:
            raise CheckpointError(
                f"{where}: with its beginning and its end the prompt {prompt!r:.80} is {length} "
                f"tokens long and the model reads {max_length}, so that all texts would get the "
                "same vector; correct the length or the prompt"
            )


def with_stated_length(encoder: EncoderConfig, root: Path) -> EncoderConfig:
    """Return the encoder with the length at which sentence-transformers cuts a text.

    That is max_seq_length of the Transformer module; where it is not stated, the smaller one of
    model_max_length of the tokenizer and max_position_embeddings.

    Raises:
        CheckpointError: If the module or the tokenizer changes texts in another way, or the
            length is none.
    """
    where = root / "sentence_bert_config.json"
    module = read_json(where, {})
    if module.get("do_lower_case"):
        raise CheckpointError(
            f"{where}: do_lower_case is set, which this family was not trained with; set it to "
            "false, or put a Lowercase normalizer into tokenizer.json"
        )
    settings = _tokenizer_settings(root)
    stated = _length(module, "max_seq_length", where)
    limit = _length(settings, "model_max_length", root / "tokenizer_config.json")
    if stated is not None and stated > encoder.max_length:
        raise CheckpointError(
            f"{where}: max_seq_length is {stated} and the model was made for "
            f"max_position_embeddings = {encoder.max_length}; state at most that"
        )
    length = stated or min(limit or encoder.max_length, encoder.max_length)
    if length < 3:
        raise CheckpointError(
            f"{root}: texts would be cut to {length} tokens, of which a beginning and an end are "
            "two; state a larger max_seq_length in sentence_bert_config.json"
        )
    return replace(encoder, max_length=length)


def _length(raw: Mapping[str, Any], key: str, where: Path) -> int | None:
    """Return a number of tokens, or None where none or no limit is stated."""
    value = raw.get(key)
    if value is None or (type(value) in (int, float) and value >= _UNLIMITED):
        return None
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{where}: {key} must be a whole number above 0, got {value!r}")
    return value


def _tokenizer_settings(root: Path) -> Mapping[str, Any]:
    """Return what tokenizer_config.json and special_tokens_map.json state, checked."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        settings = read_json(root / name, {})
        for role, token in _ROLES.items():
            stated = settings.get(role)
            content = stated.get("content") if isinstance(stated, dict) else stated
            if content not in (None, token):
                raise CheckpointError(
                    f"{root / name}: {role} must be {token!r}, got {content!r}; this tokenizer is "
                    "of another family or its tokens are swapped"
                )
        found |= settings
    if found.get("truncation_side", "right") != "right":
        raise CheckpointError(_cut_left(root / "tokenizer_config.json", "truncation_side"))
    return found


def _cut_left(where: Path, key: str) -> str:
    return (
        f"{where}: {key} must be 'right'; cut at its start, a text loses its prompt, and other "
        "tools would give it another vector than culet"
    )
