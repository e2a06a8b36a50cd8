"""The small parts: linear map, RMSNorm, rotary embedding, gated feed-forward.

Precision is explicit and there is no autocast: weights may be float32 masters while the
activations are bfloat16, so every linear map casts its weight to the dtype of its input, and
norms compute in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class Linear(nn.Module):
    """x Wᵀ without bias, in the dtype of x."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim))

    def forward(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        """Return the mapped states."""
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """x / rms(x) · (1 + weight), computed in float32; the weight starts at zero (Gemma 3)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """Return the normed states in the dtype they came in."""
        scale = 1.0 + self.weight.float()
        return F.rms_norm(x.float(), scale.shape, scale, self.eps).to(x.dtype)


class GatedFeedForward(nn.Module):
    """down(gelu_tanh(gate(x)) · up(x)); gate and up are one matrix product."""

    def __init__(self, model_dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.gate_up = Linear(model_dim, 2 * ffn_dim)
        self.down = Linear(ffn_dim, model_dim)

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Return the feed-forward output."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        fed: Tensor = self.down(F.gelu(gate, approximate="tanh") * up)
        return fed


def rotary_table(
    positions: Int[Tensor, " N"],
    head_dim: int,
    base: float,
    dtype: torch.dtype,
    *,
    scaling: float = 1.0,
) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N A"]]:
    """Return cosine and sine of each token's rotation, computed in float32, then cast.

    Pair i turns by position / scaling · base^(-2i / head_dim); both halves of a head carry the same
    angles ("rotate half" layout).
    """
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    frequency = base ** (-exponent / head_dim) / scaling
    angle = positions.float()[:, None] * frequency[None, :]
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(
    x: Float[Tensor, "N H A"], cos: Float[Tensor, "N A"], sin: Float[Tensor, "N A"]
) -> Float[Tensor, "N H A"]:
    """Return x turned by its position: x·cos + rotate_half(x)·sin."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x * cos[:, None, :] + turned * sin[:, None, :]
