"""What int8 arithmetic costs in quality, emulated where a CPU has no instructions for it.

Weights in int8 with a scale a row; activations in int8 with a scale for a group of inputs of a
token, as OpenVINO quantises them on the fly; float32 sums. Compared: sizes of the group,
SmoothQuant (arXiv 2211.10438, equation 4), which moves outliers of activations into weights, and
attention with queries, keys and values in int8. Prints mean and least cosine to the float32 model.

    python benchmarks/int8_activations.py [--model FOLDER] [--texts 24]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from runtime import mixed_lengths, real_texts
from torch import Tensor

import culet
from culet.loading import PACKAGED
from culet.model import attention
from culet.model.batch import TokenBatch, pack
from culet.model.embedding_model import EmbeddingModel
from culet.model.layers import Linear
from culet.model.weights import from_arrays

GROUPS = (32, 64, 128, 0)  # 0: one scale for all inputs of a token
ALPHAS = (0.25, 0.5, 0.75)


def quantised(x: Tensor, group: int) -> Tensor:
    """Return values rounded to int8 with a scale for `group` neighbours of the last axis."""
    parts = x.unflatten(-1, (-1, group)) if group and x.shape[-1] % group == 0 else x.unsqueeze(-2)
    scale = parts.abs().amax(dim=-1, keepdim=True) / 127
    scale = torch.where(scale > 0, scale, 1)
    return ((parts / scale).round() * scale).flatten(-2)


def linear_maps(model: EmbeddingModel) -> list[Linear]:
    """Return the maps that the runtime keeps in int8: all but the head's."""
    return [m for m in model.encoder.modules() if isinstance(m, Linear)]


def largest_inputs(model: EmbeddingModel, batch: TokenBatch) -> dict[Linear, Tensor]:
    """Return the largest size of each input of each map over a batch."""
    found: dict[Linear, Tensor] = {}

    def see(module: Any, inputs: tuple[Tensor, ...]) -> None:
        found[module] = inputs[0].abs().amax(dim=0)

    hooks = [m.register_forward_pre_hook(see) for m in linear_maps(model)]
    model(batch)
    for hook in hooks:
        hook.remove()
    return found


def prepare(
    model: EmbeddingModel,
    group: int | None,
    inputs: dict[Linear, Tensor] | None = None,
    alpha: float = 0.0,
) -> None:
    """Let every map compute as in int8; `group` None leaves activations in float32."""
    for module in linear_maps(model):
        weight = module.weight
        smooth = torch.ones(weight.shape[1])
        if inputs is not None:
            of_weight = weight.abs().amax(dim=0).clamp_min(1e-5)
            smooth = inputs[module].clamp_min(1e-5) ** alpha / of_weight ** (1 - alpha)
        rounded = quantised(weight * smooth, 0)

        def forward(x: Tensor, rounded: Tensor = rounded, smooth: Tensor = smooth) -> Tensor:
            x = x / smooth
            return (x if group is None else quantised(x, group)) @ rounded.T

        module.forward = forward  # type: ignore[method-assign]


def attend_in_int8(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return attention whose queries, keys and values went through int8, a scale a head."""

    def attend(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        return plain(*(quantised(x, 0) for x in (query, key, value)), **options)

    return attend


@torch.inference_mode()
def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=PACKAGED)
    parser.add_argument("--texts", type=int, default=24)
    args = parser.parse_args()
    embedder = culet.load(args.model, device="cpu", backend="torch")
    checkpoint = embedder.checkpoint
    texts = real_texts(embedder, mixed_lengths(2 * args.texts))
    ids = embedder.prepare_document(texts, titles=[None] * len(texts)).ids
    batch, calibration = pack(ids[: args.texts]), pack(ids[args.texts :])

    def model() -> EmbeddingModel:
        return from_arrays(checkpoint.config, checkpoint.arrays())

    exact = model()(batch)
    inputs = largest_inputs(first := model(), calibration)
    peaks = [float(inputs[m].max() / inputs[m].median()) for m in linear_maps(first)]
    print(f"{batch.num_tokens} tokens; largest input over the median: {max(peaks):.0f}")

    def say(what: str, quantised_model: EmbeddingModel) -> None:
        cosines = (quantised_model(batch) * exact).sum(dim=1).numpy()
        print(f"{what:44s} mean {np.mean(cosines):.6f}  least {np.min(cosines):.6f}", flush=True)

    prepare(weights_only := model(), None)
    say("int8 weights", weights_only)
    for group in GROUPS:
        prepare(grouped := model(), group)
        say(f"and activations in groups of {group or 'all'}", grouped)
    for group in (64, 0):
        for alpha in ALPHAS:
            smooth = model()
            known = dict(zip(linear_maps(smooth), inputs.values(), strict=True))
            prepare(smooth, group, known, alpha)
            say(f"groups of {group or 'all'}, smoothed {alpha}", smooth)
    prepare(with_attention := model(), 64)
    attention.attend = attend_in_int8(attention.attend)
    say("groups of 64, and int8 attention", with_attention)


if __name__ == "__main__":
    main()
