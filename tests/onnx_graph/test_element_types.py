from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from compressor.onnx_graph.element_types import element_types, input_is_fixed, output_is_fixed

X = {"x": (TensorProto.FLOAT, ["batch", "sequence", 4]), "ids": (TensorProto.INT64, ["batch"])}
GAMMA = np.ones(4, np.float32)
CONTRIB = "com.microsoft"


def test_types_are_known_of_standard_and_fused_operators(make_graph):
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["ids"], ["numbers"], to=TensorProto.FLOAT16),
        helper.make_node(
            "SkipLayerNormalization",
            ["x", "x", "g", "g"],
            ["normalized", "mean", "deviation", "sum"],
            domain=CONTRIB,
        ),
        helper.make_node("LayerNormalization", ["sum", "g"], ["y", "own_mean"]),
    ]
    types = element_types(make_graph(nodes, X, {"g": GAMMA}))
    assert {name: types[name] for name in ("shape", "numbers", "sum", "mean", "own_mean")} == {
        "shape": TensorProto.INT64,
        "numbers": TensorProto.FLOAT16,
        "sum": TensorProto.FLOAT,
        "mean": TensorProto.FLOAT,
        "own_mean": TensorProto.FLOAT,
    }


@pytest.mark.parametrize(
    ("node", "position", "fixed"),
    [
        (helper.make_node("Resize", ["x", "", "scales"], ["y"]), 0, False),
        (helper.make_node("Resize", ["x", "", "scales"], ["y"]), 2, True),
        (helper.make_node("MatMul", ["x", "x"], ["y"]), 1, False),
        (helper.make_node("Concat", ["x", "x", "x"], ["y"], axis=0), 2, False),
        (helper.make_node("FastGelu", ["x"], ["y"], domain=CONTRIB), 0, False),
        (helper.make_node("GroupQueryAttention", ["x"] * 13, ["y"], domain=CONTRIB), 0, False),
        (helper.make_node("GroupQueryAttention", ["x"] * 13, ["y"], domain=CONTRIB), 12, True),
        (helper.make_node("Range", ["x", "x", "x"], ["y"]), 0, True),
        (helper.make_node("Mystery", ["x"], ["y"], domain="nowhere"), 0, True),
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
            helper.make_node("SimplifiedLayerNormalization", ["x", "g"], ["y", "deviation"]),
            0,
            False,
        ),
        (helper.make_node("SimplifiedLayerNormalization", ["x", "g"], ["y", "deviation"]), 1, True),
        *(
            (helper.make_node(f"Skip{kind}", ["x"], ["y", "", "", "sum"], domain=CONTRIB), *wanted)
            for kind in ("LayerNormalization", "SimplifiedLayerNormalization")
            for wanted in ((0, False), (1, True), (2, True), (3, False))
        ),
        (
            helper.make_node("EmbedLayerNormalization", ["x"], ["y", "", "sum"], domain=CONTRIB),
            2,
            False,
        ),
        (helper.make_node("MultiHeadAttention", ["x"], ["y", "key"], domain=CONTRIB), 1, False),
        (helper.make_node("Mystery", ["x"], ["y"], domain="nowhere"), 0, True),
    ],
)
def test_outputs_that_stay_float32_are_told_apart(node, position: int, fixed: bool):
    assert output_is_fixed(node, position, 20) is fixed


def test_types_are_known_behind_norms_by_root_mean_square(make_graph):
    skip = helper.make_node(
        "SkipSimplifiedLayerNormalization",
        ["x", "x", "g"],
        ["normalized", "", "deviation", "sum"],
        domain=CONTRIB,
    )
    plain = helper.make_node("SimplifiedLayerNormalization", ["sum", "g"], ["y", "own"])
    types = element_types(make_graph([skip, plain], X, {"g": GAMMA}))
    names = ("normalized", "deviation", "sum", "y", "own")
    assert {types[name] for name in names} == {TensorProto.FLOAT}


def test_output_follows_the_input_that_shares_its_type_and_no_other(make_graph):
    attention = helper.make_node("Attention", ["q", "q", "v"], ["states", "", "value"])
    last = helper.make_node("Identity", ["states"], ["y"])
    inputs = {"q": (TensorProto.FLOAT, [1, 2, 3, 4]), "v": (TensorProto.FLOAT16, [1, 2, 3, 4])}
    types = element_types(make_graph([attention, last], inputs, {}))
    assert (types["states"], types["value"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)
