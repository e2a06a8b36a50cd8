"""Tokens per second of a UL2 step, against transformers' T5Gemma with the same weights and batch.

A T5Gemma stack (by default 4 layers of its size S: width 512, 8 heads of 64, soft caps) with a
vocabulary of 16,384 learns from windows that T5Gemma 2's five denoisers corrupt, 1:1:1:1:4. culet
packs them; transformers gets them padded to the longest with an attention mask, as its users would
do, and eager attention, the only one that it lets a CPU use with soft caps. Loss and gradients of
the token table must agree before anything is timed. A token is one of source or target; padding
does not count. Processor time is reported beside the clock, for machines with other work.

    python benchmarks/seq2seq_step.py [--threads 1] [--repeats 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import machine
import numpy as np
import torch
import transformers

from culet.architecture.generating_config import EncoderDecoderConfig, t5gemma
from culet.data.batches.denoise import Markers, denoise, t5gemma2
from culet.losses.tokens import IGNORED, token_loss
from culet.model.batch import Seq2SeqBatch, pack_pairs
from culet.model.encoder_decoder import EncoderDecoder

EOS = 1
Pairs = tuple[list[np.ndarray], list[np.ndarray]]
Step = Callable[[], tuple[float, torch.Tensor]]


def config_of(layers: int, vocab: int) -> EncoderDecoderConfig:
    """Return the shape of T5Gemma S with other layers and words."""
    small = t5gemma(layers, 512, 1024, 8)
    encoder = replace(small.encoder, vocab_size=vocab)
    stack = replace(small.decoder.stack, vocab_size=vocab)
    return replace(small, encoder=encoder, decoder=replace(small.decoder, stack=stack))


def windows(count: int, *, longest: int, mixed: bool, vocab: int, seed: int) -> list[np.ndarray]:
    """Return windows of random words: all as long, or of a log-normal's lengths up to that."""
    rng = np.random.default_rng(seed)
    lengths = np.full(count, longest)
    if mixed:
        lengths = np.clip(np.exp(rng.normal(np.log(longest / 3), 0.8, count)), 16, longest)
    return [rng.integers(300, vocab, int(length)) for length in lengths]


def pairs_of(texts: Sequence[np.ndarray], *, seed: int) -> Pairs:
    """Return what the encoder reads and the decoder writes of each window."""
    rng = np.random.default_rng(seed)
    denoisers = t5gemma2()
    kinds = np.repeat(np.arange(5), [denoiser.weight for denoiser in denoisers])
    markers = Markers(tuple(range(20, 280)), {})
    found = [
        denoise(text, denoisers[kinds[i % len(kinds)]], markers, rng)
        for i, text in enumerate(texts)
    ]
    return [each.source for each in found], [np.append(each.target, EOS) for each in found]


def our_step(model: EncoderDecoder, batch: Seq2SeqBatch) -> Step:
    """Return forward and backward of culet: the loss, and the gradient of the source's table."""

    def step() -> tuple[float, torch.Tensor]:
        model.zero_grad()
        hidden = model(batch)
        decoder = model.decoder
        loss = token_loss(hidden, decoder.stack.embed, batch.labels, softcap=decoder.head.softcap)
        loss.total.backward()
        assert model.encoder.embed.grad is not None
        return float(loss.total.detach()), model.encoder.embed.grad

    return step


def peer_of(config: EncoderDecoderConfig, model: EncoderDecoder) -> Any:
    """Return transformers' T5Gemma with the weights of our model."""
    stack = config.encoder
    sizes = {
        "vocab_size": stack.vocab_size,
        "hidden_size": stack.model_dim,
        "intermediate_size": stack.ffn_dim,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": stack.num_heads,
        "num_key_value_heads": stack.num_kv_heads,
        "head_dim": stack.head_dim,
        "query_pre_attn_scalar": stack.head_dim,
        "sliding_window": stack.window + 1,
    }
    side = transformers.T5GemmaModuleConfig(**sizes)
    both = transformers.T5GemmaConfig(encoder=side, decoder=side, vocab_size=stack.vocab_size)
    peer = transformers.T5GemmaForConditionalGeneration._from_config(
        both, attn_implementation="eager"
    )
    pairs = [(peer.model.encoder, model.encoder), (peer.model.decoder, model.decoder.stack)]
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.embed_tokens.weight.copy_(ours.embed)
            theirs.norm.weight.copy_(ours.norm.weight)
            for layer, block in zip(theirs.layers, ours.blocks, strict=True):
                _copy_layer(layer, block)
    peer.tie_weights()
    return peer.train()


def _copy_layer(layer: Any, block: Any) -> None:
    attention = layer.self_attn
    _copy([attention.q_proj, attention.k_proj, attention.v_proj], block.attention.qkv)
    _copy([attention.o_proj], block.attention.out)
    _copy([layer.mlp.gate_proj, layer.mlp.up_proj], block.ffn.gate_up)
    _copy([layer.mlp.down_proj], block.ffn.down)
    _copy([layer.pre_self_attn_layernorm], block.attention_norm)
    _copy([layer.post_self_attn_layernorm], block.attention_post_norm)
    _copy([layer.pre_feedforward_layernorm], block.ffn_norm)
    _copy([layer.post_feedforward_layernorm], block.ffn_post_norm)
    if hasattr(layer, "cross_attn"):
        cross = layer.cross_attn
        _copy([cross.q_proj], block.cross.query)
        _copy([cross.k_proj, cross.v_proj], block.cross.key_value)
        _copy([cross.o_proj], block.cross.out)
        _copy([layer.pre_cross_attn_layernorm], block.cross_norm)
        _copy([layer.post_cross_attn_layernorm], block.cross_post_norm)


def _copy(theirs: Sequence[Any], ours: Any) -> None:
    parts = ours.weight.chunk(len(theirs)) if len(theirs) > 1 else [ours.weight]
    for module, part in zip(theirs, parts, strict=True):
        module.weight.copy_(part)


def peer_step(peer: Any, sources: list[np.ndarray], targets: list[np.ndarray]) -> Step:
    """Return forward and backward of transformers on the padded batch."""
    ids = torch.zeros(len(sources), max(map(len, sources)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    labels = torch.full((len(targets), max(map(len, targets))), IGNORED)
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        ids[row, : len(source)] = torch.from_numpy(source)
        mask[row, : len(source)] = 1
        labels[row, : len(target)] = torch.from_numpy(target)

    def step() -> tuple[float, torch.Tensor]:
        peer.zero_grad()
        loss = peer(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        return float(loss.detach()), peer.model.encoder.embed_tokens.weight.grad

    return step


@torch.no_grad()
def randomize(model: EncoderDecoder, *, seed: int) -> None:
    """Give the model random weights under which losses and gradients are of usual size."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.uniform_(-0.2, 0.2, generator=generator)
        else:
            parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)


def compare(config: EncoderDecoderConfig, pairs: Pairs, *, repeats: int) -> dict[str, Any]:
    """Check that both compute the same thing and time them in turns."""
    model = EncoderDecoder(config).train()
    randomize(model, seed=0)
    peer = peer_of(config, model)
    batch = pack_pairs(*pairs)
    ours, theirs = our_step(model, batch), peer_step(peer, *pairs)
    (loss, gradient), (peer_loss, peer_gradient) = ours(), theirs()
    gap = float((gradient - peer_gradient).norm() / peer_gradient.norm())
    print(f"loss: culet {loss:.6f}, transformers {peer_loss:.6f}; gradient gap {gap:.1e}")
    assert abs(loss - peer_loss) < 1e-4, "the losses differ: the comparison would mean nothing"
    assert gap < 1e-3, "the gradients differ: the comparison would mean nothing"
    taken = machine.interleaved({"culet": ours, "transformers": theirs}, repeats=repeats)
    cpu = {name: seconds.processor for name, seconds in taken.items()}
    rates = {name: batch.num_tokens / seconds.clock for name, seconds in taken.items()}
    sides = [(len(pairs[0]) * max(map(len, side)), sum(map(len, side))) for side in pairs]
    real = sum(tokens for _, tokens in sides) / sum(padded for padded, _ in sides)
    ratio = rates["culet"] / rates["transformers"]
    print(
        f"{batch.num_tokens:,} tokens, {real:.0%} of the padded batch: culet {rates['culet']:,.0f} "
        f"tokens/s, transformers {rates['transformers']:,.0f} tokens/s, {ratio:.2f} times; "
        f"{cpu['transformers'] / cpu['culet']:.2f} times by processor time"
    )
    return {
        "tokens": batch.num_tokens,
        "share_of_padded_batch": real,
        "loss": loss,
        "peer_loss": peer_loss,
        "gradient_gap": gap,
        "tokens_per_second": rates,
        "times_peer": ratio,
        "processor_seconds": cpu,
        "times_peer_by_processor_time": cpu["transformers"] / cpu["culet"],
    }


def main() -> None:
    """Measure and write benchmarks/results/seq2seq_step.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves PyTorch's choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = config_of(arguments.layers, arguments.vocab)
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "layers": arguments.layers}
    for name, mixed in (("equal windows", False), ("mixed windows", True)):
        texts = windows(
            arguments.windows,
            longest=arguments.longest,
            mixed=mixed,
            vocab=arguments.vocab,
            seed=0,
        )
        print(name)
        result[name] = compare(config, pairs_of(texts, seed=1), repeats=arguments.repeats)
    machine.write("seq2seq_step", result)


if __name__ == "__main__":
    main()
