from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compressor.inspection.timing import _shares, place_nodes


def test_nodes_without_weights_belong_to_the_part_they_compute_from():
    weights = {
        "word_embeddings": np.ones((9, 4), np.float32),
        "layer.0.attention.qkv": np.ones((4, 4), np.float32),
        "layer.0.output.dense": np.ones((4, 4), np.float32),
        "classifier": np.ones((4, 2), np.float32),
        "mask_value": np.zeros(1, np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["word_embeddings", "ids"], ["e"], "lookup"),
        helper.make_node("Mul", ["mask", "mask_value"], ["m"], "masking"),
        helper.make_node("MatMul", ["e", "layer.0.attention.qkv"], ["q"], "query"),
        helper.make_node("Add", ["q", "m"], ["s"], "scores"),
        helper.make_node("Softmax", ["s"], ["p"], "softmax"),
        helper.make_node("MatMul", ["p", "layer.0.output.dense"], ["f"], "output"),
        helper.make_node("Add", ["f", "e"], ["r"], "residual"),
        helper.make_node("MatMul", ["r", "classifier"], ["logits"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 3]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    assert place_nodes(onnx.helper.make_model(graph)) == {
        "lookup": "embeddings",
        "masking": "other",
        "query": "attention",
        "scores": "attention",
        "softmax": "attention",
        "output": "feed_forward",
        "residual": "feed_forward",
        "head": "other",
    }


def test_runs_that_others_interrupted_do_not_count():
    def runs(node: str, operator: str, times: list[int]) -> list[dict[str, object]]:
        return [
            {"name": f"{node}_kernel_time", "args": {"op_name": operator}, "dur": str(spent)}
            for spent in times
        ]

    warm_up = [500] * 5
    events = [
        *runs("query", "MatMul", [*warm_up, *[30] * 20, *[9000] * 10]),
        *runs("softmax", "Softmax", [*warm_up, *[10] * 30]),
    ]
    found = _shares(events, {"query": "attention", "softmax": "attention"}, 8)
    assert found.by_operator == {"MatMul": 0.75, "Softmax": 0.25}
    assert found.by_component["attention"] == 1.0
