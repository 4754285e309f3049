"""Which part of an encoder a weight belongs to, and how many bytes each part takes.

A file's size alone does not say what to do about it: half of a small encoder is its embedding
table, which pruning heads never touches. The part is read from the weight's name (a checkpoint's
own, which the export keeps) or, where another tool left names such as `onnx::MatMul_12`, from the
operator that reads it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, get_args

import onnx
from onnx.external_data_helper import uses_external_data

from compressor.measurements import ComponentBytes
from compressor.onnx_graph.onnx_file import bytes_on_disk, load_graph

Component = Literal["embeddings", "attention", "feed_forward", "other"]
COMPONENTS: tuple[Component, ...] = get_args(Component)

_LAYER = re.compile(r"(?:^|[./])(?:layers?|blocks?|h)[._](\d+)(?=[./_]|$)")
_ATTENTION = re.compile(
    r"attention|attn|relative_position_bias|SelfAttention|block[._]\d+[./]layer[._]0[./]"
    r"|(?:^|[./])(?:sa_layer_norm|layernorm_before|norm1|layer_scale1|lambda_1)"
)
_EMBEDDINGS = re.compile(r"embed|cls_token|distillation_token|(?:^|[./])w[tp]e[./]")
_FEED_FORWARD = re.compile(
    r"(?:^|[./])(?:intermediate|mlp|ffn|feed_forward|fc[12]|lin[12]|output_layer_norm"
    r"|layernorm_after|norm2|layer_scale2|lambda_2|full_layer_layer_norm"
    r"|DenseReluDense|block[._]\d+[./]layer[._]1[./])"
)
# In a layer, what is not the attention's own output is the feed-forward network's.
_OUTPUT = re.compile(r"[./]output[./]")

# Operators that stand in one part only, for weights and nodes whose names say nothing.
_OPERATORS: dict[str, Component] = {
    "Attention": "attention",
    "BiasGelu": "feed_forward",
    "EmbedLayerNormalization": "embeddings",
    "FastGelu": "feed_forward",
    "MultiHeadAttention": "attention",
    "QAttention": "attention",
}


@dataclass(frozen=True)
class StoredWeight:
    """One constant of a file: `layer` is None outside the layers; `elements` are numbers in it."""

    name: str
    component: Component
    layer: int | None
    elements: int
    num_bytes: int


def component_of(name: str) -> Component:
    """Return the part that a weight or node of this name belongs to.

    >>> component_of("bert.encoder.layer.0.attention.output.dense.weight_int8")
    'attention'
    >>> component_of("bert.encoder.layer.0.output.dense.weight_scale")
    'feed_forward'
    """
    if _ATTENTION.search(name):
        return "attention"
    if _EMBEDDINGS.search(name):
        return "embeddings"
    if _FEED_FORWARD.search(name) or (layer_of(name) is not None and _OUTPUT.search(name)):
        return "feed_forward"
    return "other"


def layer_of(name: str) -> int | None:
    """Return the index of the layer in a weight's or node's name, from 0; None outside of layers.

    >>> layer_of("/bert/encoder/layer.11/output/dense/MatMul")
    11
    """
    found = _LAYER.search(name)
    return None if found is None else int(found[1])


def component_bytes(path: Path) -> ComponentBytes:
    """Return the bytes of each part of an .onnx file; they add up to `bytes_on_disk(path)`.

    Scales and zero points count to the part of their weight. `other` is the classifier, what could
    not be placed, and the graph itself.

    Raises `EnvironmentMismatch` when the file is missing or damaged.
    """
    totals: Counter[Component] = Counter()
    for weight in stored_weights(load_graph(path, weights=False)):
        totals[weight.component] += weight.num_bytes
    overhead = bytes_on_disk(path) - totals.total()
    return ComponentBytes(
        embeddings=totals["embeddings"],
        attention=totals["attention"],
        feed_forward=totals["feed_forward"],
        other=totals["other"] + overhead,
    )


def stored_weights(model: onnx.ModelProto) -> tuple[StoredWeight, ...]:
    """Return every constant of a graph with its part and size, in the order of the file."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for tensor in _constants(model.graph):
        names = _telling_names(tensor.name, readers)
        parts = (_placed(name, operator) for name, operator in names)
        component: Component = next((part for part in parts if part != "other"), "other")
        layers = (layer_of(name) for name, _ in names)
        layer = next((index for index in layers if index is not None), None)
        found.append(
            StoredWeight(tensor.name, component, layer, prod(tensor.dims), _num_bytes(tensor))
        )
    return tuple(found)


def _telling_names(
    name: str, readers: dict[str, list[onnx.NodeProto]]
) -> list[tuple[str, str | None]]:
    """Return the weight's name, then name and operator of its readers.

    A weight that is dequantized first is used by whoever reads the result.
    """
    found: list[tuple[str, str | None]] = [(name, None)]
    for node in readers.get(name, ())[:1]:  # a weight that several parts share counts to the first
        found.append((node.name or node.output[0], node.op_type))
        if node.op_type in ("DequantizeLinear", "Cast", "Transpose"):
            found += [
                (after.name or after.output[0], after.op_type)
                for after in readers.get(node.output[0], ())[:1]
            ]
    return found


def _placed(name: str, operator: str | None) -> Component:
    component = component_of(name)
    return _OPERATORS.get(operator or "", component) if component == "other" else component


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                tensor = onnx.TensorProto()
                tensor.CopyFrom(attribute.t)
                tensor.name = node.output[0]
                yield tensor


def _num_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes that the values take in the file, without their description."""
    if uses_external_data(tensor):
        lengths = [int(entry.value) for entry in tensor.external_data if entry.key == "length"]
        if lengths:
            return lengths[0]
    elif tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    elements: int = prod(tensor.dims)
    item: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return elements * item
