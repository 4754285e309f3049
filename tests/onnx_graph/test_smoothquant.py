from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compressor.onnx_graph.int8_weights import store_int8_weights
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
from compressor.onnx_graph.smoothquant import (
    channel_factors,
    observed_factors,
    smooth_normalized_inputs,
    smooth_observed_inputs,
)

MakeGraph = Callable[..., onnx.ModelProto]
RANDOM = np.random.default_rng(2)
WEIGHT = RANDOM.normal(size=(64, 32)).astype(np.float32)
TOKENS = RANDOM.normal(size=(3, 20, 64)).astype(np.float32)
EVEN = np.ones(64, np.float32)
NONE = np.zeros(64, np.float32)
UNEVEN = np.where(np.arange(64) == 5, 20, 1).astype(np.float32)  # one channel of many


def layer(make_graph: MakeGraph, scale: NDArray[np.float32], extra: str = "") -> onnx.ModelProto:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["n"], epsilon=1e-5),
        helper.make_node("MatMul", ["n", "w"], ["h"]),
        *([helper.make_node("MatMul", ["x", "w"], ["g"])] if extra == "shared" else []),
        helper.make_node("Add", ["h", "g" if extra == "shared" else "h"], ["y"]),
    ]
    constants = {"w": WEIGHT, "scale": scale, "shift": NONE}
    return make_graph(nodes, {"x": (TensorProto.FLOAT, ["b", "s", 64])}, constants)


def int8_error(model: onnx.ModelProto, run_graph: Any, expected: NDArray[np.float32]) -> float:
    store_int8_weights(model, find_quantizable_weights(model), activations="per_token")
    return float(np.sqrt(np.mean(np.square(run_graph(model, x=TOKENS) - expected))))


def test_float_graph_computes_what_it_did(make_graph: MakeGraph, run_graph: Any):
    model = layer(make_graph, UNEVEN)
    expected = run_graph(model, x=TOKENS)
    assert smooth_normalized_inputs(model, find_quantizable_weights(model)) == ("w",)
    assert [node.op_type for node in model.graph.node] == [
        "LayerNormalization",
        "Mul",
        "MatMul",
        "Add",
    ]
    np.testing.assert_allclose(run_graph(model, x=TOKENS), expected, rtol=1e-5, atol=1e-3)


def test_int8_error_shrinks_where_one_channel_is_large(make_graph: MakeGraph, run_graph: Any):
    plain, smooth = layer(make_graph, UNEVEN), layer(make_graph, UNEVEN)
    expected = run_graph(plain, x=TOKENS)
    smooth_normalized_inputs(smooth, find_quantizable_weights(smooth))
    before = int8_error(plain, run_graph, expected)
    assert int8_error(smooth, run_graph, expected) < 0.8 * before


def test_channels_that_are_alike_stay_as_they_are(make_graph: MakeGraph):
    model = layer(make_graph, EVEN)
    before = model.SerializeToString(deterministic=True)
    assert smooth_normalized_inputs(model, find_quantizable_weights(model)) == ()
    assert model.SerializeToString(deterministic=True) == before


def test_matrix_with_other_readers_stays_as_it_is(make_graph: MakeGraph):
    model = layer(make_graph, UNEVEN, "shared")
    assert smooth_normalized_inputs(model, find_quantizable_weights(model)) == ()


def test_factors_are_the_square_roots_of_the_sizes_around_one():
    scale = np.array([1, 16, 1, 1], np.float32)
    factors = channel_factors(scale, np.zeros(4, np.float32), np.full((4, 2), 0.1, np.float32))
    # sizes 1, 16, 1, 1 have the geometric mean 2; their square roots are 1, 4, 1, 1
    expected = np.array([1, 4, 1, 1]) / np.sqrt(2)
    np.testing.assert_allclose(factors, expected, rtol=1e-6)


def test_normalisation_without_any_size_is_left_alone():
    assert channel_factors(NONE, NONE, WEIGHT) is None


def test_weight_that_is_not_finite_is_named(make_graph: MakeGraph):
    model = layer(make_graph, UNEVEN)
    broken = WEIGHT.copy()
    broken[0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(broken, "w"))
    with pytest.raises(ValueError, match="weight w holds NaN"):
        smooth_normalized_inputs(model, find_quantizable_weights(model))


def test_observed_channels_are_divided_by_the_published_factors():
    largest = np.array([100.0, 1.0, 1.0, 0.0], np.float32)
    weight = np.array([[0.1, -0.2], [0.4, 0.1], [0.4, 0.4], [0.3, 0.3]], np.float32)
    factors = observed_factors(largest, weight, 0.5)
    assert factors is not None
    # sqrt(100 / 0.2), sqrt(1 / 0.4) twice, over their geometric mean; the last was never seen.
    published = np.sqrt([100 / 0.2, 1 / 0.4, 1 / 0.4])
    expected = [*(published / np.exp(np.log(published).mean())), 1.0]
    np.testing.assert_allclose(factors, expected, rtol=1e-5)


def test_channels_of_one_size_are_left_alone():
    weight = np.random.default_rng(0).choice([-0.5, 0.5], size=(8, 3)).astype(np.float32)
    assert observed_factors(np.ones(8, np.float32), weight, 0.5) is None


def test_channels_that_were_never_seen_are_left_alone():
    assert observed_factors(np.zeros(2, np.float32), np.ones((2, 1), np.float32), 0.5) is None


def test_observed_smoothing_refuses_weights_that_are_not_finite():
    weight = np.array([[np.nan], [1.0]], np.float32)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        observed_factors(np.ones(2, np.float32), weight, 0.5)


def test_observed_smoothing_leaves_the_float_graph_what_it_was(make_graph, run_graph):
    random = np.random.default_rng(1)
    channels = np.where(np.arange(16) < 2, 50, 1).astype(np.float32)
    x = (random.normal(size=(9, 16)) * channels).astype(np.float32)
    weight = random.normal(size=(16, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Gelu", ["x"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    graph = make_graph(nodes, {"x": (TensorProto.FLOAT, None)}, {"w": weight})
    before = run_graph(graph, x=x)
    largest = {"h": np.abs(x).max(axis=0)}
    assert smooth_observed_inputs(graph, find_quantizable_weights(graph), largest, 0.5) == ("w",)
    assert [node.op_type for node in graph.graph.node] == ["Gelu", "Mul", "MatMul"]
    np.testing.assert_allclose(run_graph(graph, x=x), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("together", "values"), [(True, 1), (False, 2)])
def test_products_of_one_input_read_one_smoothed_value_where_they_should(
    make_graph, run_graph, together: bool, values: int
):
    random = np.random.default_rng(2)
    channels = np.where(np.arange(16) < 2, 50, 1).astype(np.float32)
    x = (random.normal(size=(9, 16)) * channels).astype(np.float32)
    matrices = {name: random.normal(size=(16, 5)).astype(np.float32) for name in ("w", "v")}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["x", "v"], ["b"]),
        helper.make_node("Sub", ["a", "b"], ["y"]),
    ]
    graph = make_graph(nodes, {"x": (TensorProto.FLOAT, None)}, matrices)
    before = run_graph(graph, x=x)
    largest = {"x": np.abs(x).max(axis=0)}
    smoothed = smooth_observed_inputs(
        graph, find_quantizable_weights(graph), largest, 0.5, together=together
    )
    assert smoothed == ("w", "v")
    products = [node for node in graph.graph.node if node.op_type == "MatMul"]
    assert len({node.input[0] for node in products}) == values
    assert [node.op_type for node in graph.graph.node].count("Mul") == values
    np.testing.assert_allclose(run_graph(graph, x=x), before, rtol=1e-4, atol=1e-3)
