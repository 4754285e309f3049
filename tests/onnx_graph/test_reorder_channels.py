from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_graph.affine import saturation_free_scales
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
from compressor.onnx_graph.reorder_channels import reorder_inner_channels

RANDOM = np.random.default_rng(2)
INNER = 16
ACTIVATIONS = {"x": (TensorProto.FLOAT, None)}
# Whole numbers: every product and sum is exact, so the order of the terms cannot show. Those of the
# matrices that are reordered pass 127, or they would be an int8 grid that no order makes finer.
X = RANDOM.integers(-9, 10, (3, 4)).astype(np.float32)
FIRST = RANDOM.integers(-9, 10, (4, INNER)).astype(np.float32)
SECOND = RANDOM.integers(-200, 201, (INNER, 5)).astype(np.float32)
BIAS = RANDOM.integers(-9, 10, INNER).astype(np.float32)


def node(operator: str, inputs: list[str], output: str, **attributes):
    domain = "com.microsoft" if operator in ("BiasGelu", "FusedMatMul") else ""
    return helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes)


def stored(model: onnx.ModelProto, name: str) -> NDArray[np.generic]:
    [tensor] = [item for item in model.graph.initializer if item.name == name]
    return numpy_helper.to_array(tensor)


LAST = node("MatMul", ["h", "second"], "y")
BLOCKS = {
    "bias and relu": [
        node("MatMul", ["x", "first"], "a"),
        node("Add", ["a", "bias"], "b"),
        node("Relu", ["b"], "h"),
        LAST,
    ],
    "gemm, transposed": [
        node("Gemm", ["x", "first_t", "bias"], "a", transB=1),
        node("Relu", ["a"], "h"),
        node("Gemm", ["h", "second_t"], "y", transB=1),
    ],
    "activation with two ends": [
        node("MatMul", ["x", "first"], "a"),
        node("Clip", ["a", "zero", "six"], "h"),
        LAST,
    ],
    "gate": [
        node("MatMul", ["x", "first"], "a"),
        node("MatMul", ["x", "gate"], "b"),
        node("Mul", ["a", "b"], "h"),
        LAST,
    ],
    "one value used twice": [
        node("MatMul", ["x", "first"], "a"),
        node("Max", ["a", "zero"], "b"),
        node("Mul", ["b", "a"], "h"),
        LAST,
    ],
    "bias that others read too": [
        node("MatMul", ["x", "first"], "a"),
        node("Add", ["a", "bias"], "h"),
        node("MatMul", ["h", "second"], "z"),
        node("ReduceSum", ["bias"], "sum"),
        node("Mul", ["bias", "positions"], "weighted"),
        node("ReduceSum", ["weighted"], "fingerprint"),
        node("Add", ["z", "fingerprint"], "y"),
    ],
    "weights shared by two layers": [
        node("MatMul", ["x", "first"], "a"),
        node("Relu", ["a"], "h"),
        node("MatMul", ["h", "back"], "b"),
        node("MatMul", ["b", "first"], "c"),
        node("Add", ["c", "bias"], "d"),
        node("MatMul", ["d", "back"], "y"),
    ],
}
CONSTANTS = {
    "first": FIRST,
    "first_t": FIRST.T.copy(),
    "second": SECOND,
    "second_t": SECOND.T.copy(),
    "back": RANDOM.integers(-200, 201, (INNER, 4)).astype(np.float32),
    "gate": RANDOM.integers(-9, 10, (4, INNER)).astype(np.float32),
    "bias": BIAS,
    "zero": np.zeros((), np.float32),
    "six": np.full((), 6, np.float32),
    "positions": np.arange(INNER, dtype=np.float32),
}


def used(nodes: list[onnx.NodeProto]) -> dict[str, NDArray[np.float32]]:
    read = {name for item in nodes for name in item.input}
    return {name: values for name, values in CONSTANTS.items() if name in read}


@pytest.mark.parametrize("name", BLOCKS)
def test_reordered_graph_computes_the_same(make_graph, run_graph, name: str):
    graph = make_graph(BLOCKS[name], ACTIVATIONS, used(BLOCKS[name]))
    before = run_graph(graph, x=X)
    [weight] = reorder_inner_channels(graph, find_quantizable_weights(graph))
    assert weight in ("second", "second_t", "back")
    after = run_graph(graph, x=X)
    # Two layers of whole numbers pass 2^24, where float32 rounds sums: then in the last digits.
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())


def test_rows_keep_their_contents_and_give_finer_scales(make_graph):
    graph = make_graph(BLOCKS["bias and relu"], ACTIVATIONS, used(BLOCKS["bias and relu"]))
    reorder_inner_channels(graph, find_quantizable_weights(graph))
    found = stored(graph, "second").astype(np.float32)
    assert sorted(map(tuple, found)) == sorted(map(tuple, SECOND))
    assert saturation_free_scales(found).mean() < saturation_free_scales(SECOND).mean()


def test_weights_on_a_grid_keep_their_order(make_graph):
    constants = {**used(BLOCKS["bias and relu"]), "second": RANDOM.integers(-9, 10, (INNER, 5))}
    constants["second"] = constants["second"].astype(np.float32) * np.float32(0.013)
    graph = make_graph(BLOCKS["bias and relu"], ACTIVATIONS, constants)
    assert reorder_inner_channels(graph, find_quantizable_weights(graph)) == ()


def test_bias_of_equal_numbers_is_shared_as_before(make_graph):
    nodes = BLOCKS["bias that others read too"]
    constants = {**used(nodes), "bias": np.zeros(INNER, np.float32)}
    graph = make_graph(nodes, ACTIVATIONS, constants)
    assert reorder_inner_channels(graph, find_quantizable_weights(graph)) == ("second",)
    assert {item.name for item in graph.graph.initializer} == set(constants)


def test_gelu_with_a_bias_is_a_block(make_graph, run_graph):
    nodes = [
        node("MatMul", ["x", "first"], "a"),
        node("BiasGelu", ["a", "bias"], "h"),
        LAST,
    ]
    graph = make_graph(nodes, ACTIVATIONS, used(nodes))
    before = run_graph(graph, x=X)
    assert reorder_inner_channels(graph, find_quantizable_weights(graph)) == ("second",)
    # GELU is not a whole number, so here the order of the sums shows in the last digits.
    np.testing.assert_allclose(run_graph(graph, x=X), before, rtol=1e-5, atol=1e-3)


FIXED = {
    "channels are mixed in between": [
        node("MatMul", ["x", "first"], "a"),
        node("Softmax", ["a"], "h"),
        LAST,
    ],
    "something else reads the channels": [
        node("MatMul", ["x", "first"], "a"),
        node("Relu", ["a"], "h"),
        node("MatMul", ["h", "second"], "z"),
        node("ReduceMax", ["h"], "peak"),
        node("Add", ["z", "peak"], "y"),
    ],
    "the channels are an input": [node("MatMul", ["x", "first"], "y")],
    "the first weight has another reader": [
        node("MatMul", ["x", "first"], "h"),
        node("MatMul", ["h", "second"], "z"),
        node("MatMul", ["x", "first"], "again"),
        node("ReduceMax", ["again"], "peak"),
        node("Add", ["z", "peak"], "y"),
    ],
    "a residual of activations joins": [
        node("MatMul", ["x", "first"], "a"),
        node("Tile", ["x", "repeats"], "wide"),
        node("Add", ["a", "wide"], "h"),
        LAST,
    ],
    "a constant for each row joins": [
        node("MatMul", ["x", "first"], "a"),
        node("Add", ["a", "rows"], "h"),
        LAST,
    ],
}


@pytest.mark.parametrize("name", FIXED)
def test_matrix_keeps_its_order_when(make_graph, name: str):
    extra = {"rows": np.ones((3, 1), np.float32)} if "row" in name else {}
    if "residual" in name:
        extra = {"repeats": np.array([1, 4], np.int64)}
    graph = make_graph(FIXED[name], ACTIVATIONS, {**used(FIXED[name]), **extra})
    before = graph.SerializeToString()
    assert reorder_inner_channels(graph, find_quantizable_weights(graph)) == ()
    assert graph.SerializeToString() == before


def test_channels_that_are_an_output_of_the_graph_keep_their_order(make_graph):
    nodes = BLOCKS["bias and relu"]
    graph = make_graph(nodes, ACTIVATIONS, used(nodes))
    graph.graph.output.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, None))
    assert reorder_inner_channels(graph, find_quantizable_weights(graph)) == ()


def test_weight_that_is_not_finite_is_named(make_graph):
    nodes = BLOCKS["bias and relu"]
    broken = np.where(SECOND[0, 0] == SECOND, np.inf, SECOND).astype(np.float32)
    graph = make_graph(nodes, ACTIVATIONS, {**used(nodes), "second": broken})
    with pytest.raises(ValueError, match="weight second holds NaN or infinity"):
        reorder_inner_channels(graph, find_quantizable_weights(graph))
