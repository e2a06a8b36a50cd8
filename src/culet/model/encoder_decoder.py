"""An encoder and a decoder that reads it: T5Gemma (arXiv 2504.06225) and T5Gemma 2 (2512.14856).

Both sides are packed. The encoder's last, normed states are the memory that every layer of the
decoder reads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from culet.architecture.generating_config import EncoderDecoderConfig
from culet.model.attention import Attention
from culet.model.batch import Seq2SeqBatch, TokenBatch
from culet.model.cross_attention import CrossAttention, MergedAttention
from culet.model.decoder import Decoder
from culet.model.encoder import Encoder, Layer
from culet.model.layers import RMSNorm


class CrossBlock(Layer):
    """Self-attention, attention to the encoder, feed-forward: each between two norms."""

    def __init__(self, config: EncoderDecoderConfig, *, layer: int) -> None:
        stack = config.decoder.stack
        super().__init__(stack, Attention(stack, layer=layer))
        self.cross_norm = RMSNorm(stack.model_dim, stack.norm_eps)
        self.cross = CrossAttention(stack, layer=layer, memory_dim=config.encoder.model_dim)
        self.cross_post_norm = RMSNorm(stack.model_dim, stack.norm_eps)

    def forward(
        self,
        x: Float[Tensor, "N D"],
        memory: Float[Tensor, "S E"],
        batch: Seq2SeqBatch,
        cos: Float[Tensor, "N A"],
        sin: Float[Tensor, "N A"],
    ) -> Float[Tensor, "N D"]:
        """Return the states of the targets after this layer."""
        x = self.attend(x, lambda normed: self.attention(normed, batch.target, cos, sin))
        x = self.attend_memory(x, lambda normed: self.cross(normed, memory, batch))
        return self.feed(x)

    def attend_memory(
        self, x: Float[Tensor, "N D"], cross: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "N D"]:
        """Return the states after cross-attention, whichever way it goes about it."""
        attended = self.cross_post_norm(cross(self.cross_norm(x)))
        return x + F.dropout(attended, self.dropout, self.training)


class MergedBlock(Layer):
    """Attention to decoder and encoder at once, feed-forward."""

    attention: MergedAttention

    def __init__(self, config: EncoderDecoderConfig, *, layer: int) -> None:
        stack = config.decoder.stack
        super().__init__(stack, MergedAttention(stack, layer=layer))

    def forward(
        self,
        x: Float[Tensor, "N D"],
        memory: Float[Tensor, "S D"],
        batch: Seq2SeqBatch,
        cos: Float[Tensor, "N A"],
        sin: Float[Tensor, "N A"],
    ) -> Float[Tensor, "N D"]:
        """Return the states of the targets after this layer."""
        return self.feed(
            self.attend(x, lambda normed: self.attention.read(normed, memory, batch, cos, sin))
        )


class EncoderDecoder(nn.Module):
    """Packed sources and targets to the states, and on request the logits, of the next tokens.

    Args:
        config: The architecture.
    """

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        kind = MergedBlock if config.cross == "merged" else CrossBlock
        blocks = Encoder(config.decoder.stack, lambda layer: kind(config, layer=layer))
        self.encoder = Encoder(config.encoder)
        self.decoder = Decoder(config.decoder, blocks)
        self.tie()

    @property
    def layers(self) -> list[nn.Module]:
        """Return the layers of both sides."""
        return [*self.encoder.blocks, *self.decoder.stack.blocks]

    def tie(self) -> None:
        """Let both sides have one table again, if they should; some moves of a module part them."""
        if self.config.tied_embeddings:
            self.decoder.stack.embed = self.encoder.embed

    def forward(
        self, batch: Seq2SeqBatch, *, compute_dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "N D"]:
        """Return the last state of every target token, in packed order.

        `logits` turns them into scores of `batch.labels`.
        """
        return self.decode(self.encode(batch.source, compute_dtype=compute_dtype), batch)

    def encode(
        self, source: TokenBatch, *, compute_dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "S E"]:
        """Return the memory: the encoder's last states of every source token, in packed order."""
        memory: Tensor = self.encoder(source, compute_dtype=compute_dtype).hidden
        return memory

    def decode(self, memory: Float[Tensor, "S E"], batch: Seq2SeqBatch) -> Float[Tensor, "N D"]:
        """Return the last state of every target token, given the memory."""
        stack = self.decoder.stack
        x = stack.embedded(batch.target.ids, memory.dtype)
        rotations = stack.rotations(batch.target.positions, memory.dtype)
        for block, rotation in zip(stack.blocks, rotations, strict=True):
            x = block(x, memory, batch, *rotation)
        return stack.final_norm(x)

    def logits(self, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Return the logits of the tokens that follow the states; see `Decoder.logits`."""
        return self.decoder.logits(hidden)
