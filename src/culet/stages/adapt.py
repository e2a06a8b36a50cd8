"""The stage between a decoder and UL2: one or two decoders become an encoder-decoder.

Nothing is trained here. What is copied, what is new and how that begins is in
`culet.model.adapt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from culet.architecture.generating_config import CrossAttention, DecoderConfig, EncoderDecoderConfig
from culet.checkpoints.checkpoint import DecoderCheckpoint
from culet.checkpoints.gemma import read_decoder
from culet.checkpoints.write import write_checkpoint
from culet.data.batches.shuffle import check_seed
from culet.errors import InputError
from culet.files.tensors import StoredDtype
from culet.model.adapt import (
    CrossNorms,
    EncoderWindow,
    adapt,
    adapted_config,
    is_balanced,
    origins,
)
from culet.stages.contract import Contract, Input, Inputs, Job
from culet.stages.estimate import Context, Estimate, weights_disk
from culet.stages.folder import StageFolder
from culet.stages.provenance import provenance


@dataclass(frozen=True)
class AdaptConfig:
    """An encoder-decoder from decoders.

    Attributes:
        cross: "separate" cross-attention sub-layers (T5Gemma) or "merged" attention (T5Gemma 2).
        tied_embeddings: Encoder, decoder and head share one table; for one source only.
        encoder_window: What the encoder's local layers see; see `culet.model.adapt`.
        cross_norms: How the norms of cross-attention begin; see there.
        seed: Decides the random cross-attention of an unbalanced pair.
        dtype: How weights are stored.
        decoder: What becomes the decoder and, alone, the encoder too: a folder or a GGUF file;
            the decoder of the stage before, if left out.
        encoder: What becomes the encoder, if that is another one.
    """

    cross: CrossAttention = "separate"
    tied_embeddings: bool = False
    encoder_window: EncoderWindow = "half"
    cross_norms: CrossNorms = "quiet"
    seed: int = 0
    dtype: StoredDtype = "float32"
    decoder: Path | None = None
    encoder: Path | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)


def run(
    config: AdaptConfig, folder: StageFolder, job: Job, *, decoder: Path, encoder: Path | None
) -> None:
    """Leave an encoder-decoder checkpoint made of one decoder or two.

    Raises:
        CheckpointError: If a source cannot be read or does not fit.
        InputError: If the two cannot go together.
    """
    name, say = job.name, job.say
    source = read_decoder(decoder)
    other = None if encoder is None else read_decoder(encoder)
    shape = _shape(config, source, other)
    for note in (*source.notes, *(() if other is None else other.notes)):
        say(f"{name}: {note}")
    arrays = adapt(
        shape,
        source.arrays(),
        None if other is None else other.arrays(),
        cross_norms=config.cross_norms,
        seed=config.seed,
    )
    write_checkpoint(
        folder.checkpoint,
        shape,
        arrays,
        tokenizer_json=source.tokenizer_json,
        dtype=config.dtype,
        extra_files=provenance(folder, shape, [decoder, *([encoder] if encoder else [])], ()),
    )
    new = sum(arrays[key].size for key, origin in origins(shape).items() if origin is None)
    balanced = is_balanced(shape)
    folder.finish({"parameters": shape.num_parameters(), "new": new, "balanced": balanced})
    say(
        f"{name}: {'balanced' if balanced else 'unbalanced'}, {shape.num_parameters():,} "
        f"parameters, {new:,} of them new"
    )


def estimate(config: AdaptConfig, context: Context) -> Estimate:
    """Return what the stage would write."""
    decoder, encoder = (context.shape(context.inputs[key]) for key in ("decoder", "encoder"))
    if not isinstance(decoder, DecoderConfig):
        return Estimate()
    shape = adapted_config(
        decoder,
        encoder if isinstance(encoder, DecoderConfig) else None,
        cross=config.cross,
        tied_embeddings=config.tied_embeddings,
        encoder_window=config.encoder_window,
    )
    return Estimate(disk=weights_disk(shape, config.dtype), models={"seq2seq": shape})


def reads(config: AdaptConfig, inputs: Inputs) -> list[str | None]:
    """Return the content of the decoders."""
    paths = inputs["decoder"], inputs["encoder"]
    return [None if path is None else read_decoder(path).fingerprint for path in paths]


def check(config: AdaptConfig, inputs: Inputs) -> None:
    """Refuse decoders that cannot go together."""
    decoder, encoder = inputs["decoder"], inputs["encoder"]
    source = read_decoder(decoder)
    other = None if encoder is None else read_decoder(encoder)
    if other is not None and other.tokenizer_json != source.tokenizer_json:
        raise InputError(
            f"encoder and decoder must share a tokenizer, but tokenizer.json of {encoder} and "
            f"{decoder} differ"
        )
    _shape(config, source, other)


def _shape(
    config: AdaptConfig, source: DecoderCheckpoint, other: DecoderCheckpoint | None
) -> EncoderDecoderConfig:
    return adapted_config(
        source.config,
        None if other is None else other.config,
        cross=config.cross,
        tied_embeddings=config.tied_embeddings,
        encoder_window=config.encoder_window,
    )


STAGE = Contract(
    config=AdaptConfig,
    gives={"seq2seq": "checkpoint"},
    run=run,
    reads=reads,
    estimate=estimate,
    inputs=(Input("decoder", ("decoder",)), Input("encoder", ("decoder",), needed=False)),
    unimportant=("decoder", "encoder"),
    check=check,
)
