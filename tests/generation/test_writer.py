"""`culet generate`: the checkpoint at a path writes, and the command line shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

from culet.architecture.embedding_config import tiny
from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
from culet.checkpoints.recognize import read_generating
from culet.checkpoints.write import write_checkpoint
from culet.cli import main as cli
from culet.errors import InputError
from culet.generation.decode import GenerationConfig
from culet.generation.writer import Writer
from culet.text.tokenizer_training import byte_tokenizer

PROMPTS = ["abc", "a longer prompt", "x"]


def weights(config: DecoderConfig | EncoderDecoderConfig) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {
        name: (generator.standard_normal(shape) * 0.3).astype(np.float32)
        for name, shape in config.weight_shapes().items()
    }


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "decoder"
    config = DecoderConfig(replace(tiny().encoder, causal=True, max_length=64))
    write_checkpoint(folder, config, weights(config), tokenizer_json=byte_tokenizer().to_str())
    return folder


@pytest.fixture(scope="module")
def encoder_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "both"
    encoder = tiny().encoder
    config = EncoderDecoderConfig(
        encoder,
        DecoderConfig(replace(encoder, causal=True)),
        cross="merged",
        tied_embeddings=True,
    )
    write_checkpoint(folder, config, weights(config), tokenizer_json=byte_tokenizer().to_str())
    return folder


def test_a_decoder_writes_what_transformers_writes(decoder: Path) -> None:
    theirs = transformers.Gemma3ForCausalLM.from_pretrained(decoder).eval()
    written = list(Writer(read_generating(decoder)).write(PROMPTS, GenerationConfig(6)))
    for prompt, one in zip(PROMPTS, written, strict=True):
        ids = [2, *byte_tokenizer().encode(prompt, add_special_tokens=False).ids]
        found = theirs.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)
        expected = byte_tokenizer().decode(found[0, len(ids) :].tolist())
        assert (one.prompt, one.text) == (prompt, expected)


def test_an_encoder_decoder_reads_its_source_to_the_end_token(encoder_decoder: Path) -> None:
    theirs = transformers.T5Gemma2ForConditionalGeneration.from_pretrained(encoder_decoder).eval()
    (one,) = Writer(read_generating(encoder_decoder)).write(["abc"], GenerationConfig(8))
    ids = [2, *byte_tokenizer().encode("abc", add_special_tokens=False).ids, 1]
    found = theirs.generate(
        torch.tensor([ids]), max_new_tokens=8, do_sample=False, decoder_start_token_id=2
    )
    assert one.text == byte_tokenizer().decode(found[0, 1:].tolist())


def test_texts_come_in_their_order_however_they_are_batched(decoder: Path) -> None:
    writer = Writer(read_generating(decoder))
    prompts = [letter * (1 + 3 * i % 7) for i, letter in enumerate("abcdefghi")]
    single = [next(iter(writer.write([p], GenerationConfig(3)))).text for p in prompts]
    done: list[int] = []
    config = GenerationConfig(3, batch_size=1)  # blocks of eight prompts
    batched = [one.text for one in writer.write(iter(prompts), config, done=done.append)]
    assert batched == single
    assert sum(done) == len(prompts)


def test_a_turn_that_ends_ends_the_text(tmp_path: Path, decoder: Path) -> None:
    assert Writer(read_generating(decoder)).ends == (1,)
    content = json.loads((decoder / "tokenizer.json").read_text())
    for table in (content["added_tokens"], []):
        for token in table:
            if token["content"] == "<unused0>":
                token["content"] = "<end_of_turn>"
    vocab = content["model"]["vocab"]
    vocab["<end_of_turn>"] = vocab.pop("<unused0>")
    Tokenizer.from_str(json.dumps(content))
    checkpoint = replace(read_generating(decoder), tokenizer=json.dumps(content))
    assert Writer(checkpoint).ends == (1, 5)


def test_what_cannot_be_written_is_refused(decoder: Path) -> None:
    with pytest.raises(InputError, match="precision must be one of float32, bfloat16, got 'int8'"):
        Writer(read_generating(decoder), precision="int8")
    writer = Writer(read_generating(decoder))
    with pytest.raises(InputError, match="text 2 has 102 tokens and the model reads 64"):
        list(writer.write(["short", "x" * 100]))


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["culet", "generate", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        shown = capsys.readouterr()
        return int(exit_.value.code or 0), shown.out, shown.err

    return call


def test_prompts_are_answered_on_stdout(run: Run, decoder: Path) -> None:
    options = ("--max-new-tokens", 5, "--beams", 2, "-p", "abc", "-p", "x", "-q", "--json")
    code, out, err = run(decoder, *options)
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    config = GenerationConfig(5, beams=2)
    expected = list(Writer(read_generating(decoder)).write(["abc", "x"], config))
    assert [row["text"] for row in rows] == [one.text for one in expected]
    assert set(rows[0]) == {"prompt", "text", "tokens", "log_probability", "ended"}
    code, out, _ = run(decoder, *options[:-1])
    assert out.rstrip("\n").startswith(expected[0].text.rstrip("\n"))


def test_a_file_of_prompts_becomes_a_file_of_texts(run: Run, decoder: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(json.dumps({"q": prompt}) for prompt in PROMPTS))
    code, shown, _ = run(decoder, "-i", source, "--field", "q", "-o", out, "--max-new-tokens", 4)
    assert (code, shown) == (0, "")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == PROMPTS
    assert all(row["tokens"] <= 4 for row in rows)


def test_wrong_arguments_are_named(run: Run, decoder: Path, tmp_path: Path) -> None:
    both = ("--prompt", "a", "--input", "b.txt")
    for arguments, message in (
        ((decoder,), "give texts as --prompt TEXT, or a file"),
        ((decoder, *both), "give texts as --prompt TEXT, or a file"),
        ((decoder, "-p", "a", "-o", "b.txt"), "--out must name a .jsonl file, got b.txt"),
        ((decoder, "-p", "a", "--beams", 0), "beams and batch_size must be at least 1"),
        ((tmp_path / "none", "-p", "a"), "does not exist; expected a folder or a GGUF file"),
        ((decoder, "-p", "a", "--max-new-tokens", 99), "lower max_new_tokens"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert message in err


def test_without_torch_it_says_what_to_install(decoder: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['culet', 'generate', "
        f"{str(decoder)!r}, '-p', 'a']; from culet.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'culet[torch]'" in done.stderr
