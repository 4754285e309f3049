"""Runs a graph in ONNX Runtime, except for some nodes that are computed here in NumPy.

The graph is cut at those nodes into pieces that run one after the other; a piece gives on what
later ones read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compressor.onnx_graph.integer_matmuls import KERNELS, Multiply
from compressor.onnx_graph.quantizable_weights import names_in_bodies

Values = dict[str, NDArray[Any]]


def open_unoptimized(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session of `model` on one thread of the CPU, without any rewriting."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@dataclass
class _Piece:
    """Nodes that ONNX Runtime runs, then one that is computed here (None in the last piece)."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    replaced: onnx.NodeProto | None = None
    session: onnxruntime.InferenceSession | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


class SplitRun:
    """A graph that is run with any arithmetic for the integer matmuls in `replaced`.

    `replaced` are the first outputs of nodes with an operator of `KERNELS`; nodes of the graph are
    in the order they run in, as ONNX Runtime writes them.
    """

    def __init__(self, model: onnx.ModelProto, replaced: AbstractSet[str]) -> None:
        self._model = model
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._pieces = _cut(model.graph, replaced)
        self._connect()

    def run(self, feed: Mapping[str, NDArray[Any]], output: str, matmul: Multiply) -> NDArray[Any]:
        """Return one output of the graph, with `matmul` as the integer matmul."""
        values: Values = dict(feed)
        for piece in self._pieces:
            if piece.nodes:
                found = self._session(piece, values).run(
                    list(piece.outputs), {name: values[name] for name in piece.inputs}
                )
                values.update(zip(piece.outputs, found, strict=True))
            if piece.replaced is not None:
                node = piece.replaced
                inputs = [self._value(name, values) if name else None for name in node.input]
                values[node.output[0]] = KERNELS[node.op_type](node, inputs, matmul)
        return values[output]

    def _value(self, name: str, values: Values) -> NDArray[Any]:
        if name in values:
            return values[name]
        constant: NDArray[Any] = numpy_helper.to_array(self._tensors[name])
        return constant

    def _connect(self) -> None:
        """Find what each piece reads of earlier ones, and gives on to later ones."""
        wanted = {value.name for value in self._model.graph.output}
        for piece in reversed(self._pieces):
            made = {name for node in piece.nodes for name in node.output if name}
            if piece.replaced is not None:
                wanted.discard(piece.replaced.output[0])
                wanted |= {name for name in piece.replaced.input if name}
            piece.outputs = tuple(sorted(made & wanted))
            read = set(_read(piece.nodes)) - made - set(self._tensors)
            piece.inputs = tuple(sorted(read))
            wanted = (wanted - made) | read

    def _session(self, piece: _Piece, values: Values) -> onnxruntime.InferenceSession:
        if piece.session is None:
            piece.session = self._open(piece, values)
        return piece.session

    def _open(self, piece: _Piece, values: Values) -> onnxruntime.InferenceSession:
        used = {*_read(piece.nodes), *piece.outputs}
        graph = helper.make_graph(
            piece.nodes,
            "piece",
            [_described(name, values[name]) for name in piece.inputs],
            [onnx.ValueInfoProto(name=name) for name in piece.outputs],
            [tensor for name, tensor in self._tensors.items() if name in used],
        )
        model = helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
        )
        return open_unoptimized(model)


def _cut(graph: onnx.GraphProto, replaced: AbstractSet[str]) -> list[_Piece]:
    pieces = [_Piece()]
    for node in graph.node:
        if node.output[0] in replaced:
            pieces[-1].replaced = node
            pieces.append(_Piece())
        else:
            pieces[-1].nodes.append(node)
    return pieces


def _read(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    """Yield every value that `nodes` read, in their branches and loops too."""
    for node in nodes:
        yield from (name for name in node.input if name)
    body = helper.make_graph(nodes, "nodes", [], [])
    written = {name for node in nodes for name in node.output}
    inner = _written_in_bodies(body)
    yield from (name for name in names_in_bodies(body) if name and name not in written | inner)


def _written_in_bodies(graph: onnx.GraphProto) -> set[str]:
    found: set[str] = set()
    for node in graph.node:
        for item in node.attribute:
            for body in (*item.graphs, *([item.g] if item.HasField("g") else ())):
                found |= {name for inner in body.node for name in inner.output}
                found |= {value.name for value in body.input}
                found |= {tensor.name for tensor in body.initializer}
                found |= _written_in_bodies(body)
    return found


def _described(name: str, value: NDArray[Any]) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype)
    return helper.make_tensor_value_info(name, kind, None)
