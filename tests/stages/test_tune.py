"""A contrastive stage from records to checkpoint, on a few dozen toy records in seconds."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_doubles import checkpoint, taught, toy_rows, write_lines

import culet
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.folder import text_tokenizer
from culet.data.batches.sources import Batcher, SourceConfig, read_source
from culet.errors import InputError, Interrupted, RecipeError, TrainingError
from culet.files.settings import build, to_tables
from culet.model.lora import LoraConfig
from culet.model.weights import from_arrays
from culet.stages import tune
from culet.stages.contract import run_stage
from culet.stages.tune_settings import TuneConfig
from culet.text.prompts import Prompts
from culet.train.contrastive_step import LossConfig
from culet.train.log import read_log
from culet.train.optim import OptimConfig


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("start") / "checkpoint")


@pytest.fixture
def source(tmp_path: Path) -> SourceConfig:
    return SourceConfig(path=write_lines(tmp_path / "toys.jsonl", toy_rows(36)))


def stage(*sources: SourceConfig, **changes: Any) -> TuneConfig:
    settings: dict[str, Any] = {
        "steps": 2,
        "batch_size": 12,
        "optim": OptimConfig(lr=1e-2, warmup_steps=2),
        "sources": sources,
        "max_tokens": 80,
    }
    return TuneConfig(**settings | changes)


def go(config: TuneConfig, start: Path, out: Path, **more: Any) -> list[str]:
    """Run a stage and return what it said."""
    said: list[str] = []
    run_stage(tune.STAGE, config, init=start, out=out, name="toy", say=said.append, **more)
    return said


def arrays(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in read_embedding_model(folder).arrays().items()}


def log(out: Path) -> list[dict[str, Any]]:
    return read_log(out / "log.jsonl")


# --- the whole way


def test_the_loss_falls_and_the_checkpoint_finds_what_it_was_trained_to_find(
    start: Path, source: SourceConfig, tmp_path: Path
) -> None:
    rows = toy_rows(36)

    def hits(folder: Path) -> float:
        embedder = culet.load(folder, device="cpu")
        queries = embedder.encode_query([row["query"] for row in rows])
        documents = embedder.encode_document([row["positive"] for row in rows])
        return float((embedder.similarity(queries, documents).argmax(1) == np.arange(36)).mean())

    out = tmp_path / "out"
    config = stage(source, steps=40, optim=OptimConfig(lr=3e-2, warmup_steps=4))
    made = run_stage(tune.STAGE, config, init=start, out=out, name="toy", say=lambda line: None)
    losses = [line["loss"] for line in log(out)]
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])
    assert made == out / "checkpoint"
    done = json.loads((out / "done.json").read_text())
    assert (done["steps"], done["skipped_records"]) == (40, 0)
    assert hits(made) > hits(start) + 0.2


def test_the_checkpoint_keeps_shape_prompts_and_tokenizer_and_carries_its_recipe(
    start: Path, source: SourceConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    go(stage(source, dropout=0.1), start, out)
    before, after = read_embedding_model(start), read_embedding_model(out / "checkpoint")
    assert after.config == before.config  # no dropout in what is released
    assert after.prompts == before.prompts
    assert after.tokenizer_json == before.tokenizer_json
    recipe = (out / "checkpoint/culet_recipe.toml").read_text()
    assert recipe == (out / "recipe.toml").read_text()


def test_the_recipe_beside_the_weights_is_the_resolved_one(
    start: Path, source: SourceConfig, tmp_path: Path
) -> None:
    import tomllib

    config = stage(source, lora=LoraConfig(rank=2))
    go(config, start, tmp_path / "out")
    tables = tomllib.loads((tmp_path / "out/recipe.toml").read_text())
    assert build(TuneConfig, tables["toy"], where="toy") == config
    assert tables["toy"]["loss"]["temperature"] == 0.05  # also what the recipe left out


def test_weights_can_be_saved_in_bfloat16(
    start: Path, source: SourceConfig, tmp_path: Path
) -> None:
    go(stage(source), start, tmp_path / "exact")
    go(stage(source, save_dtype="bfloat16"), start, tmp_path / "rounded")
    exact = arrays(tmp_path / "exact/checkpoint")
    for name, value in arrays(tmp_path / "rounded/checkpoint").items():
        rounded = torch.from_numpy(exact[name].copy()).bfloat16().float().numpy()
        assert np.array_equal(value, rounded), name


def test_low_rank_training_is_merged_and_moves_linear_maps_only(
    start: Path, source: SourceConfig, tmp_path: Path
) -> None:
    go(stage(source, lora=LoraConfig(rank=2)), start, tmp_path / "out")
    before, after = arrays(start), arrays(tmp_path / "out/checkpoint")
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {name for name in before if before[name].ndim == 2 and name != "embed"}
    for name in moved:
        assert np.linalg.matrix_rank(after[name] - before[name], tol=1e-5) <= 2, name


def test_the_average_is_what_is_saved(start: Path, source: SourceConfig, tmp_path: Path) -> None:
    optim = OptimConfig(lr=1e-2, warmup_steps=0, decay="constant")
    go(stage(source, steps=1, optim=optim), start, tmp_path / "plain")
    go(stage(source, steps=1, optim=replace(optim, ema=0.75)), start, tmp_path / "average")
    first, last = arrays(start), arrays(tmp_path / "plain/checkpoint")
    for name, value in arrays(tmp_path / "average/checkpoint").items():
        assert np.allclose(value, 0.75 * first[name] + 0.25 * last[name], atol=1e-6), name


def test_a_matryoshka_stage_leaves_the_widths_it_trained(
    start: Path, source: SourceConfig, tmp_path: Path
) -> None:
    go(stage(source, loss=LossConfig(widths=(4, 16))), start, tmp_path / "out")
    assert culet.load(tmp_path / "out/checkpoint", device="cpu").widths == (16, 4)


@pytest.mark.parametrize("widths", [(8,), (16, 8, 8), (32, 16), (16, 0)])
def test_widths_that_cannot_be_released_are_refused_before_the_first_step(
    widths: tuple[int, ...], start: Path, source: SourceConfig, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="widths must name the full width 16 and smaller ones"):
        go(stage(source, loss=LossConfig(widths=widths)), start, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- sources


def test_every_batch_is_from_one_source_with_its_own_settings(start: Path, tmp_path: Path) -> None:
    first = SourceConfig(
        path=write_lines(tmp_path / "a.jsonl", toy_rows(30)), name="animals", batch_size=5
    )
    second = SourceConfig(
        path=write_lines(tmp_path / "b.jsonl", toy_rows(12, negatives=1)),
        task="similarity",
        weight=2.0,
        num_negatives=1,
    )
    seen: list[tuple[str, int, int, str]] = []
    step = tune.contrastive_step

    def spy(model: Any, batch: Any, *args: Any, **settings: Any) -> dict[str, float]:
        seen.append(
            (
                batch.source,
                len(batch.query),
                batch.negative.shape[1],
                batch.origin[0].rpartition(":")[0],
            )
        )
        return step(model, batch, *args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "contrastive_step", spy)
        go(stage(first, second, steps=12), start, tmp_path / "out")
    assert set(seen) == {("animals", 5, 0, str(first.path)), ("b.jsonl", 12, 1, str(second.path))}
    assert [line["source"] for line in log(tmp_path / "out")] == [row[0] for row in seen]


def test_batches_share_the_fields_they_are_asked_to_share(start: Path, tmp_path: Path) -> None:
    langs = ["de"] * 8 + ["en"] * 12 + ["is", "mt", "cy"]
    rows = [row | {"lang": lang} for row, lang in zip(toy_rows(len(langs)), langs, strict=True)]
    config = SourceConfig(path=write_lines(tmp_path / "a.jsonl", rows), batch_by=("lang",))
    sources = [read_source(config, Prompts.default(), skip_bad=False)]
    batcher = Batcher(
        sources,
        batch_size=4,
        num_negatives=0,
        tokenizer=text_tokenizer(read_embedding_model(start).tokenizer_json),
        prompts=Prompts.default(),
        steps=200,
        seed=0,
    )
    lines = [[int(o.rpartition(":")[2]) - 1 for o in batcher(s).origin] for s in range(200)]
    groups = [{langs[line] for line in batch} for batch in lines]
    assert all(g in ({"de"}, {"en"}, {"is", "mt", "cy"}) for g in groups)
    assert {line for batch in lines for line in batch} == set(range(len(langs)))
    assert sum("en" in g for g in groups) > sum("de" in g for g in groups)  # 12 records against 8


def test_a_record_without_the_field_that_batches_share_is_bad(start: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [toy_rows(1)[0] | {"lang": "de"}, *toy_rows(3)])
    config = SourceConfig(path=path, batch_by=("lang",))
    with pytest.raises(
        InputError, match=r"a\.jsonl:2: expected a text that is not blank under 'lang'"
    ):
        read_source(config, Prompts.default(), skip_bad=False)
    assert len(read_source(config, Prompts.default(), skip_bad=True).records) == 1


def test_bad_lines_stop_the_run_in_its_first_second_or_are_counted(
    start: Path, tmp_path: Path
) -> None:
    rows = [
        *toy_rows(14),
        '{"query": "no positive"}',
        {**toy_rows(1)[0], "task": "poetry"},
        {**toy_rows(1)[0], "teacher_query": "key"},
    ]
    path = write_lines(tmp_path / "toys.jsonl", rows)
    with pytest.raises(InputError, match=r"toys\.jsonl:15: expected a text .* under 'positive'"):
        go(stage(SourceConfig(path=path)), start, tmp_path / "out")
    said = go(stage(SourceConfig(path=path), skip_bad_records=True), start, tmp_path / "out")
    assert said[-1].startswith(f"toy: skipped 3 bad records of {path}, the first: {path}:15: expe")
    assert json.loads((tmp_path / "out/done.json").read_text())["skipped_records"] == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task": "poetry"}, "unknown task 'poetry'"),
        ({"teacher_query": [1.0]}, "teacher_query is not read"),
    ],
)
def test_a_record_that_would_fail_at_its_step_fails_at_the_start(
    row: dict[str, Any], message: str, start: Path, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "toys.jsonl", [*toy_rows(30), {**toy_rows(1)[0], **row}])
    with pytest.raises(InputError, match=rf"toys\.jsonl:31: .*{message}"):
        go(stage(SourceConfig(path=path), steps=1), start, tmp_path / "out")
    assert log(tmp_path / "out") == []


def test_a_title_the_checkpoint_has_no_place_for_fails_at_the_start(
    start: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(start, tmp_path / "start")
    settings = json.loads((other / "config_sentence_transformers.json").read_text())
    settings["prompts"] = {"query": "query: ", "document": "passage: "}
    (other / "config_sentence_transformers.json").write_text(json.dumps(settings))
    path = write_lines(tmp_path / "toys.jsonl", [*toy_rows(9), {**toy_rows(1)[0], "title": "T"}])
    with pytest.raises(InputError, match=r"toys\.jsonl:10: .*no place for a title"):
        go(stage(SourceConfig(path=path)), other, tmp_path / "out")


def test_teacher_vectors_are_distilled(start: Path, tmp_path: Path) -> None:
    rows = toy_rows(12)
    folder = taught(tmp_path / "taught", rows, 32)
    source = SourceConfig(path=write_lines(tmp_path / "t.jsonl", rows), teacher=folder)
    config = stage(
        source, steps=25, loss=LossConfig(distill=5.0), optim=OptimConfig(lr=3e-2, warmup_steps=2)
    )
    go(config, start, tmp_path / "out")
    distances = [line["distill"] for line in log(tmp_path / "out")]
    assert distances[-1] < 0.8 * distances[0]
    other = replace(source, teacher=taught(tmp_path / "other taught", rows[1:], 4))
    with pytest.raises(InputError, match=r"t\.jsonl:1: .*other taught has no vector for"):
        go(replace(config, sources=(other,)), start, tmp_path / "other")
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"teacher\.json does not exist; expected a folder that"):
        go(config, start, tmp_path / "other")


def test_a_folder_of_files_is_one_source_whatever_else_lies_in_it(
    start: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "toys"
    folder.mkdir()
    write_lines(folder / "a.jsonl", toy_rows(12))
    write_lines(folder / "b.jsonl", toy_rows(12))
    (folder / "notes").mkdir()
    config = stage(SourceConfig(path=folder))
    go(config, start, tmp_path / "out")
    (folder / "README.md").write_text("this is no data")
    assert go(config, start, tmp_path / "out") == ["toy: finished before, nothing to do"]
    write_lines(folder / "c.jsonl", toy_rows(1))
    assert "data have changed" in go(config, start, tmp_path / "out")[0]


def test_cut_texts_are_counted_over_all_the_parts_of_a_run(
    start: Path, source: SourceConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    config = stage(source, steps=6, max_tokens=30)  # every prompt alone is longer than that
    whole = go(config, start, tmp_path / "whole")
    assert whole[-1] == "toy: 144 texts were cut at 30 tokens"  # 6 steps of 12 pairs of 2 texts
    step = tune.contrastive_step

    def interrupted(*args: Any, **settings: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return step(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(tune, "contrastive_step", interrupted)
        with pytest.raises(Interrupted):
            go(config, start, tmp_path / "parts")
    assert go(config, start, tmp_path / "parts")[-1] == whole[-1]
    done = json.loads((tmp_path / "parts/done.json").read_text())
    assert done["texts_cut"] == 144
    assert done["last"]["step"] == 6


# --- stopping


def test_weights_that_are_not_finite_stop_the_run_and_name_the_batch(
    start: Path, source: SourceConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(*args: Any, **settings: Any) -> Any:
        model = from_arrays(*args, **settings)
        with torch.no_grad():
            model.down.weight[0, 0] = torch.nan
        return model

    monkeypatch.setattr(tune, "from_arrays", spoiled)
    with pytest.raises(
        TrainingError,
        match=r"stopped at step 1: the loss is not finite: .*source 'toys\.jsonl', 12 records "
        rf"beginning with {source.path}:\d+, .*Lower the learning rate or look at these records",
    ):
        go(stage(source), start, tmp_path / "out")
    assert not (tmp_path / "out/checkpoint").exists()
    assert log(tmp_path / "out") == []


def test_a_huge_learning_rate_stops_the_run_too(
    start: Path, source: SourceConfig, tmp_path: Path
) -> None:
    optim = OptimConfig(lr=1e30, warmup_steps=0, decay="constant")
    with pytest.raises(TrainingError, match=r"stopped at step \d: the (loss|gradient)"):
        go(stage(source, steps=9, optim=optim), start, tmp_path / "out")
    assert not (tmp_path / "out/done.json").exists()


# --- settings


def test_a_stage_from_a_checkpoint_without_prompts_uses_none(
    start: Path, source: SourceConfig, tmp_path: Path
) -> None:
    other = shutil.copytree(start, tmp_path / "start")
    settings = json.loads((other / "config_sentence_transformers.json").read_text())
    (other / "config_sentence_transformers.json").write_text(json.dumps(settings | {"prompts": {}}))
    go(stage(source), other, tmp_path / "bare")
    go(stage(source), start, tmp_path / "prompted")
    bare, prompted = log(tmp_path / "bare")[0], log(tmp_path / "prompted")[0]
    prompts = Prompts.default()
    extra = len(prompts.query()) + len(prompts.document())
    assert prompted["tokens"] - bare["tokens"] == 12 * extra  # a token a byte


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps and save_every must be at least 1"),
        ({"batch_size": 1}, "batch_size 2"),
        ({"save_every": 0}, "save_every"),
        ({"max_tokens": 2}, "max_tokens 3"),
        ({"num_negatives": -1}, "num_negatives must not be negative, got -1"),
        ({"seed": -1}, r"seed must be from 0 to 2\^63 - 1, got -1"),
        ({"seed": 1 << 63}, "seed must be from 0 to"),
        (
            {"sources": (SourceConfig(path=Path("x"), weight=0.0),)},
            r"not negative and sum above 0, got weights \[0.0\]",
        ),
        (
            {"sources": (SourceConfig(path=Path("x"), weight=math.nan),)},
            r"not negative and sum above 0, got weights \[nan\]",
        ),
        ({"sources": ()}, r"at least one source is needed: add a \[\[<stage>.sources\]\] table"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        stage(*changes.pop("sources", (SourceConfig(path=Path("x")),)), **changes)


def test_a_source_of_an_unknown_task_is_refused_with_its_section() -> None:
    table = {"steps": 1, "sources": [{"path": "a"}, {"path": "b", "task": "poetry"}]}
    with pytest.raises(RecipeError, match=r"\[fine.sources\[1\]\] task must be one of search, q"):
        build(TuneConfig, table, where="fine")


def test_every_setting_survives_the_way_to_toml_and_back() -> None:
    config = stage(
        SourceConfig(path=Path("x"), batch_size=3),
        lora=LoraConfig(),
        init=Path("y"),
        loss=LossConfig(directions=("qd", "dd")),
    )
    assert build(TuneConfig, to_tables(config), where="toy") == config


# --- a teacher of another width, snapshots, lineage


def test_a_learnt_projection_is_trained_and_left_behind(
    start: Path, source: SourceConfig, tmp_path: Path
) -> None:
    rows = toy_rows(12)
    path = write_lines(tmp_path / "taught.jsonl", rows)
    learned = LossConfig(distill_projection="learned", distill=5.0)
    with_teacher = SourceConfig(path=path, teacher=taught(tmp_path / "taught", rows, 20))
    config = stage(with_teacher, loss=learned, steps=8)
    go(config, start, tmp_path / "out")
    assert log(tmp_path / "out")[-1]["distill"] < log(tmp_path / "out")[0]["distill"]
    assert set(arrays(tmp_path / "out" / "checkpoint")) == set(arrays(start))
    with pytest.raises(RecipeError, match="needs sources with a `teacher`, all of one width"):
        go(stage(source, loss=learned), start, tmp_path / "no")


def test_the_last_snapshots_are_kept_and_can_be_averaged(
    start: Path, source: SourceConfig, tmp_path: Path
) -> None:
    from culet.checkpoints.lineage import lineage
    from culet.stages import merge

    config = stage(source, steps=5, snapshot_every=1, snapshots=3)
    go(config, start, tmp_path / "out")
    folders = sorted((tmp_path / "out" / "snapshots").iterdir())
    assert [folder.name for folder in folders] == [f"step-{n:09d}" for n in (3, 4, 5)]
    last, checkpoint = arrays(folders[-1]), arrays(tmp_path / "out" / "checkpoint")
    assert all(np.array_equal(last[name], checkpoint[name]) for name in checkpoint)
    plain = stage(source, steps=5)
    go(plain, start, tmp_path / "plain")  # keeping snapshots leaves no trace in the run
    assert all(
        np.array_equal(checkpoint[name], array)
        for name, array in arrays(tmp_path / "plain" / "checkpoint").items()
    )
    soup = run_stage(
        merge.STAGE,
        merge.MergeConfig(last=2),
        models=[tmp_path / "out" / "checkpoint"],
        out=tmp_path / "soup",
        say=lambda line: None,
        name="merge",
    )
    mean = (arrays(folders[1])["up"] + last["up"]) / 2
    assert np.allclose(arrays(soup)["up"], mean, atol=1e-7)
    origin = read_embedding_model(start).fingerprint
    for folder in (*folders, tmp_path / "out" / "checkpoint", soup):
        chain = lineage(read_embedding_model(folder))
        assert chain is not None
        assert chain[0] == origin


def test_a_kill_between_the_state_and_the_snapshot_of_a_step_loses_no_snapshot(
    start: Path, source: SourceConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stage(source, steps=6, save_every=2, snapshot_every=2, snapshots=3)
    go(config, start, tmp_path / "whole")

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    write = tune._snapshot
    with monkeypatch.context() as patch:
        patch.setattr(tune, "_snapshot", lambda *all: (killed if all[1] == 4 else write)(*all))
        with pytest.raises(KeyboardInterrupt):
            go(config, start, tmp_path / "out")
    go(config, start, tmp_path / "out")
    for step in (2, 4, 6):
        name = f"snapshots/step-{step:09d}"
        found, expected = arrays(tmp_path / "out" / name), arrays(tmp_path / "whole" / name)
        assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_snapshots_do_not_go_with_low_rank_additions(source: SourceConfig) -> None:
    with pytest.raises(RecipeError, match="neither goes with lora"):
        stage(source, snapshot_every=2, lora=LoraConfig(rank=2))
