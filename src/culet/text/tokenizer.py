"""Text → token ids, and an account of every text that did not fit.

What is special here:

- the beginning and end tokens are put on by this file and not by the tokenizer's own
  post-processor, so that cutting a long text can never cut the end token off; the result equals
  what the tokenizers library does with a template and right-hand truncation
- a text is cut only together with a report; nothing is shortened silently
- words such as ``<eos>`` inside a text become the special token, as everywhere in this family
- TOKENIZERS_PARALLELISM is left alone: a batch uses every core unless the user says otherwise
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from culet.errors import CheckpointError, InputError
from culet.files.fields import lone_surrogate

# Gemma 3's tokenizer ends with the place of an image; text-only models have no row for it.
_IMAGE_TOKENS = ("<image_soft_token>",)
_UNUSED = re.compile(r"<unused\d+>", re.ASCII)


@dataclass(frozen=True)
class TokenizedTexts:
    """The token ids of some texts, in their order.

    Attributes:
        ids: One int32 array for each text, beginning and end token included.
        overlong: (position of the text, its whole length in tokens) of each text that was cut.
    """

    ids: list[np.ndarray]
    overlong: tuple[tuple[int, int], ...]


class TextTokenizer:
    """A checkpoint's tokenizer with the context length of its model.

    Args:
        tokenizer: Taken over: its own truncation and padding are switched off.
        max_length: The longest input of the model, special tokens included.
        bos_id: Id of the token that begins each text.
        eos_id: Id of the token that ends each text.

    Raises:
        CheckpointError: An id does not exist, or the tokenizer's own template disagrees.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, *, bos_id: int, eos_id: int) -> None:
        if max_length < 2:
            raise InputError(
                f"max_length must leave room for the beginning and the end token, got {max_length}"
            )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.max_length = max_length
        self.bos_id = bos_id
        self.eos_id = eos_id
        self._tokenizer = tokenizer
        for name, token_id in (("beginning", bos_id), ("end", eos_id)):
            if tokenizer.id_to_token(token_id) is None:
                raise CheckpointError(
                    f"the {name} token has id {token_id}, which the tokenizer does not know; "
                    "tokenizer.json and config.json belong to different models"
                )
        _check_template(tokenizer, bos_id, eos_id)

    @property
    def vocab_size(self) -> int:
        """The number of token ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(
        self,
        texts: Sequence[str],
        *,
        on_long: Literal["truncate", "error"] = "truncate",
        first: int = 0,
        prompt_chars: Sequence[int] | None = None,
    ) -> TokenizedTexts:
        """Return the token ids of each text.

        An empty text is the beginning token and the end token alone.

        Args:
            texts: Texts with their prompts already in front.
            on_long: "truncate" keeps the first tokens and the end token and reports the text in
                `overlong`; "error" raises.
            first: Number of the first text in messages and in `overlong`.
            prompt_chars: How many characters of each text are its prompt, for messages.

        Raises:
            InputError: An item is no string or no valid Unicode, or is too long with "error".
        """
        if on_long not in ("truncate", "error"):
            raise InputError(f"on_long must be 'truncate' or 'error', got {on_long!r}")
        if isinstance(texts, str):
            raise InputError("expected a list of texts, got one string; put it in a list")
        texts = list(texts)
        room = self.max_length - 2
        batch = self._encode_batch(texts, first, prompt_chars or [0] * len(texts))
        ids: list[np.ndarray] = []
        overlong: list[tuple[int, int]] = []
        for index, encoding in enumerate(batch, start=first):
            bare = encoding.ids
            if len(bare) > room:
                overlong.append((index, len(bare) + 2))
                if on_long == "error":
                    raise InputError(
                        f"text {index} has {len(bare) + 2} tokens and the model reads "
                        f"{self.max_length}; shorten or split it, or allow truncation "
                        "(on_long='truncate')"
                    )
                bare = bare[:room]
            ids.append(np.array([self.bos_id, *bare, self.eos_id], dtype=np.int32))
        return TokenizedTexts(ids, tuple(overlong))

    def _encode_batch(self, texts: list[str], first: int, prompt_chars: Sequence[int]) -> list[Any]:
        for index, text in enumerate(texts, start=first):
            # The library would take a tuple as a pair of texts to be joined.
            if not isinstance(text, str):
                raise InputError(
                    f"text {index} must be a string, got {type(text).__name__}: {text!r:.80}"
                )
        try:
            return list(self._tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        except (TypeError, ValueError):
            _check_unicode(texts, first, prompt_chars)
            raise


def _check_unicode(texts: Sequence[str], first: int, prompt_chars: Sequence[int]) -> None:
    """Raise the error that names the first text which no tokenizer can read."""
    for index, (text, chars) in enumerate(zip(texts, prompt_chars, strict=True), start=first):
        place = lone_surrogate(text)
        if place is not None:
            own = place >= chars
            what = f"text {index}" if own else f"the prompt or title of text {index}"
            raise InputError(
                f"{what} is not valid Unicode: a lone surrogate at character "
                f"{place - chars if own else place}; decode the source with the right encoding, or "
                "with errors='replace'"
            )


def _check_template(tokenizer: Tokenizer, bos_id: int, eos_id: int) -> None:
    """Refuse a tokenizer that would surround a text with other tokens than ours."""
    added = tokenizer.encode("", add_special_tokens=True).ids
    if not set(added) <= {bos_id, eos_id} or len(added) > 2:
        raise CheckpointError(
            f"tokenizer.json surrounds a text with the tokens {added}, expected one beginning "
            f"token {bos_id} and one end token {eos_id}; this tokenizer is of another family"
        )


def without_image_tokens(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    """Return a tokenizer that takes the name of an image's place for text if it has no row.

    Args:
        tokenizer: A tokenizer; returned itself where all its ids have rows.
        vocab_size: Rows of the embedding.
    """
    beyond = [name for name in _IMAGE_TOKENS if (tokenizer.token_to_id(name) or 0) >= vocab_size]
    if not beyond:
        return tokenizer
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] not in beyond]
    for name in beyond:
        content["model"]["vocab"].pop(name, None)
    return Tokenizer.from_str(json.dumps(content))


def with_both_ends(tokenizer_json: str) -> str:
    """Return a tokenizer.json that puts <bos> and <eos> around a text, as embedding models do.

    A decoder's puts only <bos> in front. Other tools follow the file, and would embed other tokens
    than `TextTokenizer` does.
    """
    content = json.loads(tokenizer_json)
    present = content.get("post_processor") or {"type": "TemplateProcessing", "single": []}
    if present["type"] != "TemplateProcessing":
        return tokenizer_json
    around = [part["SpecialToken"]["id"] for part in present["single"] if "SpecialToken" in part]
    ids = {token["content"]: token["id"] for token in content["added_tokens"]}
    if around == ["<bos>", "<eos>"] or not {"<bos>", "<eos>"} <= set(ids):
        return tokenizer_json
    bos, eos = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<bos>", "<eos>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B"))
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, first, eos],
        "pair": [bos, first, eos, bos, second, eos],
        "special_tokens": {
            name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("<bos>", "<eos>")
        },
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def unused_ids(tokenizer: Tokenizer | TextTokenizer, count: int) -> list[int]:
    """Return the ids of the first tokens kept for later use: <unused0>, <unused1> and so on.

    Gemma has thousands of them, a tokenizer of one's own what `num_unused` said. They serve as the
    sentinels and modes of denoising. None of them is the same as in another tokenizer: ask that
    of the checkpoint at hand.

    Args:
        tokenizer: A tokenizer.
        count: How many are needed.

    Raises:
        InputError: It does not have so many.
    """
    plain = tokenizer._tokenizer if isinstance(tokenizer, TextTokenizer) else tokenizer
    numbered = sorted(
        (int(token[len("<unused") : -1]), token_id)
        for token, token_id in plain.get_vocab(with_added_tokens=True).items()
        if _UNUSED.fullmatch(token)
    )
    if len(numbered) < count:
        raise InputError(
            f"expected a tokenizer with at least {count} unused tokens (<unused0>, <unused1> …), "
            f"this one has {len(numbered)}; use fewer sentinels and modes, keep more of them when "
            "trimming (keep_unused), or train a tokenizer with more (num_unused)"
        )
    return [token_id for _, token_id in numbered[:count]]
