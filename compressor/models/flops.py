"""Counts what an exported graph computes: the FLOPs of the matmuls in its encoder layers.

Shapes come from running the graph, not from inferring them, because ONNX's own inference does not
know ONNX Runtime's operators.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container, Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.models.components import component_of
from compressor.models.onnx_model import OnnxModel, feed_of, open_content
from compressor.onnx_graph.narrow_columns import with_int8_constants
from compressor.onnx_graph.onnx_file import bytes_on_disk, load_graph, save_graph
from compressor.tasks import Batch

# Positions of both factors among the inputs of each operator that is a matmul.
_FACTORS: dict[str, tuple[int, int]] = {
    "DynamicQuantizeMatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "MatMulNBits": (0, 1),
    "QGemm": (0, 3),
    "QLinearMatMul": (0, 3),
}
# Operators that compare queries with keys and sum values by the result; inputs and output have
# tokens as their last axis but one.
_ATTENTION = ("Attention", "MultiHeadAttention")
_IN_LAYERS = ("attention", "feed_forward")
_SHAPE_OF = "shape_of:"
# Bytes of a graph that is opened without a file, which would take longer than running it; twice as
# many are held for the moment, and protobuf stops at 2 GiB.
_LARGEST_IN_MEMORY = 2**29


def encoder_flops(path: Path, batch: Batch) -> int:
    """Return the FLOPs of the encoder layers' matmuls in one run of a graph over `batch`.

    Two for each multiply-add of every matmul that reads a weight of an encoder layer, float or
    integer, and of every matmul of two activations (attention's scores and its weighted sum).
    Left out: embeddings and their projections, pooler and classifier, and all that is no matmul
    (norms, activation functions, softmax, sums, quantization). Work that the graph leaves out, such
    as tokens of the last layer that nobody reads, is not counted.

    Raises `EnvironmentMismatch` when the file is missing or damaged, or does not run on a CPU.
    """
    graph = with_int8_constants(load_graph(path))
    _widen(graph)
    known = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    stored = {name: name for name in known} | _dequantized(graph.graph, known)
    nodes = [node for node in graph.graph.node if _is_in_layers(node, stored)]
    wanted = {name for node in nodes for name in (*_operands(node), node.output[0])}
    asked = sorted(wanted - known.keys())
    for name in asked:
        graph.graph.node.append(helper.make_node("Shape", [name], [_SHAPE_OF + name]))
        shape = helper.make_tensor_value_info(_SHAPE_OF + name, TensorProto.INT64, None)
        graph.graph.output.append(shape)
    found = _run(graph, [_SHAPE_OF + name for name in asked], batch, path) if asked else []
    shapes = known | {name: tuple(shape.tolist()) for name, shape in zip(asked, found, strict=True)}
    return sum(_flops(node, shapes) for node in nodes)


def _run(
    graph: onnx.ModelProto, outputs: list[str], batch: Batch, path: Path
) -> list[NDArray[np.int64]]:
    """Return some outputs of a graph that was made from the one in `path`."""
    found: list[NDArray[np.int64]]
    if bytes_on_disk(path) < _LARGEST_IN_MEMORY:
        session = open_content(graph.SerializeToString(), path)
        found = session.run(outputs, feed_of(session, batch, path))
        return found
    with tempfile.TemporaryDirectory(prefix="compressor-flops-") as folder:
        save_graph(graph, Path(folder) / "model.onnx")
        model = OnnxModel(Path(folder) / "model.onnx", provider="cpu", threads=1)
        found = model.session.run(outputs, model.feed(batch))
    return found


def _widen(graph: onnx.ModelProto) -> None:
    """Let a graph compute in float32 what it computes in bfloat16, of which a CPU has no kernels.

    No shape changes.
    """
    for tensor in graph.graph.initializer:
        _widen_tensor(tensor)
    for node in graph.graph.node:
        for item in node.attribute:
            if item.HasField("t"):
                _widen_tensor(item.t)
            elif node.op_type == "Cast" and item.name == "to" and item.i == TensorProto.BFLOAT16:
                item.i = TensorProto.FLOAT
    for value in graph.graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.BFLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _dequantized(graph: onnx.GraphProto, constants: Container[str]) -> dict[str, str]:
    """Return the constants that values are which a node only widens, by the values' names."""
    return {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type in ("Cast", "DequantizeLinear") and node.input[0] in constants
    }


def _is_in_layers(node: onnx.NodeProto, constants: Mapping[str, str]) -> bool:
    if node.op_type in _ATTENTION:
        return True
    if node.op_type not in _FACTORS:
        return False
    weights = [constants[name] for name in _operands(node) if name in constants]
    return not weights or any(component_of(name) in _IN_LAYERS for name in weights)


def _operands(node: onnx.NodeProto) -> tuple[str, ...]:
    positions = _FACTORS.get(node.op_type, (0, 1))  # of attention operators: query and key
    return tuple(node.input[position] for position in positions)


def _flops(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    first, second = (shapes[name] for name in _operands(node))
    output = shapes[node.output[0]]
    if node.op_type in _ATTENTION:  # each query feature meets each key; so do the values
        return 2 * second[-2] * (prod(first) + prod(output))
    transposed = any(item.name == "transA" and item.i for item in node.attribute)
    return 2 * prod(output) * first[-2 if transposed else -1]
