"""Opens graphs in ONNX Runtime as they are, to look at what single operators compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnxruntime
from onnx import helper

CONTRIB = "com.microsoft"


def open_unoptimized(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session of `model` on one thread of the CPU, without any rewriting."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def open_nodes(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, int],
    constants: Sequence[onnx.TensorProto] = (),
) -> onnxruntime.InferenceSession:
    """Return a session of `nodes` alone, which gives all outputs of the last of them.

    `inputs` holds the element type of each input by name.
    """
    graph = helper.make_graph(
        nodes,
        "nodes",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in nodes[-1].output],
        constants,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(CONTRIB, 1)]
    return open_unoptimized(helper.make_model(graph, opset_imports=opsets, ir_version=10))
