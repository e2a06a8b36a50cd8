"""A decoder: the causal stack and the head that turns its states into logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from culet.architecture.generating_config import DecoderConfig
from culet.model.batch import TokenBatch
from culet.model.encoder import Encoder
from culet.model.layers import Linear


class Head(nn.Module):
    """States to logits: cap · tanh(x Wᵀ / cap), where W is a table of its own or the embedding.

    Args:
        config: Says whether the head is tied, and the cap.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.softcap = config.logit_softcap
        stack = config.stack
        self.own = None if config.tied_head else Linear(stack.model_dim, stack.vocab_size)

    def forward(
        self, hidden: Float[Tensor, "*N D"], embed: Float[Tensor, "V D"]
    ) -> Float[Tensor, "*N V"]:
        """Return the logits of states, in their dtype."""
        table = embed if self.own is None else self.own.weight
        logits = F.linear(hidden, table.to(hidden.dtype))
        if self.softcap is None:
            return logits
        return (logits / self.softcap).tanh() * self.softcap


class Decoder(nn.Module):
    """Packed token ids to the states, and on request the logits, of the next tokens.

    Args:
        config: The architecture.
        stack: The layers, where they are not the plain ones.
    """

    def __init__(self, config: DecoderConfig, stack: Encoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.stack = Encoder(config.stack) if stack is None else stack
        self.head = Head(config)

    def forward(
        self, batch: TokenBatch, *, compute_dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "N D"]:
        """Return the last state of every token, in packed order."""
        return self.stack(batch, compute_dtype=compute_dtype).hidden  # type: ignore[no-any-return]

    def logits(self, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Return the logits of the tokens that follow the states.

        With Gemma's vocabulary a thousand of them are a gigabyte: ask for those that are needed.
        """
        logits: Tensor = self.head(hidden, self.stack.embed)
        return logits
