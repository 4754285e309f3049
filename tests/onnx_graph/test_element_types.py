from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from compressor.onnx_graph.element_types import element_types, input_is_fixed, output_is_fixed

X = {"x": (TensorProto.FLOAT, ["batch", "sequence", 4]), "ids": (TensorProto.INT64, ["batch"])}
GAMMA = np.ones(4, np.float32)


def test_types_are_known_of_standard_and_fused_operators(make_graph):
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["ids"], ["numbers"], to=TensorProto.FLOAT16),
        helper.make_node(
            "SkipLayerNormalization",
            ["x", "x", "g", "g"],
            ["normalized", "mean", "deviation", "sum"],
            domain="com.microsoft",
        ),
        helper.make_node("LayerNormalization", ["sum", "g"], ["y", "own_mean"]),
    ]
    types = element_types(make_graph(nodes, X, {"g": GAMMA}))
    assert {name: types[name] for name in ("shape", "numbers", "sum", "mean", "own_mean")} == {
        "shape": TensorProto.INT64,
        "numbers": TensorProto.FLOAT16,
        "sum": TensorProto.FLOAT,
        "mean": 0,
        "own_mean": TensorProto.FLOAT,
    }


@pytest.mark.parametrize(
    ("node", "position", "fixed"),
    [
        (helper.make_node("Resize", ["x", "", "scales"], ["y"]), 0, False),
        (helper.make_node("Resize", ["x", "", "scales"], ["y"]), 2, True),
        (helper.make_node("MatMul", ["x", "x"], ["y"]), 1, False),
        (helper.make_node("Concat", ["x", "x", "x"], ["y"], axis=0), 2, False),
        (helper.make_node("FastGelu", ["x"], ["y"], domain="com.microsoft"), 0, False),
    ],
)
def test_inputs_that_are_float32_by_definition_are_told_apart(node, position: int, fixed: bool):
    assert input_is_fixed(node, position, 20) is fixed


@pytest.mark.parametrize(
    ("node", "position", "fixed"),
    [
        (helper.make_node("LayerNormalization", ["x", "g"], ["y", "mean"]), 0, False),
        (helper.make_node("LayerNormalization", ["x", "g"], ["y", "mean"]), 1, True),
        (helper.make_node("Cast", ["ids"], ["y"], to=TensorProto.FLOAT), 0, False),
        (helper.make_node("ConstantOfShape", ["ids"], ["y"]), 0, False),
        (
            helper.make_node("SkipLayerNormalization", ["x"], ["y", "", "", "sum"], domain="m"),
            1,
            True,
        ),
        (
            helper.make_node("SkipLayerNormalization", ["x"], ["y", "", "", "sum"], domain="m"),
            3,
            False,
        ),
    ],
)
def test_outputs_that_stay_float32_are_told_apart(node, position: int, fixed: bool):
    assert output_is_fixed(node, position, 20) is fixed
