from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compressor.onnx_graph.matmul_biases import move_biases_into_matmuls

Floats = NDArray[np.float32]
ROWS, INNER, COLUMNS = 5, 8, 6


def contrib(operator: str, inputs: Sequence[str], output: str) -> NodeProto:
    return helper.make_node(operator, inputs, [output], domain="com.microsoft")


def graph_of(*after: NodeProto, outputs: Sequence[str] = ("y",)) -> onnx.ModelProto:
    """Return a matmul of `x` that gives `units`, and the nodes after it."""
    random = np.random.default_rng(0)
    constants = {
        "weight_int8": random.integers(-60, 60, (INNER, COLUMNS), dtype=np.int8),
        "scale": np.array(0.1, np.float32),
        "scales": random.uniform(0.01, 0.02, COLUMNS).astype(np.float32),
        "zero": np.array(3, np.uint8),
        "bias": random.normal(size=COLUMNS).astype(np.float32),
        "row": random.normal(size=(1, COLUMNS)).astype(np.float32),
        "first": random.normal(size=2).astype(np.float32),
        "second": random.normal(size=4).astype(np.float32),
        "sizes": np.array([2, 4], np.int64),
        "residual": random.normal(size=(ROWS, COLUMNS)).astype(np.float32),
    }
    matmul = contrib(
        "MatMulIntegerToFloat", ["x", "weight_int8", "scale", "scales", "zero"], "units"
    )
    graph = helper.make_graph(
        [matmul, *after],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [ROWS, INNER])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def outputs_of(model: onnx.ModelProto) -> list[Floats]:
    # As they are written: ONNX Runtime moves an Add itself.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # constants of other cases are read by nothing
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rows = np.random.default_rng(1).integers(0, 255, (ROWS, INNER), dtype=np.uint8)
    return [np.asarray(found) for found in session.run(None, {"x": rows})]


def add(value: str, bias: str, output: str) -> NodeProto:
    return helper.make_node("Add", [value, bias], [output])


def split(axis: int = -1) -> NodeProto:
    return helper.make_node("Split", ["units", "sizes"], ["left", "right"], axis=axis)


TAKEN = {
    "addition": (graph_of(add("units", "bias", "y")), []),
    "addition from the left": (graph_of(add("bias", "units", "y")), []),
    "gelu": (graph_of(contrib("BiasGelu", ["units", "bias"], "y")), ["Gelu"]),
    "residual": (
        graph_of(helper.make_node("Sum", ["units", "bias", "residual"], ["y"])),
        ["Sum"],
    ),
    "parts": (
        graph_of(split(), add("left", "first", "y"), add("second", "right", "z"),
                 outputs=("y", "z")),
        ["Split"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_the_matmul_adds_the_bias_and_the_numbers_stay(case: str):
    model, left = TAKEN[case]
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    assert move_biases_into_matmuls(moved) == 1
    assert [node.op_type for node in moved.graph.node] == ["MatMulIntegerToFloat", *left]
    for before, after in zip(outputs_of(model), outputs_of(moved), strict=True):
        np.testing.assert_array_equal(after, before)


LEFT = {
    "no vector": graph_of(add("units", "row", "y")),
    "no constant": graph_of(add("units", "units", "y")),
    "two readers": graph_of(
        add("units", "bias", "y"), helper.make_node("Relu", ["units"], ["z"]), outputs=("y", "z")
    ),
    "an output": graph_of(add("units", "bias", "y"), outputs=("y", "units")),
    "two biases": graph_of(helper.make_node("Sum", ["units", "bias", "bias"], ["y"])),
    "no residual": graph_of(helper.make_node("Sum", ["units", "bias"], ["y"])),
    "another operator": graph_of(helper.make_node("Mul", ["units", "bias"], ["y"])),
    "one of two parts": graph_of(
        split(), add("left", "first", "y"), helper.make_node("Relu", ["right"], ["z"]),
        outputs=("y", "z"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT)
def test_what_is_no_bias_of_a_matmul_alone_stays(case: str):
    moved = onnx.ModelProto()
    moved.CopyFrom(LEFT[case])
    assert move_biases_into_matmuls(moved) == 0
    assert moved == LEFT[case]


def test_a_second_bias_stays_an_addition():
    model = graph_of(add("units", "bias", "sum"), add("sum", "bias", "y"))
    assert move_biases_into_matmuls(model) == 1
    assert [node.op_type for node in model.graph.node] == ["MatMulIntegerToFloat", "Add"]
    assert move_biases_into_matmuls(model) == 0


def test_a_bias_that_nothing_reads_any_more_goes():
    model = TAKEN["parts"][0]
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    move_biases_into_matmuls(moved)
    names = {tensor.name for tensor in moved.graph.initializer}
    assert {"first", "second"} & names == set()
    assert names >= {"units_bias", "sizes"}
