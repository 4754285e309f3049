from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compressor.passes.convert_fp16.float16 import FLOAT16_MAX, MASKED, convert_to_float16

LOWEST = float(np.finfo(np.float32).min)
RANDOM = np.random.default_rng(2)
X = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
WEIGHT = RANDOM.normal(size=(4, 4)).astype(np.float32)
GAMMA, BETA = np.ones(4, np.float32), np.zeros(4, np.float32)
NUMBERS = {"zero": 0, "four": 4, "one": 1}
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
    converted = convert_to_float16(graph)
    assert constants(converted)["w"].dtype == np.float16
    boundary = [*converted.graph.input, *converted.graph.output]
    assert {item.type.tensor_type.elem_type for item in boundary} == {TensorProto.FLOAT}
    onnx.checker.check_model(converted, full_check=True)


def test_padding_gets_no_attention_and_nothing_is_nan(attention, run_graph):
    mask = np.array([[[1, 1, 0, 0]], [[1, 1, 1, 1]]], np.int64)
    converted = convert_to_float16(attention)
    found = run_graph(converted, x=X, mask=mask)
    scores = X @ WEIGHT + np.where(mask, 0, -np.inf)
    expected = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    # float16 has 11 significant bits: scores up to 8 are off by at most 0.004.
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert not found[0, :, 2:].any()


def test_row_without_any_attention_is_finite(attention, run_graph):
    converted = convert_to_float16(attention)
    assert np.isfinite(run_graph(converted, x=X, mask=np.zeros((2, 1, 4), np.int64))).all()


def test_mask_leaves_room_for_a_second_mask_and_a_score(attention):
    lowest = constants(convert_to_float16(attention))["lowest"]
    assert lowest == np.float16(MASKED)
    assert np.isfinite(np.float16(2) * lowest - np.float16(1000))


def test_mask_of_many_entries_is_bounded_too(make_graph):
    causal = np.triu(np.full((4, 4), LOWEST, np.float32), 1)
    graph = make_graph([node("Add", ["x", "causal"])], ACTIVATIONS, {"causal": causal})
    expected = np.triu(np.full((4, 4), MASKED, np.float16), 1)
    np.testing.assert_array_equal(constants(convert_to_float16(graph))["causal"], expected)


def test_upper_bound_of_a_clip_is_the_largest_float16(make_graph):
    stored = {"low": np.array(-1, np.float32), "high": np.array(-LOWEST, np.float32)}
    graph = make_graph([node("Clip", ["x", "low", "high"])], ACTIVATIONS, stored)
    assert constants(convert_to_float16(graph))["high"] == FLOAT16_MAX


def test_large_factor_is_not_taken_for_a_bound(make_graph):
    stored = {"factor": np.array(1e6, np.float32)}
    graph = make_graph([node("Mul", ["x", "factor"])], ACTIVATIONS, stored)
    with pytest.raises(ValueError, match=r"weight factor holds 1e\+06, float16 ends at"):
        convert_to_float16(graph)


@pytest.mark.parametrize("broken", [1e5, -1e5, np.nan, np.inf])
def test_weight_beyond_the_range_is_named(make_graph, broken: float):
    weight = WEIGHT.copy()
    weight[1, 1] = broken
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": weight})
    with pytest.raises(ValueError, match=r"weight w holds .* float16 ends at ±65504"):
        convert_to_float16(graph)


def test_weight_beyond_the_range_may_stay_in_float(make_graph, run_graph):
    weight = WEIGHT * np.float32(1e6)
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": weight})
    converted = convert_to_float16(graph, in_float={"y"})
    assert constants(converted)["w"].dtype == np.float32
    np.testing.assert_array_equal(run_graph(converted, x=X), run_graph(graph, x=X))


def test_kept_operator_computes_in_float_between_casts(make_graph, run_graph):
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("LayerNormalization", ["a", "gamma", "beta"], "b"),
        node("MatMul", ["b", "w"]),
    ]
    stored = {"w": WEIGHT, "gamma": GAMMA, "beta": BETA}
    converted = convert_to_float16(make_graph(nodes, ACTIVATIONS, stored, SHAPE), in_float={"b"})
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
    converted = convert_to_float16(graph, in_float={"b"})
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
    converted = convert_to_float16(make_graph(nodes, ACTIVATIONS, {}), in_float={"weights"})
    assert casts_around(converted, "Softmax") == ("Cast", "Cast")
    found = run_graph(converted, x=np.ones((1, 1, 4), np.float32))
    np.testing.assert_array_equal(found, [[[0.25, 0.25, 0.25, 0.25, 1, 1, 1, 1]]])


def test_value_whose_type_is_not_known_is_named(make_graph):
    unknown = helper.make_node("Mystery", ["x"], ["a"], domain="nowhere")
    graph = make_graph([unknown, node("MatMul", ["a", "w"])], ACTIVATIONS, {"w": WEIGHT})
    with pytest.raises(ValueError, match="the type of a, read by MatMul, is unknown"):
        convert_to_float16(graph)


def squares(make_graph) -> onnx.ModelProto:
    """Return mean((x w)^2) w: the squares are beyond float16 when the products are beyond 256."""
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("Mul", ["a", "a"], "b"),
        node("Transpose", ["b"], "c", perm=[0, 2, 1]),
        node("ReduceSum", ["c", "axis"], "d", keepdims=1),
        node("Sqrt", ["d"], "e"),
        node("Div", ["e", "e"], "y"),
    ]
    stored = {"w": WEIGHT, "axis": np.array([-1], np.int64)}
    return make_graph(nodes, ACTIVATIONS, stored)


def operators(model: onnx.ModelProto) -> list[str]:
    return [item.op_type for item in model.graph.node]


def test_value_between_two_float_nodes_is_never_rounded(make_graph, run_graph):
    graph = squares(make_graph)
    converted = convert_to_float16(graph, in_float={"a", "b", "d", "e"})
    # One cast of the root, and one of the result: what lies between is in float32 throughout,
    # with the Transpose, which only moves numbers.
    middle = ["MatMul", "Mul", "Transpose", "ReduceSum", "Sqrt"]
    assert operators(converted) == [*middle, "Cast", "Div", "Cast"]
    large = np.float32(1000) * X
    assert (large @ WEIGHT).max() ** 2 > FLOAT16_MAX
    np.testing.assert_allclose(run_graph(converted, x=large), 1, atol=1e-3)


def test_value_is_cast_once_however_many_read_it(make_graph):
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("Softmax", ["a"], "b"),
        node("Tanh", ["a"], "c"),
        node("Add", ["b", "c"]),
    ]
    converted = convert_to_float16(
        make_graph(nodes, ACTIVATIONS, {"w": WEIGHT}), in_float={"b", "c", "y"}
    )
    assert operators(converted) == ["Cast", "MatMul", "Cast", "Softmax", "Tanh", "Add"]


def test_weight_that_both_kinds_read_is_stored_in_both(make_graph, run_graph):
    nodes = [node("MatMul", ["x", "w"], "a"), node("MatMul", ["a", "w"])]
    converted = convert_to_float16(make_graph(nodes, ACTIVATIONS, {"w": WEIGHT}), in_float={"a"})
    found = constants(converted)
    assert {name: values.dtype for name, values in found.items()} == {
        "w": np.float32,
        "w_float16": np.float16,
    }
    np.testing.assert_array_equal(found["w_float16"], WEIGHT.astype(np.float16))
    np.testing.assert_allclose(run_graph(converted, x=X), X @ WEIGHT @ WEIGHT, atol=0.02)


def test_output_that_is_read_on_inside_keeps_its_type(make_graph, run_graph):
    nodes = [node("MatMul", ["x", "w"], "a"), node("Tanh", ["a"])]
    graph = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT})
    graph.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, SHAPE))
    converted = convert_to_float16(graph)
    assert [item.type.tensor_type.elem_type for item in converted.graph.output] == [1, 1]
    assert operators(converted) == ["Cast", "MatMul", "Tanh", "Cast", "Cast"]
    np.testing.assert_allclose(run_graph(converted, x=X), np.tanh(X @ WEIGHT), atol=5e-3)


def test_operator_without_a_kernel_stays_in_float(make_graph):
    nodes = [
        node("Range", ["zero", "four", "one"], "a"),
        node("Add", ["x", "a"]),
    ]
    stored = {name: np.array(value, np.float32) for name, value in NUMBERS.items()}
    converted = convert_to_float16(make_graph(nodes, ACTIVATIONS, stored))
    assert operators(converted) == ["Range", "Cast", "Cast", "Add", "Cast"]
    assert constants(converted)["four"].dtype == np.float32


def test_statistics_of_a_normalization_stay_in_float(make_graph):
    normalized = helper.make_node("LayerNormalization", ["x", "g", "b"], ["n", "mean"], name="n")
    nodes = [normalized, node("Sub", ["n", "mean"])]
    converted = convert_to_float16(make_graph(nodes, ACTIVATIONS, {"g": GAMMA, "b": BETA}, SHAPE))
    onnx.checker.check_model(converted, full_check=True)
    assert operators(converted) == ["Cast", "LayerNormalization", "Cast", "Sub", "Cast"]


PLACES = np.arange(3000, dtype=np.int64)  # float16 holds whole numbers up to 2048


def test_angles_of_positions_are_computed_in_float(make_graph, run_graph):
    nodes = [
        node("Cast", ["places"], "numbers", to=TensorProto.FLOAT),
        node("Mul", ["numbers", "frequency"], "angles"),
        node("Cos", ["angles"], "cosines"),
        node("Mul", ["cosines", "half"]),
    ]
    stored = {"frequency": np.array(0.9, np.float32), "half": np.array(0.5, np.float32)}
    graph = make_graph(nodes, {"places": (TensorProto.INT64, ["sequence"])}, stored)
    converted = convert_to_float16(graph)
    assert operators(converted) == ["Cast", "Mul", "Cos", "Cast", "Mul", "Cast"]
    expected = 0.5 * np.cos(0.9 * PLACES)
    np.testing.assert_allclose(run_graph(converted, places=PLACES), expected, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_buckets_of_positions_are_those_of_the_float_graph(make_graph, run_graph, dtype):
    nodes = [
        node("Cast", ["places"], "numbers", to=TensorProto.FLOAT),
        node("Log", ["numbers"], "logarithms"),
        node("Mul", ["logarithms", "factor"], "buckets"),
        node("Cast", ["buckets"], "whole", to=TensorProto.INT64),
        node("Greater", ["places", "nowhere"], "is_place"),
        node("Where", ["is_place", "whole", "nowhere"], "chosen"),
        node("Cast", ["chosen"], to=TensorProto.FLOAT),
    ]
    stored = {"factor": np.array(7.5, np.float32), "nowhere": np.array(0, np.int64)}
    graph = make_graph(nodes, {"places": (TensorProto.INT64, ["sequence"])}, stored)
    converted = convert_to_float16(graph, dtype=dtype)
    assert operators(converted)[:4] == ["Cast", "Log", "Mul", "Cast"]
    [found] = ReferenceEvaluator(converted).run(None, {"places": PLACES[1:]})
    np.testing.assert_array_equal(found, np.floor(7.5 * np.log(PLACES[1:])))


def test_what_weights_enter_is_no_position(make_graph):
    nodes = [
        node("Gather", ["w", "ids"], "states"),
        node("Cos", ["states"], "waves"),
        node("Cast", ["waves"], "whole", to=TensorProto.INT64),
        node("Gather", ["w", "whole"]),
    ]
    graph = make_graph(nodes, {"ids": (TensorProto.INT64, ["batch"])}, {"w": WEIGHT})
    assert operators(convert_to_float16(graph)) == [*operators(graph), "Cast"]


@pytest.mark.parametrize("in_float", [set(), {"skip"}, {"first"}, {"product"}])
def test_sum_of_a_norm_by_root_mean_square_is_read_on(make_graph, run_graph, in_float: set[str]):
    skip = helper.make_node(
        "SkipSimplifiedLayerNormalization",
        ["product", "x", "g"],
        ["normalized", "", "", "sum"],
        name="skip",
        domain="com.microsoft",
    )
    nodes = [
        node("SimplifiedLayerNormalization", ["x", "g"], "first"),
        node("MatMul", ["first", "w"], "product"),
        skip,
        node("MatMul", ["normalized", "w"], "second"),
        node("Add", ["second", "sum"]),
    ]
    graph = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT, "g": GAMMA})
    converted = convert_to_float16(graph, in_float=in_float)
    assert TensorProto.FLOAT16 in {item.data_type for item in converted.graph.initializer}
    np.testing.assert_allclose(run_graph(converted, x=X), run_graph(graph, x=X), atol=0.02)


def test_operator_that_nobody_knows_computes_in_float(make_graph):
    unknown = helper.make_node("Mystery", ["x"], ["a"], domain="nowhere", name="a")
    graph = make_graph([unknown, node("MatMul", ["a", "w"])], ACTIVATIONS, {"w": WEIGHT})
    graph.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, SHAPE))
    converted = convert_to_float16(graph)
    assert operators(converted) == ["Mystery", "Cast", "MatMul", "Cast"]


def test_branch_is_refused(make_graph):
    body = helper.make_graph([], "body", [], [])
    branch = helper.make_node("If", ["c"], ["y"], name="y", then_branch=body, else_branch=body)
    graph = make_graph([branch], {"c": (TensorProto.BOOL, [])}, {})
    with pytest.raises(ValueError, match=r"node y holds a branch or a loop \(If\)"):
        convert_to_float16(graph)


def test_the_graph_that_was_given_stays_as_it_was(attention):
    before = attention.SerializeToString(deterministic=True)
    convert_to_float16(attention)
    assert attention.SerializeToString(deterministic=True) == before


def test_bfloat16_holds_what_float16_does_not(make_graph):
    nodes = [node("MatMul", ["x", "w"], "a"), node("Clip", ["a", "low"], "b"), node("Tanh", ["b"])]
    stored = {"w": WEIGHT * np.float32(1e6), "low": np.array(0, np.float32)}
    converted = convert_to_float16(make_graph(nodes, ACTIVATIONS, stored, SHAPE), dtype="bfloat16")
    assert constants(converted)["w"].dtype == ml_dtypes.bfloat16
    # The CUDA provider has no bfloat16 kernel for Clip.
    assert casts_around(converted, "Clip") == ("Cast", "Cast")
    onnx.checker.check_model(converted, full_check=True)
    # ONNX Runtime's CPU provider has no bfloat16; the reference implementation of ONNX does.
    [found] = ReferenceEvaluator(converted).run(None, {"x": X})
    rounded = X.astype(ml_dtypes.bfloat16).astype(np.float32) @ WEIGHT
    expected = np.tanh(np.maximum(rounded * np.float32(1e6), 0))
    np.testing.assert_allclose(found, expected, atol=0.01)
