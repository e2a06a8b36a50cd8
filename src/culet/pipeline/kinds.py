"""The registry: every kind of stage, one entry each.

A new stage is a module of `culet.stages` and an entry here: its config class, what it reads,
what it gives. Modules are named, not imported.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from culet.pipeline.stage import Input, Kind, Stage

_MODEL = Input("init", ("model",))
_SEQ2SEQ = Input("init", ("seq2seq",))
_SAVING = ("save_every",)


def _glue(name: str) -> Callable[..., Any]:
    """Return a function of `culet.pipeline.adapters`, which is imported when it is called."""
    return lambda *args: getattr(import_module("culet.pipeline.adapters"), name)(*args)


def _sources(stage: Stage) -> tuple[Path, ...]:
    return tuple(source.path for source in stage.config.sources)


def _tune_kind(name: str) -> Kind:
    return Kind(
        name,
        "culet.stages.tune",
        "TuneConfig",
        gives={"model": "checkpoint"},
        inputs=(_MODEL, Input("mixture", ("mixture",), needed=False)),
        run=_glue("run_tune"),
        check=_glue("check_tune"),
        unimportant=("save_every", "eval_every"),
        records=_sources,
        everywhere=True,
        extra=("culet.pipeline.adapters", "MixtureChoice"),
    )


# In the order of the whole recipe.
_ALL = (
    Kind(
        "start",
        "culet.stages.start",
        "StartConfig",
        gives={"model": "checkpoint"},
        records=lambda stage: stage.config.corpus,
    ),
    Kind(
        "decoder",
        "culet.stages.decoder",
        "DecoderStageConfig",
        gives={"decoder": "checkpoint"},
        inputs=(Input("init", ("decoder",), needed=False),),
        unimportant=_SAVING,
        records=_sources,
        everywhere=True,
    ),
    Kind(
        "trim",
        "culet.stages.trim",
        "TrimConfig",
        gives={},
        inputs=(Input("init", ("model", "decoder", "seq2seq")),),
    ),
    Kind(
        "adapt",
        "culet.stages.adapt",
        "AdaptConfig",
        gives={"seq2seq": "checkpoint"},
        inputs=(Input("decoder", ("decoder",)), Input("encoder", ("decoder",), needed=False)),
    ),
    Kind(
        "encoder",
        "culet.stages.encoder",
        "EncoderStageConfig",
        gives={"model": "checkpoint"},
        inputs=(Input("init", ("decoder",)),),
        unimportant=_SAVING,
        records=_sources,
        everywhere=True,
    ),
    Kind(
        "pretrain",
        "culet.stages.pretrain",
        "PretrainConfig",
        gives={"seq2seq": "checkpoint", "model": "encoder"},
        inputs=(_SEQ2SEQ, Input("teacher", ("decoder",), needed=False)),
        unimportant=_SAVING,
        records=_sources,
        everywhere=True,
    ),
    Kind(
        "seq2seq",
        "culet.stages.seq2seq",
        "Seq2SeqConfig",
        gives={"seq2seq": "checkpoint"},
        inputs=(_SEQ2SEQ,),
        unimportant=_SAVING,
        everywhere=True,
    ),
    Kind(
        "generate",
        "culet.stages.generate",
        "GenerateConfig",
        gives={"data": "data"},
        writes=("cache",),
    ),
    Kind(
        "prepare",
        "culet.stages.prepare",
        "PrepareConfig",
        gives={"data": "data"},
        writes=("grades.cache",),
        hub=lambda stage: (stage.config.consistency and stage.config.consistency.model,),
        packaged=lambda config: bool(config.consistency and config.consistency.model is None),
        embeds=True,
    ),
    _tune_kind("prefinetune"),
    Kind(
        "mine",
        "culet.stages.mine",
        "MineConfig",
        gives={"data": "data"},
        inputs=(_MODEL,),
        records=_sources,
        embeds=True,
    ),
    Kind(
        "teach",
        "culet.stages.teach",
        "TeachConfig",
        gives={"vectors": "vectors"},
        records=_sources,
        embeds=True,
    ),
    Kind(
        "search_mixture",
        "culet.stages.search_mixture",
        "SearchMixtureConfig",
        gives={"mixture": "mixtures.json"},
        inputs=(_MODEL,),
        run=_glue("run_search"),
        extra=("culet.pipeline.adapters", "Search"),
        complete=_glue("complete_search"),
        by_dev=lambda config: True,
        records=lambda stage: tuple(source.path for source in stage.extra.trial.sources),
    ),
    _tune_kind("finetune"),
    Kind(
        "merge",
        "culet.stages.merge",
        "MergeConfig",
        gives={"model": "checkpoint"},
        inputs=(Input("models", ("model",), many=True),),
        run=_glue("run_merge"),
        check=_glue("check_merge"),
        extra=("culet.pipeline.adapters", "Dev"),
        by_dev=lambda config: bool(config.method == "greedy"),
    ),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}
