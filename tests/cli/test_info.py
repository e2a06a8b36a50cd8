"""`culet info` on decoders and encoder-decoders: folders, GGUF files, and what is neither."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_doubles import write as write_gguf
from language_doubles import decoder_config, pair_config, write_pair
from random_checkpoint import random_arrays, write_random

from culet.architecture.embedding_config import EmbeddingConfig, tiny
from culet.checkpoints.recognize import read_any
from culet.checkpoints.write import write_checkpoint
from culet.cli import main as cli
from culet.cli.description import facts_of
from culet.terminal.tables import size
from culet.text.tokenizer_training import byte_tokenizer

Shown = Callable[[Path], str]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shown:
    """Run `culet info` on a path; return what it prints, its lines joined."""

    def call(path: Path) -> str:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["culet", "info", str(path)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert done.value.code == 0
        return capsys.readouterr().out

    return call


def write_own(folder: Path, **changes: Any) -> Path:
    config = decoder_config(**changes)
    tokenizer = byte_tokenizer().to_str()
    write_checkpoint(folder, config, random_arrays(config), tokenizer_json=tokenizer)
    return folder


def facts(path: Path) -> dict[str, Any]:
    found = read_any(path)
    assert not isinstance(found.config, EmbeddingConfig)
    return json.loads(json.dumps(facts_of(found)))  # type: ignore[no-any-return]


def test_a_decoder_is_told_with_its_tables_apart(shown: Shown, tmp_path: Path) -> None:
    folder, config = write_own(tmp_path / "decoder"), decoder_config()
    stack = config.stack
    tables = stack.vocab_size * stack.model_dim
    whole = sum(array.size for array in random_arrays(config).values())
    text = shown(folder)
    assert "decoder (Gemma3ForCausalLM)" in text
    assert f"{whole:,}: {tables:,} in token tables, {whole - tables:,} in the rest" in text
    assert f"{stack.window} tokens before; " in text
    assert "the head is tied to the token embedding" in text
    assert "culet generate: continues prompts" in text
    assert "stage adapt" in text
    assert "model.safetensors  " in text
    known = facts(folder)
    assert known["decoder"]["global_layers"] == list(stack.global_layers)
    assert (known["kind"], known["num_parameters"]) == ("decoder", whole)


def test_a_head_of_its_own_is_a_table_too(shown: Shown, tmp_path: Path) -> None:
    folder = write_own(tmp_path / "a", tied_head=False, logit_softcap=30.0)
    stack = decoder_config().stack
    assert facts(folder)["num_embedding_parameters"] == 2 * stack.vocab_size * stack.model_dim
    text = shown(folder)
    assert "the head has a table of its own" in text
    assert "capped at 30" in text


@pytest.mark.parametrize(
    ("changes", "tables", "lines"),
    [
        (
            {"cross": "merged", "tied_embeddings": True},
            1,
            ["T5Gemma2ForConditionalGeneration", "share one", "at once, with the weights of self-"],
        ),
        (
            {"cross": "separate"},
            2,
            ["CuletEncoderDecoder", "have their own; the head is tied", "a sub-layer of its own"],
        ),
    ],
)
def test_an_encoder_decoder_is_told_with_both_stacks(
    changes: dict[str, Any], tables: int, lines: list[str], shown: Shown, tmp_path: Path
) -> None:
    folder = write_pair(tmp_path / "pair", **changes)
    encoder = pair_config().encoder
    text = shown(folder)
    assert "encoder-decoder (" in text
    assert all(line in text for line in lines)
    assert f"{encoder.window} tokens before and {encoder.window} after" in text
    assert "stage pretrain: UL2" in text
    known = facts(folder)
    assert known["num_embedding_parameters"] == tables * encoder.vocab_size * encoder.model_dim
    assert known["encoder"]["window_after"] == encoder.window
    assert known["decoder"]["window_after"] == 0


def test_a_gguf_file_is_told(shown: Shown, tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", "Q8_0")
    text = shown(tmp_path / "a.gguf")
    assert "decoder (gemma3)" in text
    assert ", 2 of them unused ones" in text
    assert "tensors are stored as " in text
    assert " Q8_0" in text
    assert f"a.gguf  {size((tmp_path / 'a.gguf').stat().st_size)}" in text


def test_no_torch_is_needed(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "a")
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['culet', 'info', sys.argv[1]]; "
        "from culet.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Gemma3ForCausalLM" in done.stdout


def test_parameters_are_those_of_the_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    arrays = read_any(tmp_path / "a.gguf").arrays()
    count = sum(int(np.prod(array.shape)) for array in arrays.values())
    assert facts(tmp_path / "a.gguf")["num_parameters"] == count


def test_info_tells_what_a_checkpoint_is(run: Run, tmp_path: Path) -> None:
    folder = write_random(tmp_path / "model")
    code, out, err = run("info", folder)
    assert (code, err) == (0, "")
    config = tiny()
    assert f"{config.num_parameters():,}" in out
    assert ", ".join(map(str, config.widths)) in out
    assert "'title: none | text: '  document" in out
    code, out, _ = run("info", "--json", folder)
    facts = json.loads(out)
    assert code == 0
    assert facts["widths"] == list(config.widths)
    assert facts["prompts"]["query"] == "task: search result | query: "
    assert facts["files"]["model.safetensors"] > 1000
    assert len(facts["fingerprint"]) == 16
