"""The registry: every kind of stage, one entry each.

A new stage is a module of `culet.stages` and an entry here: its config class, what it reads,
what it gives. Modules are named, not imported.
"""

from __future__ import annotations

from culet.pipeline.stage import Input, Job, Kind

_MODEL = Input("init", ("model",))


def _start(job: Job) -> object:
    stage = job.stage
    return stage.kind.load("run")(stage.config, out=stage.folder, name=stage.name, say=job.say)


def _tune(job: Job) -> object:
    stage, watch, evaluate = job.stage, job.watch, None
    if watch is not None and stage.config.eval_every:

        def evaluate(model: object, step: int) -> None:
            watch(stage, step, model)

    return stage.kind.load("run")(
        stage.config,
        init=stage.inputs["init"],
        out=stage.folder,
        name=stage.name,
        device=job.device,
        say=job.say,
        evaluate=evaluate,
    )


def _tune_kind(name: str) -> Kind:
    return Kind(
        name,
        "culet.stages.tune",
        "TuneConfig",
        gives={"model": "checkpoint"},
        inputs=(_MODEL,),
        run=_tune,
        unimportant=("save_every", "eval_every"),
        records=lambda config: tuple(source.path for source in config.sources),
        everywhere=True,
    )


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "start",
            "culet.stages.start",
            "StartConfig",
            gives={"model": "checkpoint"},
            run=_start,
            records=lambda config: config.corpus,
        ),
        Kind("prepare", "culet.stages.prepare", "PrepareConfig", gives={"data": "data"}),
        _tune_kind("prefinetune"),
        Kind(
            "mine",
            "culet.stages.mine",
            "MineConfig",
            gives={"data": "data"},
            inputs=(_MODEL,),
            records=lambda config: tuple(source.path for source in config.sources),
        ),
        _tune_kind("finetune"),
    )
}
