"""Losses in their plainest form, to compare the economical ones with."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from culet.losses.tokens import IGNORED


def token_cross_entropy(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"], *, ignore: int = IGNORED
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over the tokens that count, in float32.

    Args:
        logits: Unnormalised scores.
        targets: Token ids; `ignore` marks tokens that do not count.
        ignore: That mark.
    """
    count = (targets != ignore).sum().clamp(min=1)
    return F.cross_entropy(logits.float(), targets, ignore_index=ignore, reduction="sum") / count
