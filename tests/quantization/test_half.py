from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.quantization.half import HALF_MAX, MASKED, convert_to_half

LOWEST = float(np.finfo(np.float32).min)
RANDOM = np.random.default_rng(2)
X = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
WEIGHT = RANDOM.normal(size=(4, 4)).astype(np.float32)
GAMMA, BETA = np.ones(4, np.float32), np.zeros(4, np.float32)
SHAPE = ["batch", "sequence", 4]
ACTIVATIONS = {"x": (TensorProto.FLOAT, SHAPE)}


def node(operator: str, inputs: list[str], output: str = "y", **attributes):
    domain = "com.microsoft" if operator.startswith("Skip") else ""
    return helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes)


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def casts_around(model: onnx.ModelProto, operator: str) -> tuple[str, str]:
    """Return the operators before and after the only node of type `operator`."""
    [middle] = [item for item in model.graph.node if item.op_type == operator]
    [before] = [item for item in model.graph.node if middle.input[0] in item.output]
    [after] = [item for item in model.graph.node if middle.output[0] in item.input]
    return before.op_type, after.op_type


@pytest.fixture
def attention(make_graph):
    """Return softmax(x w + (1 - mask) * lowest float32), as encoders mask their padding."""
    nodes = [
        node("MatMul", ["x", "w"], "scores"),
        node("Cast", ["mask"], "kept", to=TensorProto.FLOAT),
        node("Sub", ["one", "kept"], "dropped"),
        node("Mul", ["dropped", "lowest"], "bias"),
        node("Add", ["scores", "bias"], "masked"),
        node("Softmax", ["masked"], axis=-1),
    ]
    stored = {
        "w": WEIGHT,
        "one": np.array(1, np.float32),
        "lowest": np.array(LOWEST, np.float32),
    }
    inputs = {**ACTIVATIONS, "mask": (TensorProto.INT64, ["batch", 1, 4])}
    return make_graph(nodes, inputs, stored)


def test_weights_become_half_and_the_boundary_keeps_its_types(make_graph):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT}, SHAPE)
    converted = convert_to_half(graph)
    assert constants(converted)["w"].dtype == np.float16
    boundary = [*converted.graph.input, *converted.graph.output]
    assert {item.type.tensor_type.elem_type for item in boundary} == {TensorProto.FLOAT}
    onnx.checker.check_model(converted, full_check=True)


def test_padding_gets_no_attention_and_nothing_is_nan(attention, run_graph):
    mask = np.array([[[1, 1, 0, 0]], [[1, 1, 1, 1]]], np.int64)
    converted = convert_to_half(attention)
    found = run_graph(converted, x=X, mask=mask)
    scores = X @ WEIGHT + np.where(mask, 0, -np.inf)
    expected = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    # float16 has 11 significant bits: scores up to 8 are off by at most 0.004.
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert not found[0, :, 2:].any()


def test_row_without_any_attention_is_finite(attention, run_graph):
    converted = convert_to_half(attention)
    assert np.isfinite(run_graph(converted, x=X, mask=np.zeros((2, 1, 4), np.int64))).all()


def test_mask_leaves_room_for_a_second_mask_and_a_score(attention):
    lowest = constants(convert_to_half(attention))["lowest"]
    assert lowest == np.float16(MASKED)
    assert np.isfinite(np.float16(2) * lowest - np.float16(1000))


def test_mask_of_many_entries_is_bounded_too(make_graph):
    causal = np.triu(np.full((4, 4), LOWEST, np.float32), 1)
    graph = make_graph([node("Add", ["x", "causal"])], ACTIVATIONS, {"causal": causal})
    expected = np.triu(np.full((4, 4), MASKED, np.float16), 1)
    np.testing.assert_array_equal(constants(convert_to_half(graph))["causal"], expected)


def test_upper_bound_of_a_clip_is_the_largest_half(make_graph):
    stored = {"low": np.array(-1, np.float32), "high": np.array(-LOWEST, np.float32)}
    graph = make_graph([node("Clip", ["x", "low", "high"])], ACTIVATIONS, stored)
    assert constants(convert_to_half(graph))["high"] == HALF_MAX


@pytest.mark.parametrize("broken", [1e5, -1e5, np.nan, np.inf])
def test_weight_beyond_the_range_is_named(make_graph, broken: float):
    weight = WEIGHT.copy()
    weight[1, 1] = broken
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": weight})
    with pytest.raises(ValueError, match=r"weight w holds .* float16 ends at ±65504"):
        convert_to_half(graph)


def test_weight_beyond_the_range_may_stay_in_float(make_graph, run_graph):
    weight = WEIGHT * np.float32(1e6)
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": weight})
    converted = convert_to_half(graph, keep_in_float=["MatMul"])
    assert constants(converted)["w"].dtype == np.float32


def test_kept_operator_computes_in_float_between_casts(make_graph, run_graph):
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("LayerNormalization", ["a", "gamma", "beta"], "b"),
        node("MatMul", ["b", "w"]),
    ]
    stored = {"w": WEIGHT, "gamma": GAMMA, "beta": BETA}
    converted = convert_to_half(
        make_graph(nodes, ACTIVATIONS, stored, SHAPE), keep_in_float=["LayerNormalization"]
    )
    assert casts_around(converted, "LayerNormalization") == ("Cast", "Cast")
    assert constants(converted)["gamma"].dtype == np.float32
    onnx.checker.check_model(converted, full_check=True)
    assert np.isfinite(run_graph(converted, x=X)).all()


def test_types_are_known_behind_fused_operators(make_graph, run_graph):
    nodes = [
        node("SkipLayerNormalization", ["x", "x", "gamma", "beta"], "a", epsilon=1e-5),
        node("Softmax", ["a"], "b"),
        node("MatMul", ["b", "w"]),
    ]
    stored = {"w": WEIGHT, "gamma": GAMMA, "beta": BETA}
    graph = make_graph(nodes, ACTIVATIONS, stored)
    expected = run_graph(graph, x=X)
    converted = convert_to_half(graph, keep_in_float=["Softmax"])
    assert casts_around(converted, "Softmax") == ("Cast", "Cast")
    np.testing.assert_allclose(run_graph(converted, x=X), expected, atol=5e-3)


def test_types_are_told_from_operators_that_change_them(make_graph, run_graph):
    nodes = [
        node("Shape", ["x"], "shape"),
        node("ConstantOfShape", ["shape"], "zeros"),
        node("Greater", ["x", "zeros"], "positive"),
        node("Cast", ["positive"], "ones", to=TensorProto.FLOAT),
        node("Softmax", ["ones"], "weights"),
        node("Concat", ["weights", "x"], axis=-1),
    ]
    converted = convert_to_half(make_graph(nodes, ACTIVATIONS, {}), keep_in_float=["Softmax"])
    assert casts_around(converted, "Softmax") == ("Cast", "Cast")
    found = run_graph(converted, x=np.ones((1, 1, 4), np.float32))
    np.testing.assert_array_equal(found, [[[0.25, 0.25, 0.25, 0.25, 1, 1, 1, 1]]])


def test_value_whose_type_is_not_known_is_named(make_graph):
    unknown = helper.make_node("Mystery", ["x"], ["a"], domain="nowhere")
    graph = make_graph([unknown, node("MatMul", ["a", "w"])], ACTIVATIONS, {"w": WEIGHT})
    with pytest.raises(ValueError, match="the type of a, read by MatMul, is unknown"):
        convert_to_half(graph)
