"""AdamW with warm-up and decay, a rate for each part of the model, clipping, and an average."""

from __future__ import annotations

import math
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from culet.errors import InputError, TrainingError
from culet.train.processes import is_sharded, shard_like, unshard


@dataclass(frozen=True)
class OptimConfig:
    """How weights move. None of these values is published for EmbeddingGemma.

    Attributes:
        lr: Peak learning rate of the layers.
        embed_lr: Peak rate of the token embedding; None means `lr`.
        heads_lr: Peak rate of pooling, the two dense maps and the temperature; None means `lr`.
        warmup_steps: Steps of linear warm-up from 0.
        decay: Shape of the decay after warm-up.
        final_ratio: Share of the peak rate that remains at the end.
        weight_decay: On matrices only; never on norms, the token embedding or the temperature.
        betas: AdamW's.
        eps: AdamW's.
        clip_norm: Largest norm of the whole gradient; 0 turns clipping off.
        ema: Decay of the exponential average of the weights that is saved; 0 turns it off.
    """

    lr: float = 1e-3
    embed_lr: float | None = None
    heads_lr: float | None = None
    warmup_steps: int = 100
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    final_ratio: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float = 1.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr > 0 or not 0 <= self.ema < 1 or not 0 <= self.final_ratio <= 1:
            raise InputError(
                "lr must be positive, ema in [0, 1) and final_ratio in [0, 1]; got "
                f"{self.lr}, {self.ema}, {self.final_ratio}"
            )
        for name in ("embed_lr", "heads_lr", "warmup_steps", "weight_decay", "clip_norm"):
            if not (getattr(self, name) or 0) >= 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.eps < math.inf or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(
                "eps must be finite and not negative, and betas in [0, 1); got "
                f"{self.eps} and {list(self.betas)}"
            )


def _total_norm(parts: list[list[nn.Parameter]]) -> Tensor:
    """Return the norm of all gradients as one vector."""
    norms = []
    for part in parts:
        gradients = [p.grad for p in part if p.grad is not None]
        norms.append(unshard(torch.nn.utils.get_total_norm(gradients)))
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()


def _clip(part: list[nn.Parameter], limit: float, norm: Tensor) -> None:
    """Scale gradients down by the factor that brings the whole gradient to the limit."""
    if not is_sharded(part[0]):
        torch.nn.utils.clip_grads_with_norm_(part, limit, norm)
        return
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)  # as torch does
    for p in part:
        if p.grad is not None:
            p.grad.to_local().mul_(scale)  # type: ignore[attr-defined]


def rate(step: int, *, steps: int, config: OptimConfig) -> float:
    """Return the share of the peak learning rate at a step (from 0) of a run."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    left = 1 - done if config.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.final_ratio + (1 - config.final_ratio) * left


class Optimizer:
    """AdamW over the trainable parameters of some modules, one update a call."""

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], config: OptimConfig, *, steps: int
    ) -> None:
        self.config = config
        self.named = {name: p for name, p in named if p.requires_grad}
        self._steps = steps
        self._peaks = []
        groups: dict[tuple[float, float, bool], list[Tensor]] = {}
        for name, parameter in self.named.items():
            decay = config.weight_decay if parameter.ndim > 1 and "embed" not in name else 0.0
            group = (self._peak(name), decay, is_sharded(parameter))
            groups.setdefault(group, []).append(parameter)
        for peak, _, _ in groups:
            self._peaks.append(peak)
        self.adam = torch.optim.AdamW(
            [{"params": p, "weight_decay": decay} for (_, decay, _), p in groups.items()],
            betas=config.betas,
            eps=config.eps,
            fused=True,
        )
        self.average = (
            {name: p.detach().clone() for name, p in self.named.items()} if config.ema else {}
        )

    def update(self, step: int) -> dict[str, float]:
        """Clip, move the weights, clear the gradients; return the gradient norm and the rate.

        Raises:
            TrainingError: If the gradient is not finite; nothing has moved then.
        """
        parts = self._parts()
        norm = _total_norm(parts)
        if not torch.isfinite(norm):
            raise TrainingError(f"the gradient norm is {norm.item()}")
        if self.config.clip_norm:
            for part in parts:
                _clip(part, self.config.clip_norm, norm)
        share = rate(step, steps=self._steps, config=self.config)
        for group, peak in zip(self.adam.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self.named[name], 1 - self.config.ema)
        return {"grad_norm": norm.item(), "lr": self.config.lr * share}

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that must survive a restart, by name."""
        saved = {f"weight.{name}": p.detach() for name, p in self.named.items()}
        saved |= {f"average.{name}": average for name, average in self.average.items()}
        for name, parameter in self.named.items():
            for key, value in self.adam.state[parameter].items():
                saved[f"adam.{key}.{name}"] = value
        return saved

    @torch.no_grad()
    def load(self, saved: dict[str, Tensor]) -> None:
        """Load what `tensors` returned.

        Raises:
            TrainingError: If the saved state is of other parameters.
        """
        for name, parameter in self.named.items():
            if f"weight.{name}" not in saved or f"adam.step.{name}" not in saved:
                raise TrainingError(f"the saved state has nothing for parameter {name}")
            shape = parameter.shape
            parameter.copy_(shard_like(saved[f"weight.{name}"].reshape(shape), parameter))
            self.adam.state[parameter] = {
                "step": saved[f"adam.step.{name}"].reshape(()).to(parameter.device, copy=True)
            }
            for key in ("exp_avg", "exp_avg_sq"):
                moment = saved[f"adam.{key}.{name}"].reshape(shape).to(parameter.device, copy=True)
                self.adam.state[parameter][key] = shard_like(moment, parameter)
        for name, average in self.average.items():
            average.copy_(shard_like(saved[f"average.{name}"].reshape(average.shape), average))

    def clear_moments(self, names: Set[str]) -> None:
        """Give parameters the moments that AdamW makes at a first step, so they can be saved."""
        for name in names & self.named.keys():
            parameter = self.named[name]
            self.adam.state[parameter] = {
                "step": torch.tensor(0.0, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def _parts(self) -> list[list[nn.Parameter]]:
        """Return the parameters in one list, or in two if some are split over processes."""
        split = [p for p in self.named.values() if is_sharded(p)]
        plain = [p for p in self.named.values() if not is_sharded(p)]
        return [part for part in (plain, split) if part]

    def _peak(self, name: str) -> float:
        config = self.config
        if name.endswith("embed"):
            return config.lr if config.embed_lr is None else config.embed_lr
        if name.startswith("encoder."):
            return config.lr
        return config.lr if config.heads_lr is None else config.heads_lr
