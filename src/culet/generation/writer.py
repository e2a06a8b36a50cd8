"""Text from a checkpoint: prompts in, what the model writes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from tokenizers import Tokenizer

from culet.architecture.generating_config import DecoderConfig
from culet.checkpoints.checkpoint import GeneratingCheckpoint
from culet.checkpoints.folder import SPECIAL_IDS
from culet.errors import InputError
from culet.generation.decode import GenerationConfig, generate
from culet.model.decoder import Decoder
from culet.model.encoder_decoder import EncoderDecoder
from culet.model.weights import from_arrays
from culet.text.tokenizer import TextTokenizer

_BATCHES_AT_ONCE = 8  # read ahead, so that texts of similar length share a batch
_TURN_ENDS = "<end_of_turn>"  # ends what a model that was trained for dialogue writes
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Written:
    """What a model wrote for one prompt.

    Attributes:
        prompt: The prompt, or the source of an encoder-decoder.
        text: What was written, without the prompt.
        tokens: Its length in tokens, without the one that ended it.
        log_probability: Sum over its tokens and the one that ended it.
        ended: Whether the model ended it, and not the limit on its length.
    """

    prompt: str
    text: str
    tokens: int
    log_probability: float
    ended: bool


class Writer:
    """A model that writes.

    Args:
        checkpoint: A decoder continues its prompts, an encoder-decoder answers them.
        device: Where the model runs.
        precision: "float32" or "bfloat16".

    Raises:
        InputError: If the precision is neither.
    """

    def __init__(
        self,
        checkpoint: GeneratingCheckpoint,
        *,
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        if precision not in _DTYPES:
            raise InputError(f"precision must be one of {', '.join(_DTYPES)}, got {precision!r}")
        self._dtype = _DTYPES[precision]
        self._tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json)
        config, arrays = checkpoint.config, checkpoint.arrays()
        self.model: Decoder | EncoderDecoder = from_arrays(
            config, arrays, dtype=self._dtype, device=device
        )
        stack = config.stack if isinstance(config, DecoderConfig) else config.encoder
        bos, eos = SPECIAL_IDS["<bos>"], SPECIAL_IDS["<eos>"]
        self._texts = TextTokenizer(self._tokenizer, stack.max_length, bos_id=bos, eos_id=eos)
        turn = self._tokenizer.token_to_id(_TURN_ENDS)
        self.ends = (eos,) if turn is None else (eos, turn)

    def write(
        self,
        prompts: Iterable[str],
        config: GenerationConfig | None = None,
        *,
        done: Callable[[int], None] | None = None,
    ) -> Iterator[Written]:
        """Yield what the model writes for each prompt, in order; prompts are read when needed.

        Args:
            prompts: Texts.
            config: Settings; `eos` is replaced by what ends a text of this model.
            done: Called after each batch with its number of prompts.

        Raises:
            InputError: If a prompt is too long for the model.
        """
        config = replace(config or GenerationConfig(), eos=self.ends)
        source, first = iter(prompts), 1
        while block := list(islice(source, config.batch_size * _BATCHES_AT_ONCE)):
            encoded = self._texts.encode(block, on_long="error", first=first)
            first += len(block)
            # a decoder continues its prompt; a source is a whole text with its end
            cut = -1 if isinstance(self.model, Decoder) else None
            ids = [text[:cut].astype(np.int64) for text in encoded.ids]
            found = generate(self.model, ids, config, compute_dtype=self._dtype, done=done)
            for prompt, written in zip(block, found, strict=True):
                yield Written(
                    prompt,
                    self._tokenizer.decode(written.ids.tolist()),
                    len(written.ids),
                    written.log_probability,
                    written.ended,
                )
