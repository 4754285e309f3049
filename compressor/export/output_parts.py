"""Lets a graph give the parts of its output by themselves too, by the names of transformers.

Programs that answer questions (transformers.js, ORTModel of optimum-onnx) look for the outputs
`start_logits` and `end_logits`, which this package keeps side by side in one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import helper, numpy_helper

from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.onnx_file import load_graph, save_graph


def add_output_parts(model: OnnxModel, names: Sequence[str]) -> None:
    """Let the graph in the file of `model` give what its output has at each place of the last axis.

    `names` are those of the further outputs, in that order, each without the last axis. What the
    graph gave before stays as it is.
    """
    content = load_graph(model.path)
    graph = content.graph
    whole = next(value for value in graph.output if value.name == model.output_name)
    kind = whole.type.tensor_type
    axes = [
        dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else None)
        for dim in kind.shape.dim
    ][:-1]
    for place, name in enumerate(names):
        index = numpy_helper.from_array(np.array(place, dtype=np.int64), f"{name}_place")
        graph.initializer.append(index)
        inputs = [whole.name, index.name]
        graph.node.append(helper.make_node("Gather", inputs, [name], name=name, axis=-1))
        graph.output.append(helper.make_tensor_value_info(name, kind.elem_type, axes))
    save_graph(content, model.path)
