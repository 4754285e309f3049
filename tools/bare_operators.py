"""Sessions of a few nodes alone, to look at what single operators compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnxruntime
from onnx import helper

from compressor.onnx_graph.split_run import open_unoptimized

CONTRIB = "com.microsoft"


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
