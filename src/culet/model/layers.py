"""The small parts: linear map, RMSNorm, rotary embedding, gated feed-forward.

Precision is explicit and there is no autocast: weights may be float32 masters while the
activations are bfloat16, so every linear map casts its weight to the dtype of its input, and
norms compute in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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
        """Return the normalised states in the dtype of x."""
        scale = 1.0 + self.weight.float()
        if x.device.type == "cpu" and torch.is_grad_enabled():
            normed: Tensor = _Normed.apply(x.float(), scale, self.eps)  # type: ignore[no-untyped-call]
            return normed.to(x.dtype)
        return F.rms_norm(x.float(), scale.shape, scale, self.eps).to(x.dtype)


class _Normed(torch.autograd.Function):
    """x / rms(x) · scale with its own backward pass, for which PyTorch has no kernel on a CPU.

    Written out because autograd would pass over the states about twice as often, and keep more of
    them; on one core that was a fifth of a training step of a small encoder.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        per_rms = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale, per_rms)
        return (x * per_rms).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # With n = x / rms: dx = (g − n · mean(g · n)) / rms, where g is the gradient times scale.
        x, scale, per_rms = ctx.saved_tensors
        unit = x * per_rms
        by_scale = grads[0] * unit
        grad_scale = by_scale.flatten(0, -2).sum(0)
        shared = by_scale.mul_(scale).mean(-1, keepdim=True)
        grad = (grads[0] * scale).addcmul_(unit, shared, value=-1).mul_(per_rms)
        return grad, grad_scale, None


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

    Pair i rotates by position / scaling · base^(-2i / head_dim); both halves of a head share the
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
    """Return x rotated by its position: x·cos + rotate_half(x)·sin."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x * cos[:, None, :] + turned * sin[:, None, :]
