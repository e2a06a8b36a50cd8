"""Low-rank adaptation: train two thin matrices beside each frozen linear map, merge at the end.

W' = W + (scale / rank) · B A (arXiv 2106.09685, equation 3), with A random and B zero, so that
training starts from the given model. Gradients and optimiser state exist for A and B only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from culet.errors import InputError
from culet.model.embedding_model import EmbeddingModel
from culet.model.layers import Linear


@dataclass(frozen=True)
class LoraConfig:
    """Rank and scale of the additions.

    Attributes:
        rank: Rows of A and columns of B.
        scale: Factor on B A, divided by the rank.
    """

    rank: int = 16
    scale: float = 32.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.scale <= 0:
            raise InputError(f"lora needs rank >= 1 and scale > 0, got {self.rank}, {self.scale}")


class LoraLinear(nn.Module):
    """A frozen linear map with a trainable low-rank addition."""

    def __init__(self, base: Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        out_dim, in_dim = base.weight.shape
        self.base = base
        self.factor = config.scale / config.rank
        device = base.weight.device
        a = torch.randn(config.rank, in_dim, generator=generator) * in_dim**-0.5
        self.a = nn.Parameter(a.to(device))
        self.b = nn.Parameter(torch.zeros(out_dim, config.rank, device=device))

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for its device and shape."""
        return self.base.weight

    def forward(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        """Return the frozen map plus the addition."""
        thin = F.linear(x, self.a.to(x.dtype))
        out: Tensor = self.base(x) + F.linear(thin, self.b.to(x.dtype)) * self.factor
        return out

    def merged(self) -> Linear:
        """Return one plain linear map that computes the same."""
        with torch.no_grad():
            self.base.weight.add_(self.b @ self.a, alpha=self.factor)
        return self.base


def add_lora(model: EmbeddingModel, config: LoraConfig, *, seed: int) -> None:
    """Freeze the model and put a trainable addition beside every linear map, in place."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear) and not isinstance(parent, LoraLinear):
                setattr(parent, name, LoraLinear(child, config, generator))


def merge_lora(model: EmbeddingModel) -> None:
    """Replace every addition by a plain linear map with the merged weight, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLinear):
                setattr(parent, name, child.merged())
