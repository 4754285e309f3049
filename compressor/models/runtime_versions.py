"""The oldest ONNX Runtime that can run a graph, from what the graph asks for.

Each line of the tables was tried with the releases themselves; `tools/check_runtimes.py` tries them
again, with artifacts of every kind. Those that are asked before anything is loaded are in
`runtime_releases.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnxruntime
from onnx import TensorProto

from compressor.models.runtime_releases import (
    OLDEST,
    OPSETS,
    QUANTIZATION_OF_23,
    Version,
    parse_version,
)
from compressor.onnx_graph.onnx_file import load_graph
from compressor.runtime.session import MIN_RUNTIME as MIN_RUNTIME
from compressor.runtime.session import require_runtime as require_runtime

# The first release that reads a file of this version of the format.
IR_VERSIONS: Mapping[int, Version] = {
    10: (1, 18, 0),
    11: (1, 23, 0),
    12: (1, 24, 1),
    13: (1, 24, 1),
}
CONTRIB = "com.microsoft"
# By domain, operator, and the operator set that changed it last, those whose kernels came later
# than that: a release opens the graph and ends with "could not find an implementation".
OPERATORS: Mapping[tuple[str, str, int], Version] = {
    ("", "QuantizeLinear", 23): QUANTIZATION_OF_23,
    ("", "DequantizeLinear", 23): QUANTIZATION_OF_23,
    ("", "LpNormalization", 22): (1, 25, 0),
    (CONTRIB, "SkipSimplifiedLayerNormalization", 1): (1, 17, 0),
    (CONTRIB, "MatMulNBits", 1): (1, 17, 0),
    (CONTRIB, "GatherBlockQuantized", 1): (1, 23, 0),  # of bytes that hold two values each
}
_EIGHT_BITS: Version = (1, 22, 0)  # of MatMulNBits, which began with 4
_CAST_OF_INT4: Version = (1, 23, 0)  # 1.22.1 has no kernel
_STANDARD = ("", "ai.onnx")


def oldest_runtime(path: Path) -> str:
    """Return the oldest release of ONNX Runtime that runs a graph on a CPU, such as `1.24.1`.

    A graph that asks for more than the tables know takes the release that runs here.
    """
    model = load_graph(path, weights=False)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    standard = max((opsets.get(domain, 0) for domain in _STANDARD), default=0)
    needs = [OLDEST, _first(IR_VERSIONS, model.ir_version), _first(OPSETS, standard)]
    narrow = {item.name for item in model.graph.initializer if item.data_type == TensorProto.INT4}
    for node in _nodes(model):
        domain = "" if node.domain in _STANDARD else node.domain
        since = _since(node.op_type, domain, standard if domain == "" else opsets.get(domain, 1))
        needs.append(OPERATORS.get((domain, node.op_type, since), OLDEST))
        if node.op_type == "MatMulNBits" and _bits(node) == 8:
            needs.append(_EIGHT_BITS)
        if node.op_type == "Cast" and node.input[0] in narrow:
            needs.append(_CAST_OF_INT4)
    return ".".join(map(str, max(needs)))


def _first(table: Mapping[int, Version], asked: int) -> Version:
    if asked <= max(table):
        return table.get(asked, OLDEST)
    return parse_version(onnxruntime.__version__) or OLDEST


def _bits(node: onnx.NodeProto) -> int:
    return next((item.i for item in node.attribute if item.name == "bits"), 4)


def _since(operator: str, domain: str, opset: int) -> int:
    """Return the operator set that changed an operator last, as its graph reads it."""
    try:
        return int(onnx.defs.get_schema(operator, opset, domain).since_version)
    except onnx.defs.SchemaError:
        return 1  # ONNX Runtime's own


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of the graph, of the graphs inside them, and of functions."""
    pending = [model.graph.node, *(function.node for function in model.functions)]
    while pending:
        for node in pending.pop():
            yield node
            for attribute in node.attribute:
                inner = [attribute.g] if attribute.HasField("g") else []
                pending += [graph.node for graph in (*inner, *attribute.graphs)]
