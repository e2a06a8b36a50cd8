"""What a dry run says of a recipe of which nothing has run, and where it has its numbers from."""

from __future__ import annotations

import gzip
import json
import types
from collections.abc import Collection, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_doubles import make
from training_doubles import checkpoint, toy_rows, write_lines

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.generating_config import EncoderDecoderConfig
from culet.data.batches.sources import SourceConfig
from culet.errors import RecipeError
from culet.pipeline import read_recipe, run_recipe
from culet.pipeline.forecast import Forecast
from culet.pipeline.plan import fullest
from culet.stages import samples as sampling
from culet.stages import speed, tune_settings
from culet.stages.estimate import Disk, Machine
from culet.stages.samples import Rows, Texts, joined, look_at, texts_of, tokens
from culet.stages.teach import foreign_width
from culet.stages.tune_settings import TuneConfig, pairs_per_step
from culet.terminal.tables import duration, thousands
from culet.train.contrastive_step import LossConfig


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Speeds by fiat, so that nothing is measured; the list says what was asked for."""
    asked: list[str] = []

    def fiat(name: str) -> Any:
        def found(shape: object, *rest: object, **settings: object) -> float | None:
            asked.append(name)
            return None if shape is None else 10.0

        return found

    monkeypatch.setattr(tune_settings, "speed_of_pairs", fiat("pairs"))
    monkeypatch.setattr(speed, "speed_of_language", fiat("language"))
    monkeypatch.setattr(speed, "speed_of_embedding", fiat("embedding"))
    return asked


def forecast(path: Path, *overrides: str, ready: Collection[str] = ()) -> Forecast:
    return Forecast(read_recipe(path, overrides), ready)


def planned(path: Path, *overrides: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return the rows of the table by stage, their cells apart, and the other lines."""
    said: list[str] = []
    run_recipe(path, overrides, dry_run=True, say=said.append)
    number = len(read_recipe(path, overrides).stages)
    at = [said[0].index(word) for word in ("would", "steps", "tokens", "time", "disk")]
    rows = {}
    for line in said[1 : number + 1]:
        cuts = pairwise([*at, len(line) + 1])
        rows[line.split()[0]] = [line[a:b].strip() for a, b in cuts]
    return rows, said[number + 1 :]


def test_every_stage_that_computes_has_tokens_before_anything_has_run(
    tmp_path: Path, quick: list[str]
) -> None:
    path = make(tmp_path)
    path.write_text(path.read_text().replace('teacher = "decoder"', ""))
    rows, rest = planned(path, "pretrain.steps=3")
    assert {row[0] for row in rows.values()} == {"runs"}
    timed = [name for name, row in rows.items() if row[3] != "?"]
    assert timed == [
        "decoder",
        "pretrain",
        "prefinetune",
        "mine",
        "search_mixture",
        "finetune-a",
        "finetune-b",
    ]
    assert rows["decoder"][2:4] == ["128", "13 s"]  # 2 steps of 4 windows of 16, 10 a second
    assert rows["pretrain"][1:4] == ["3", "192", "19 s"]
    assert rows["search_mixture"][1] == "3"  # the given mixture, a random one, one that is proposed
    assert rows["prepare"][1:4] == rows["merge"][1:4] == ["-", "-", "?"]
    assert not [name for name, row in rows.items() if row[4] in ("?", "0 B")]
    assert rest[-1].startswith("in all: about ")
    assert ", without adapt, prepare, merge; disk " in rest[-1]
    assert [line for line in rest if line.startswith("time of")] == [
        f"time of {name}: measured for a moment" for name in sorted(timed)
    ]
    assert not (tmp_path / "run").exists()


def test_a_dry_run_and_the_status_are_said_as_json_too(tmp_path: Path, quick: list[str]) -> None:
    recipe, said = make(tmp_path), []
    assert run_recipe(recipe, dry_run=True, as_json=True, say=said.append) == 0
    table, _ = planned(recipe)
    found = json.loads("\n".join(said))
    assert [stage["stage"] for stage in found["stages"]] == list(read_recipe(recipe).stages)
    assert all(stage["state"] == "new" and stage["runs"] for stage in found["stages"])
    for stage in found["stages"]:
        steps = table[stage["stage"]][1]
        assert thousands(stage["steps"]) == steps or stage["steps"] is None
    said.clear()
    assert run_recipe(recipe, status=True, as_json=True, say=said.append) == 0
    found = json.loads("\n".join(said))
    assert {stage["state"] for stage in found["stages"]} == {"new"}
    assert {stage["step"] for stage in found["stages"]} == {None}


def test_what_stages_have_yet_to_make_is_looked_at_where_it_comes_from(tmp_path: Path) -> None:
    path = make(tmp_path)
    stages = read_recipe(path).stages
    known = forecast(path)
    raw = known.rows([tmp_path / "pairs.jsonl"])
    prepared = known.rows([stages["prepare"].output()])
    mined = known.rows([stages["mine"].output() / "toys"])
    assert raw is not None
    assert prepared is not None
    assert mined is not None
    assert prepared == raw == known.rows([stages["prepare"].output() / "toys"])
    assert raw.count == mined.count == 36
    assert {len(t.negatives) for t in mined.parts[0].sample} == {stages["mine"].config.rules.number}
    assert mined.parts[0].sample[0].own == raw.parts[0].sample[0].own
    assert mined.bytes > 1.5 * raw.bytes
    assert known.rows([stages["prepare"].output() / "other"]) is None
    assert known.rows([stages["mine"].folder / "report.json"]) is None
    not_there = forecast(path, ready={"prepare"}).rows([stages["prepare"].output()])
    assert not_there is None
    (stages["prepare"].output() / "toys").mkdir(parents=True)
    write_lines(stages["prepare"].output() / "toys/00000.jsonl", toy_rows(5))
    lies = forecast(path, ready={"prepare"}).rows([stages["mine"].output()])
    assert lies is not None
    assert lies.count == 5


def test_where_no_text_can_be_looked_at_the_bounds_of_a_batch_are_said(
    tmp_path: Path, quick: list[str]
) -> None:
    path = make(tmp_path)
    text = path.read_text().replace("[prepare]", GENERATE.format(folder=tmp_path))
    path.write_text(text.replace('path = "{folder}/pairs.jsonl"', ""))
    rows, rest = planned(path, 'prepare.sources.0.path="@generate"')
    most = 2 * 8 * 2 * 64  # steps, pairs, texts of a pair, tokens of a text
    assert rows["prefinetune"][2:4] == ["up to 2.0 k", f"up to {duration(most / 10)}"]
    assert rows["mine"][2:4] == ["?", "?"]
    assert (
        "tokens of prefinetune, search_mixture, finetune-a, finetune-b: an upper bound" in rest[-2]
    )
    assert {name for name, row in rows.items() if row[4] == "?"} == {"generate", "prepare", "mine"}
    assert rest[-1].endswith(" free, without generate, prepare, mine")


GENERATE = """
[generate]
inputs = ["{folder}/prose.jsonl"]

[generate.endpoint]
url = "http://127.0.0.1:9"
model = "small"

[generate.queries]
per_document = 1

[prepare]
"""


def test_a_time_that_is_not_shown_has_no_basis(tmp_path: Path, quick: list[str]) -> None:
    speed.speed_of_language = lambda *args, **settings: None  # put back by `quick`
    rows, rest = planned(make(tmp_path))
    assert rows["decoder"][3] == rows["pretrain"][3] == "?"
    assert "time of prefinetune: measured for a moment" in rest
    assert not [line for line in rest if "time of decoder" in line or "time of pretrain" in line]
    assert ", without decoder, adapt, pretrain, prepare, merge; disk" in rest[-1]


def test_a_teacher_that_is_not_known_takes_nobody_knows_how_long(
    tmp_path: Path, quick: list[str]
) -> None:
    path = make(tmp_path)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/config.json").write_text('{"hidden_size": 24}')
    teach = '\n[teach]\nteacher = "{0}"\n[[teach.sources]]\npath = "@prepare"\n'
    path.write_text(path.read_text() + teach.format(tmp_path / "teacher"))
    rows, _ = planned(path)
    assert rows["teach"][1] == "-"
    known = forecast(path).rows([tmp_path / "pairs.jsonl"])
    assert known is not None
    number = known.total(lambda texts: sum(map(tokens, texts.sides)))
    assert rows["teach"][2] == thousands(number, about=True)
    assert rows["teach"][3] == "?"
    assert rows["teach"][4] != "?"  # its width is in its config
    checkpoint(tmp_path / "known")
    rows, _ = planned(path, f'teach.teacher="{tmp_path}/known"')
    assert rows["teach"][3] != "?"


def test_what_is_on_disk_has_the_shape_that_was_foretold(tmp_path: Path) -> None:
    path = make(tmp_path)
    stages = read_recipe(path).stages
    known = forecast(path)
    encoder = known.shape(stages["pretrain"].output("model"))
    pair = known.shape(stages["adapt"].output())
    assert isinstance(encoder, EmbeddingConfig)
    assert isinstance(pair, EncoderDecoderConfig)
    assert (encoder.widths, encoder.encoder.vocab_size) == ((16, 8), 560)
    soup = stages["merge"].output()
    assert known.shape(soup) == known.shape(stages["finetune-b"].output()) == encoder
    assert forecast(path, ready={"finetune-a"}).shape(soup) is None  # it should be there, is not
    checkpoint(stages["finetune-a"].output())
    found = forecast(path, ready={"finetune-a"}).shape(soup)
    assert isinstance(found, EmbeddingConfig)
    assert found.encoder.vocab_size == 272


def test_files_are_looked_at_in_part_and_bad_ones_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"query": f"q{i:05d}", "positive": "p" * 30, "negatives": ["n" * 10]} for i in range(4000)
    ]
    write_lines(tmp_path / "plain.jsonl", rows)
    lines = (tmp_path / "plain.jsonl").read_bytes()
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(lines))
    whole = look_at(tmp_path / "packed.jsonl.gz")
    assert whole is not None
    assert whole.rows == 4000
    assert whole.packed_bytes * 4000 == (tmp_path / "packed.jsonl.gz").stat().st_size
    assert set(whole.sample) == {Texts((6, 30), (10,), 8 + 32 + 12)}
    monkeypatch.setattr(sampling, "_READ_BYTES", len(lines) // 5)
    part = look_at(tmp_path / "plain.jsonl")
    assert part is not None
    assert part.rows == pytest.approx(4000, rel=0.01)
    assert part.row_bytes == len(lines) / 4000
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines)[:100])
    (tmp_path / "odd.jsonl").write_text(
        '[1]\n{"other": 2}\nnonsense\n{"query": 1, "positive": ""}\n'
    )
    for bad in ("cut.jsonl.gz", "odd.jsonl"):
        assert look_at(tmp_path / bad) is None


def test_a_table_is_counted_and_not_read(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"query": ["ab"] * 1000, "positive": ["abc"] * 1000})
    parquet.write_table(table, tmp_path / "rows.parquet")
    part = look_at(tmp_path / "rows.parquet")
    assert part is not None
    assert (part.rows, len(part.sample), part.sample[0].sides) == (1000, 200, (2, 3))


@pytest.mark.parametrize(
    ("row", "sides"),
    [
        ({"query": "a", "positive": "über", "negatives": None}, (1, 5)),
        ({"text": "€"}, (3,)),
        ({"input": "ab", "target": "c", "answers": ["d"]}, (2, 1)),
        ({"s": "a", "r": "bb", "o": "c"}, (1, 2, 1)),
    ],
)
def test_rows_of_every_form_have_sizes(row: dict[str, Any], sides: tuple[int, ...]) -> None:
    found = texts_of(json.dumps(row).encode())
    assert found is not None
    assert (found.sides, found.negatives) == (sides, ())


def rows_at(paths: Iterable[Path]) -> Rows | None:
    parts = [look_at(path) for path in paths]
    return joined(part and Rows((part,)) for part in parts)


def test_a_step_of_pairs_has_the_tokens_of_its_mixture(tmp_path: Path) -> None:
    short = [{"query": "q" * 40, "positive": "p" * 40}] * 10
    long = [{"query": "q" * 40, "positive": "p" * 400, "negatives": ["n" * 40] * 3}] * 30
    write_lines(tmp_path / "short.jsonl", short)
    write_lines(tmp_path / "long.jsonl", long)
    assert tokens(40) == 18
    assert tokens(400, 64) == 64

    def per_step(**settings: Any) -> float:
        from culet.files.settings import build

        sources = [
            {"path": str(tmp_path / "short.jsonl"), "weight": 3},
            {"path": str(tmp_path / "long.jsonl"), "weight": 1, "batch_size": 4},
        ]
        table = {"steps": 1, "batch_size": 8, "max_tokens": 64, "sources": sources} | settings
        found, most = pairs_per_step(build(TuneConfig, table, where="x"), rows_at)
        assert not most
        return found

    assert per_step() == (3 * 8 * 36 + 4 * (18 + 64)) / 4
    assert per_step(num_negatives=2) == (3 * 8 * 36 + 4 * (18 + 64 + 2 * 18)) / 4
    by_size = per_step(mixing={"size_exponent": 1.0, "size_cap": 20})
    assert by_size == (30 * 8 * 36 + 20 * 4 * 82) / 50


def test_a_batch_has_no_more_rows_than_its_source(tmp_path: Path) -> None:
    write_lines(tmp_path / "few.jsonl", [{"query": "q" * 40, "positive": "p" * 40}] * 20)
    source = SourceConfig(path=tmp_path / "few.jsonl")
    config = TuneConfig(steps=1, batch_size=128, sources=(source,))
    assert pairs_per_step(config, rows_at) == (20 * 36, False)


def test_a_dry_run_refuses_weights_that_sum_to_nothing(tmp_path: Path) -> None:
    weights = [f"finetune-a.sources.{i}.weight=0.0" for i in (0, 1)]
    with pytest.raises(
        RecipeError, match=r"finetune-a\] a mixture needs sources with weights that"
    ):
        planned(make(tmp_path), *weights)


def test_a_mixture_that_was_found_decides_the_tokens(tmp_path: Path, quick: list[str]) -> None:
    path = make(tmp_path)
    write_lines(tmp_path / "pairs.jsonl", [{"query": "q" * 400, "positive": "p" * 400}] * 30)
    before = planned(path)[0]["finetune-a"][2]
    mixtures = {"sources": ["toys", "other"], "kept": [{"shares": [0.0, 1.0]}] * 2}
    (tmp_path / "run/search_mixture").mkdir(parents=True)
    (tmp_path / "run/search_mixture/mixtures.json").write_text(json.dumps(mixtures))
    after = planned(path)[0]["finetune-a"][2]
    assert before == "2.6 k"  # 2 steps of 8 pairs, 64 tokens a text; half of them with a negative
    assert after == "2.0 k"  # the other half has none


def clocked(monkeypatch: pytest.MonkeyPatch, wall: float, computing: float) -> list[int]:
    """Let a clock go on by so much a token, and return the steps that will be taken."""
    now = types.SimpleNamespace(wall=0.0, computing=0.0)
    clocks = types.SimpleNamespace(
        perf_counter=lambda: now.wall, process_time=lambda: now.computing
    )
    monkeypatch.setattr(speed, "time", clocks)
    taken: list[int] = []

    def step(size: int) -> int:
        first = 10.0 if not taken else 0.0  # what is done once
        taken.append(size)
        now.wall += first + wall * size
        now.computing += first + computing * size
        return size

    steps_to_time.append(step)
    return taken


steps_to_time: list[Any] = []


def test_a_rate_is_that_of_computing_and_not_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = clocked(monkeypatch, wall=1e-3, computing=1e-4)  # others have nine tenths of the CPU
    assert speed.timed(steps_to_time.pop()) == pytest.approx(1e4)
    assert taken == [128, 128, 512, 2048]
    clocked(monkeypatch, wall=1e-4, computing=8e-4)  # eight threads
    assert speed.timed(steps_to_time.pop()) == pytest.approx(1e4)
    taken = clocked(monkeypatch, wall=1e-3, computing=1e-4)
    assert speed.timed(steps_to_time.pop(), on_cpu=False) == pytest.approx(1e3)
    assert taken == [128, 128, 512]  # a larger step would take too long
    taken = clocked(monkeypatch, wall=1.0, computing=1.0)
    assert speed.timed(steps_to_time.pop()) == pytest.approx(1.0)
    assert taken == [128, 128]


def test_a_cpu_is_measured_in_one_thread_and_reckoned_in_those_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def step(*args: Any, **settings: Any) -> float:
        asked.append(torch.get_num_threads())
        return 100.0

    monkeypatch.setattr(speed, "timed", step)
    before = torch.get_num_threads()
    found = [speed.measured(lambda device: len, Machine("cpu", threads)) for threads in (1, 2, 16)]
    assert asked == [1, 1, 1]
    assert found == pytest.approx([100, 186.6, 1212.6], rel=1e-3)
    assert torch.get_num_threads() == before


def test_each_way_of_learning_and_embedding_can_be_measured(tmp_path: Path) -> None:
    path = make(tmp_path)
    text = path.read_text().replace('teacher = "decoder"', "")
    path.write_text(text.replace("[adapt]", ENCODER.format(folder=tmp_path) + "\n[adapt]"))
    stages, known = read_recipe(path).stages, forecast(path)
    for name in ("decoder", "encoder", "pretrain", "prefinetune", "mine"):
        measure = known.of(stages[name]).speed
        assert measure is not None
        assert (measure() or 0) > 0, name
    pair, machine = known.shape(stages["pretrain"].output()), Machine("cpu", 1)
    config = stages["decoder"].config
    assert speed.speed_of_pairs(None, LossConfig(), 32, "float32", machine) is None
    assert speed.speed_of_embedding(pair, 20, None, machine) is None
    still = {"candidates": config.candidates, "still": False}
    assert speed.speed_of_language(None, 16, "float32", machine, **still) is None


ENCODER = """
[encoder]
steps = 2
batch_size = 4
window = 16
[encoder.head]
embedding_dim = 16
widths = [16, 8]
[[encoder.sources]]
path = "{folder}/prose.jsonl"
"""


def test_disk_is_what_lies_there_at_the_fullest_moment() -> None:
    assert fullest([]) == 0
    assert fullest([Disk(10, 1), Disk(5, 5), Disk(7, 2)]) == 13  # 1 + 5 + 7
    assert fullest([Disk(100, 1), Disk(5, 5)]) == 100


def test_stages_that_keep_no_weights_write_by_their_rows(tmp_path: Path) -> None:
    path = make(tmp_path)
    write_lines(tmp_path / "pairs.jsonl", [{"query": "q" * 40, "positive": "é" * 50}] * 1000)
    overrides = ["prepare.near.threshold=0.8", "prepare.compress=false"]

    def disk(name: str, *more: str) -> Disk:
        recipe = read_recipe(path, [*overrides, *more])
        found = Forecast(recipe, ()).of(recipe.stages[name]).disk
        assert found is not None
        return found

    size = (tmp_path / "pairs.jsonl").stat().st_size
    prepared = disk("prepare")
    assert prepared.kept == size
    assert prepared.peak == 1000 * (2 + 16 + 2 * 128) + max(size, 1000 * 12 * 20)
    assert disk("prepare", "prepare.exact=false").peak == prepared.peak - 16_000
    assert disk("prepare", "prepare.compress=true").kept < size / 2
    mined = disk("mine")
    assert mined.kept == size + 1000 * 3 * 100  # three negatives of the length of a positive
    vectors = 2 * 1000 * 2 * 16  # queries and documents, two bytes a number, 16 numbers
    texts = 1000 * (42 + 302)  # as JSON: quotes, and six bytes for an é
    assert mined.peak - mined.kept == pytest.approx(vectors + texts, abs=200_000)
    assert mined.peak - mined.kept > vectors + texts
    wider = disk("mine", "pretrain.head.embedding_dim=32", "pretrain.head.widths=[32]")
    assert wider.peak - mined.peak == 2000 * 2 * 16
    one, two = disk("search_mixture"), disk("search_mixture", "search_mixture.workers=2")
    trial = disk("finetune-a")
    assert two.peak - one.peak == trial.peak
    assert one.kept < 100_000 < trial.peak


def test_stages_with_weights_keep_them_and_their_state(tmp_path: Path) -> None:
    path = make(tmp_path)

    def disk(name: str, *more: str) -> Disk:
        recipe = read_recipe(path, more)
        found = Forecast(recipe, ()).of(recipe.stages[name]).disk
        assert found is not None
        return found

    stages = read_recipe(path).stages
    shape = forecast(path).shape(stages["prefinetune"].output())
    assert shape is not None
    weights = shape.num_parameters()
    assert disk("prefinetune") == Disk(weights * (4 + 24), weights * 4)
    assert disk("prefinetune", "prefinetune.save_dtype=bfloat16").kept == weights * 2
    assert disk("prefinetune", "prefinetune.optim.ema=0.9").peak == weights * (4 + 24 + 8)
    thin = disk("prefinetune", "prefinetune.lora.rank=1")
    assert weights * 4 < thin.peak < weights * 8
    kept = disk("prefinetune", "prefinetune.snapshot_every=1", "prefinetune.snapshots=5").kept
    assert kept == weights * 4 * 3  # two steps, two snapshots, and the checkpoint
    pair = forecast(path).shape(stages["adapt"].output())
    assert pair is not None
    assert disk("pretrain").kept == 4 * (pair.num_parameters() + weights)  # and the encoder alone
    still = disk("pretrain", "pretrain.optim.embed_lr=0.0")
    assert disk("pretrain").peak - still.peak == 24 * 2 * 560 * 16  # both token tables stay
    assert disk("merge", "merge.method=uniform", "merge.dtype=bfloat16").kept == weights * 2


def test_the_width_of_a_foreign_teacher_is_in_its_last_map(tmp_path: Path) -> None:
    assert foreign_width(tmp_path) is None
    (tmp_path / "config.json").write_text('{"hidden_size": 24}')
    assert foreign_width(tmp_path) == 24
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense/config.json").write_text('{"in_features": 24, "out_features": 8}')
    assert foreign_width(tmp_path) == 8
    (tmp_path / "2_Dense/config.json").write_text("[")
    assert foreign_width(tmp_path) == 24


def test_encoders_that_learn_nothing_take_no_tokens(tmp_path: Path, quick: list[str]) -> None:
    path = make(tmp_path)
    text = path.read_text()
    encoder = (
        '[encoder]\nobjective = "none"\n[encoder.head]\nembedding_dim = 16\nwidths = [16, 8]\n'
    )
    path.write_text(text.replace("[adapt]", f"{encoder}\n[adapt]"))
    rows, _ = planned(path)
    assert rows["encoder"][1:4] == ["-", "-", "?"]
    assert quick.count("language") == 2  # of the decoder and of pretrain
