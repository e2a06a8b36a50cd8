"""From a checkpoint that generates to text: prompts in, what the model writes out."""

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

_BATCHES_AT_ONCE = 8  # read ahead, so that texts of like length stand together
_TURN_ENDS = "<end_of_turn>"  # what a model that was taught to converse ends with
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Written:
    """What a model wrote for one prompt.

    Attributes:
        prompt: The prompt, or the source of an encoder-decoder.
        text: What was written, without the prompt.
        tokens: How many tokens it is, the one that ended it not counted.
        log_probability: Sum over its tokens, the one that ended it counted.
        ended: Whether it ended by itself.
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
        device: Where it computes.
        precision: "float32" or "bfloat16".

    Raises:
        InputError: If the precision is another one.
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
        """Yield what the model writes for each prompt, in their order, read as they are needed.

        Args:
            prompts: Texts.
            config: How; `eos` is replaced by what ends a text in this model.
            done: Told after each batch how many prompts it held.

        Raises:
            InputError: If a prompt is too long for the model.
        """
        config = replace(config or GenerationConfig(), eos=self.ends)
        source, first = iter(prompts), 1
        while block := list(islice(source, config.batch_size * _BATCHES_AT_ONCE)):
            encoded = self._texts.encode(block, on_long="error", first=first)
            first += len(block)
            # a decoder goes on from its prompt; a source is a whole text with its end
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
