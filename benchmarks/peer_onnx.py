"""ONNX Runtime on a checkpoint of culet's: the graph written by hand with the operations it fuses.

An exported graph is slower: here queries, keys and values are one product, so are gate and up, a
residual and the norm after it are one operation, and attention and rotation are ONNX's own.
Token vectors, masks and the weights of the mean come from numpy, as in culet's engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import _pybind_state

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.encoder_config import EncoderConfig
from culet.checkpoints.embedding import read_embedding_model

MICROSOFT = "com.microsoft"
BLOCK = 128  # weights that share a scale in MatMulNBits; of 32, 64 and 128 the fastest
HIDDEN = np.float32(-1e9)  # added to a score that must not count


class OnnxRuntime:
    """One session of ONNX Runtime on a CPU.

    Args:
        folder: A checkpoint with mean pooling.
        threads: Threads of the session.
        bits: 32 for float32 weights, 8 for MatMulNBits with int8 activations.
    """

    def __init__(self, folder: Path, *, threads: int, bits: int) -> None:
        checkpoint = read_embedding_model(folder)
        self._config = checkpoint.config.encoder
        weights = checkpoint.arrays()
        self._table = weights["embed"]
        model = Graph(checkpoint.config, weights, bits).model()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the vectors of texts, padded to the longest, float32 [B, E], unit length."""
        lengths = np.array([len(text) for text in texts])
        longest = int(lengths.max())
        inside = np.arange(longest)[None, :] < lengths[:, None]
        dim = self._config.model_dim
        embedded = np.zeros((*inside.shape, dim), dtype=np.float32)
        embedded[inside] = self._table[np.concatenate(texts)] * np.float32(dim**0.5)
        seen = np.where(inside, np.float32(0), HIDDEN)[:, None, None, :]
        place = np.arange(longest)
        far = np.abs(place[:, None] - place[None, :]) > self._config.window
        shape = (len(texts), 1, longest, longest)
        near = np.minimum(seen, np.where(far, HIDDEN, np.float32(0))[None, None])
        inputs = {
            "embedded": embedded,
            "positions": np.broadcast_to(place, inside.shape).astype(np.int64),
            "global_mask": np.broadcast_to(seen, shape),
            "local_mask": np.broadcast_to(near, shape),
            "pool": (inside / lengths[:, None]).astype(np.float32)[:, None, :],
        }
        vectors: np.ndarray = self._session.run(None, inputs)[0]
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


class Graph:
    """The encoder as an ONNX graph, operation by operation.

    Args:
        config: The architecture.
        weights: Its weights under culet's names.
        bits: Of the linear maps' weights, 32 or 8.
    """

    def __init__(
        self, config: EmbeddingConfig, weights: Mapping[str, np.ndarray], bits: int
    ) -> None:
        self._config, self._weights, self._bits = config, weights, bits
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def model(self) -> Any:
        """Return the whole model as a protobuf."""
        encoder = self._config.encoder
        for over_all in (True, False):
            cos, sin = _rotary(encoder, over_all=over_all)
            self._constant(f"cos.{over_all}", cos)
            self._constant(f"sin.{over_all}", sin)
        x = "embedded"
        norms = [f"blocks.{i}.attention_norm" for i in range(encoder.num_layers)] + ["norm"]
        inside = self._norm(x, norms[0])
        for layer in range(encoder.num_layers):
            name = f"blocks.{layer}"
            out = self._attention(inside, name, encoder, over_all=encoder.is_global(layer))
            out = self._norm(out, f"{name}.attention_post_norm")
            inside, x = self._add_norm(x, out, f"{name}.ffn_norm")
            out = self._feed_forward(inside, f"{name}.ffn")
            out = self._norm(out, f"{name}.ffn_post_norm")
            inside, x = self._add_norm(x, out, norms[layer + 1])
        pooled = self._node("MatMul", ["pool", inside])
        pooled = self._node("Squeeze", [pooled, self._constant("one", np.array([1]))])
        self._bits = 32  # in 8 bits the head alone costs 0.004 of cosine, and saves no time
        self._linear(self._linear(pooled, "up"), "down", out="embedding")
        return self._packed(encoder.model_dim)

    def _packed(self, dim: int) -> Any:
        float_type = TensorProto.FLOAT
        inputs = [
            helper.make_tensor_value_info("embedded", float_type, ["B", "L", dim]),
            helper.make_tensor_value_info("positions", TensorProto.INT64, ["B", "L"]),
            helper.make_tensor_value_info("global_mask", float_type, ["B", 1, "L", "L"]),
            helper.make_tensor_value_info("local_mask", float_type, ["B", 1, "L", "L"]),
            helper.make_tensor_value_info("pool", float_type, ["B", 1, "L"]),
        ]
        outputs = [helper.make_tensor_value_info("embedding", float_type, ["B", None])]
        graph = helper.make_graph(self._nodes, "culet", inputs, outputs, self._constants)
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _attention(self, x: str, name: str, config: EncoderConfig, *, over_all: bool) -> str:
        heads, groups, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        parts = [f"{name}.attention.{part}" for part in ("query", "key", "value")]
        sizes = np.array([heads, groups, groups]) * head_dim
        split = [f"{part}.out" for part in parts]
        joined = self._linear(x, *parts)
        self._node("Split", [joined, self._constant("qkv", sizes)], outs=split, axis=-1)
        turned = []
        for part, count in (("query", heads), ("key", groups)):
            source = split[0] if part == "query" else split[1]
            shape = self._constant(f"heads.{count}", np.array([0, 0, count, head_dim]))
            flat = self._constant(f"flat.{count}", np.array([0, 0, count * head_dim]))
            normed = self._norm(
                self._node("Reshape", [source, shape]), f"{name}.attention.{part}_norm"
            )
            turned.append(
                self._node(
                    "RotaryEmbedding",
                    [
                        self._node("Reshape", [normed, flat]),
                        f"cos.{over_all}",
                        f"sin.{over_all}",
                        "positions",
                    ],
                    num_heads=count,
                )
            )
        mask = "global_mask" if over_all else "local_mask"
        out = self._node(
            "Attention",
            [*turned, split[2], mask],
            q_num_heads=heads,
            kv_num_heads=groups,
            scale=config.scale,
        )
        return self._linear(out, f"{name}.attention.out")

    def _feed_forward(self, x: str, name: str) -> str:
        split = [f"{name}.gate.out", f"{name}.up.out"]
        joined = self._linear(x, f"{name}.gate", f"{name}.up")
        self._node("Split", [joined], outs=split, axis=-1, num_outputs=2)
        gate = self._node("Gelu", [split[0]], approximate="tanh")
        return self._linear(self._node("Mul", [gate, split[1]]), f"{name}.down")

    def _linear(self, x: str, *names: str, out: str | None = None) -> str:
        weight = np.concatenate([self._weights[name] for name in names])  # [outer, inner]
        if self._bits == 32:
            held = self._constant(names[0], np.ascontiguousarray(weight.T))
            return self._node("MatMul", [x, held], outs=[out] if out else None)
        codes, scales = quantized(weight)
        return self._node(
            "MatMulNBits",
            [
                x,
                self._constant(names[0], codes),
                self._constant(f"{names[0]}.scale", scales),
            ],
            outs=[out] if out else None,
            domain=MICROSOFT,
            K=weight.shape[1],
            N=weight.shape[0],
            bits=8,
            block_size=BLOCK,
            accuracy_level=4,  # activations in int8: the fastest
        )

    def _norm(self, x: str, name: str) -> str:
        eps = self._config.encoder.norm_eps
        weight = self._constant(name, self._weights[name] + np.float32(1))
        return self._node("RMSNormalization", [x, weight], axis=-1, epsilon=eps)

    def _add_norm(self, x: str, more: str, name: str) -> tuple[str, str]:
        """Return norm(x + more) and x + more."""
        outs = [f"{name}.normed", "", "", f"{name}.sum"]
        weight = self._constant(name, self._weights[name] + np.float32(1))
        self._node(
            "SkipSimplifiedLayerNormalization",
            [x, more, weight],
            outs=outs,
            domain=MICROSOFT,
            epsilon=self._config.encoder.norm_eps,
        )
        return outs[0], outs[3]

    def _node(
        self, kind: str, inputs: list[str], *, outs: list[str] | None = None, **attributes: Any
    ) -> str:
        outs = outs or [f"{kind}.{len(self._nodes)}"]
        self._nodes.append(helper.make_node(kind, inputs, outs, **attributes))
        return outs[0]

    def _constant(self, name: str, value: np.ndarray) -> str:
        if all(held.name != name for held in self._constants):
            self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def quantized(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ONNX Runtime's own 8-bit codes [N, blocks, BLOCK] and scales [N · blocks]."""
    outer, inner = weight.shape
    blocks = -(-inner // BLOCK)
    codes = np.zeros((outer, blocks, BLOCK), dtype=np.uint8)
    scales = np.zeros(outer * blocks, dtype=np.float32)
    points = np.zeros(outer * blocks, dtype=np.uint8)
    source = np.ascontiguousarray(weight.T, dtype=np.float32)
    _pybind_state.quantize_matmul_8bits(codes, source, scales, points, BLOCK, outer, inner, True)
    return codes, scales


def _rotary(config: EncoderConfig, *, over_all: bool) -> tuple[np.ndarray, np.ndarray]:
    base = config.global_rope_base if over_all else config.local_rope_base
    frequency = base ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    angle = np.arange(config.max_length)[:, None] * frequency[None, :]
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
