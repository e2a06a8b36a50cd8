"""An encoder run layer by layer through one compiled layer, for the least memory.

The weights are inputs, views of a mapped file of codes that are decoded inside the graph, so
nothing of them is copied, packed or kept: EmbeddingGemma in int4 needs the pages of one layer
and that layer decoded. The price is that every layer is decoded for every rectangle: texts of mixed
length take half as long again as in float32, a single short query three times as long (LOG.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as op

from culet.architecture.embedding_config import EmbeddingConfig
from culet.runtime.openvino.attention import View, blockwise
from culet.runtime.openvino.graph import block, embedding_of, rotary, view_inputs
from culet.runtime.openvino.weights import CodedWeights, release


class Layerwise:
    """A model compiled as one layer, or one for each number of heads, and a head.

    Args:
        config: The architecture.
        arrays: Weights, see `culet.runtime.openvino.quantized`; kept and read at every batch.
        compiler: Compiles a graph.
    """

    def __init__(
        self, config: EmbeddingConfig, arrays: Mapping[str, np.ndarray], compiler: Any
    ) -> None:
        encoder = config.encoder
        self._is_global = [encoder.is_global(i) for i in range(encoder.num_layers)]
        self._tables = {kind: rotary(encoder, is_global=kind) for kind in (True, False)}
        self._head = compiler(_head_graph(config, arrays)).create_infer_request()
        templates: dict[tuple[int, int], tuple[int, Any, _InputWeights]] = {}
        self._layers: list[Any] = []
        self._arrays: list[dict[str, np.ndarray]] = []
        for layer in range(encoder.num_layers):
            heads = encoder.heads(layer)
            if heads not in templates:
                inputs = _InputWeights(arrays)
                graph = _layer_graph(config, layer, inputs)
                templates[heads] = layer, compiler(graph).create_infer_request(), inputs
            first, request, inputs = templates[heads]
            own = {
                n: arrays[n.replace(f"blocks.{first}.", f"blocks.{layer}.")] for n in inputs.used
            }
            self._layers.append(request)
            self._arrays.append(own)
        self._weights = [
            {name: _tensor(name, array) for name, array in own.items()} for own in self._arrays
        ]

    def __call__(
        self, embedded: np.ndarray, local_view: View, global_view: View, pool: np.ndarray
    ) -> np.ndarray:
        """Return embeddings [B, E], not of unit length."""
        length = embedded.shape[1]
        shared = {
            is_global: {
                "mask": view.mask,
                "reach": view.reach,
                "width": view.width,
                "cos": self._tables[is_global][0][:, :, :length],
                "sin": self._tables[is_global][1][:, :, :length],
            }
            for is_global, view in ((False, local_view), (True, global_view))
        }
        x = embedded
        for layer, is_global in enumerate(self._is_global):
            inputs = {"x": x, **shared[is_global], **self._weights[layer]}
            x = self._layers[layer].infer(inputs, share_inputs=True)[0]  # a copy
            for array in self._arrays[layer].values():
                release(array)
        out: np.ndarray = self._head.infer({"x": x, "pool": pool}, share_inputs=True)[0]
        return out


class _InputWeights:
    """The weights of one layer as inputs of a graph.

    Args:
        arrays: Weights of the whole model: their types and shapes.

    Attributes:
        used: The inputs, by the names of the weights of the layer whose graph is built.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        self.used: dict[str, Any] = {}

    def vector(self, name: str) -> Any:
        """Return a norm's weight."""
        return self._input(name)

    def linear(self, x: Any, *names: str) -> Any:
        """Return x Wᵀ; parts of different bit widths are multiplied separately."""
        if "+".join(names) + ".codes" in self._arrays:
            return op.matmul(x, self._decoded("+".join(names)), False, True)
        for cut in range(len(names) - 1, 0, -1):
            if "+".join(names[:cut]) + ".codes" in self._arrays:
                parts = [self.linear(x, *names[:cut]), self.linear(x, *names[cut:])]
                return op.concat(parts, -1)
        raise KeyError(names)

    def _decoded(self, name: str) -> Any:
        codes, scales = self._input(f"{name}.codes"), self._input(f"{name}.scales")
        value = op.convert(codes, "f32")
        if f"{name}.zeros" in self._arrays:
            value = op.subtract(value, op.convert(self._input(f"{name}.zeros"), "f32"))
        value = op.multiply(value, scales)
        rows, *columns = codes.get_shape()
        shape = op.constant(np.array([rows, int(np.prod(columns))], dtype=np.int64))
        return op.reshape(value, shape, False)

    def _input(self, name: str) -> Any:
        tensor = _tensor(name, self._arrays[name])
        self.used[name] = op.parameter(
            list(tensor.get_shape()), tensor.get_element_type(), name=name
        )
        return self.used[name]


def _tensor(name: str, array: np.ndarray) -> ov.Tensor:
    """Return a view of a weight: packed codes as 4-bit numbers."""
    if name.endswith(".codes") and array.dtype == np.uint8:
        *rows, half = array.shape
        return ov.Tensor(array, ov.Shape([*rows, 2 * half]), ov.Type.u4)
    return ov.Tensor(array, shared_memory=True)


def _layer_graph(config: EmbeddingConfig, layer: int, weights: _InputWeights) -> ov.Model:
    encoder = config.encoder
    x = op.parameter([-1, -1, encoder.model_dim], ov.Type.f32, name="x")
    mask, reach, width = view_inputs("")
    cos, sin = (
        op.parameter([1, 1, -1, encoder.head_dim], ov.Type.f32, name=n) for n in ("cos", "sin")
    )
    out = block(
        encoder,
        weights,
        x,
        layer,
        lambda q, k, v: blockwise(q, k, v, (mask, reach, width), encoder.heads(layer), encoder),
        (cos, sin),
    )
    return _model(out, [x, mask, reach, width, cos, sin, *weights.used.values()], "layer")


def _head_graph(config: EmbeddingConfig, arrays: Mapping[str, np.ndarray]) -> ov.Model:
    x = op.parameter([-1, -1, config.encoder.model_dim], ov.Type.f32, name="x")
    pool = op.parameter([-1, 1, -1], ov.Type.f32, name="pool")
    return _model(embedding_of(config, CodedWeights(arrays), x, pool), [x, pool], "head")


def _model(out: Any, inputs: Sequence[Any], name: str) -> ov.Model:
    for node in inputs:  # inputs are passed by these names
        node.get_output_tensor(0).set_names({node.get_friendly_name()})
    return ov.Model([op.result(out)], list(inputs), name)
