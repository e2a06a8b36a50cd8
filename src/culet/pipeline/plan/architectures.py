"""The architecture of a model that a stage reads or leaves, also before there is one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from culet.errors import CuletError
from culet.pipeline.stage import Output, Stage

if TYPE_CHECKING:
    from culet.architecture.embedding_config import EmbeddingConfig
    from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig

    Shape = EmbeddingConfig | DecoderConfig | EncoderDecoderConfig


class Shapes:
    """Says what shape models have.

    Args:
        stages: The stages of the recipe.
        ready: Names of those whose output is taken as it lies.
    """

    def __init__(self, stages: Mapping[str, Stage], ready: Collection[str]) -> None:
        self._stages = stages
        self._ready = ready
        self._read: dict[Path, Shape | None] = {}

    def of(self, stage: Stage, output: Output) -> Shape | None:
        """Return the shape of an output of a stage; None if nobody can say before it runs.

        That of a trimmed model is the one before: nobody knows how many tokens will stay.
        """
        if stage.name in self._ready:
            return self._on_disk(stage.output(output))
        try:
            return self._to_come(stage, output)
        except CuletError:
            return None  # the stage will say what does not fit

    def at(self, path: Path | tuple[Path, ...] | None) -> Shape | None:
        """Return the shape of the model that lies, or will lie, at a path; of several the first."""
        if isinstance(path, tuple):
            path = path[0]
        if path is None:
            return None
        for stage in self._stages.values():
            for output in stage.gives:
                if path == stage.output(output):
                    return self.of(stage, output)
        return self._on_disk(path)

    def _to_come(self, stage: Stage, output: Output) -> Shape | None:
        from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
        from culet.model.adapt import adapted_config
        from culet.model.heads import embedding_config

        kind, config = stage.kind.name, stage.config
        if kind == "start":
            from culet.stages.start import model_config

            return model_config(config.shape, vocab_size=config.vocab_size)
        if kind == "decoder" and stage.inputs.get("init") is None:
            from culet.stages.decoder import decoder_config

            return decoder_config(config.shape, config.vocab_size)
        if kind == "adapt":
            decoder, encoder = self.at(stage.inputs["decoder"]), self.at(stage.inputs["encoder"])
            if not isinstance(decoder, DecoderConfig):
                return None
            return adapted_config(
                decoder,
                encoder if isinstance(encoder, DecoderConfig) else None,
                cross=config.cross,
                tied_embeddings=config.tied_embeddings,
                encoder_window=config.encoder_window,
            )
        before = self.at(stage.inputs.get("init", stage.inputs.get("models")))
        if kind == "encoder" and isinstance(before, DecoderConfig):
            adapted = adapted_config(before, encoder_window=config.encoder_window)
            return embedding_config(adapted.encoder, config.head)
        if kind == "pretrain" and output == "model":
            if not isinstance(before, EncoderDecoderConfig):
                return None
            return embedding_config(before.encoder, config.head)
        return before

    def _on_disk(self, path: Path) -> Shape | None:
        if path not in self._read:
            self._read[path] = read_shape(path)
        return self._read[path]


def read_shape(path: Path) -> Shape | None:
    """Return the shape of a model on disk; None if it cannot be read."""
    from culet.checkpoints.embedding import read_checkpoint
    from culet.checkpoints.gemma import read_generating

    try:
        if (path / "modules.json").exists():
            return read_checkpoint(path).config
        return read_generating(path).config
    except (CuletError, OSError):
        return None  # the stage will say what is wrong
