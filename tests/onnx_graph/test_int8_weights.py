from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import norm

from compressor.onnx_graph.affine import max_pair_sum
from compressor.onnx_graph.int8_weights import store_int8_weights
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
from compressor.onnx_graph.quantized_activations import ScaleAndZeroPoint, SignedScale

RANDOM = np.random.default_rng(1)
K, N = 16, 5
X = RANDOM.normal(size=(3, K)).astype(np.float32)
WEIGHT = RANDOM.normal(size=(K, N)).astype(np.float32)
BIAS = RANDOM.normal(size=N).astype(np.float32)
ACTIVATIONS = {"x": (TensorProto.FLOAT, None)}


def node(operator: str, inputs: list[str], output: str = "y", **attributes):
    domain = "com.microsoft" if operator == "FusedMatMul" else ""
    return helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes)


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def operators(model: onnx.ModelProto) -> list[str]:
    return [item.op_type for item in model.graph.node]


@pytest.fixture(params=["per_tensor", "per_token", {"x": ScaleAndZeroPoint(0.03, 120)}])
def quantize(request: pytest.FixtureRequest) -> Callable[[onnx.ModelProto], None]:
    """Return a function that quantizes every weight of a graph, in each way in turn."""
    return lambda graph: store_int8_weights(
        graph, find_quantizable_weights(graph), activations=request.param
    )


def test_product_equals_the_integer_reference(make_graph, run_graph, integer_matmul):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    store_int8_weights(graph, find_quantizable_weights(graph), activations="per_tensor")
    found = constants(graph)
    expected = integer_matmul(X, found["w_int8"], found["w_scale"])
    # The integers are the same; the one rounding to float32 differs in its order of factors.
    np.testing.assert_allclose(run_graph(graph, x=X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, K), (2, 3, K), (2, 1, 3, K)])
def test_product_per_token_equals_the_integer_reference(
    make_graph, run_graph, token_matmul, shape: tuple[int, ...]
):
    activations = RANDOM.normal(size=shape).astype(np.float32)
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    store_int8_weights(graph, find_quantizable_weights(graph), activations="per_token")
    found = constants(graph)
    expected = token_matmul(activations, found["w_int8"], found["w_scale"])
    np.testing.assert_allclose(run_graph(graph, x=activations), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("zero_point", [0, 77, 255])
def test_product_with_a_fixed_grid_equals_the_integer_reference_and_clips(
    make_graph, run_graph, zero_point: int
):
    activations = (3 * RANDOM.normal(size=(2, 3, K))).astype(np.float32)
    nodes = [node("Gemm", ["x", "w", "b"])]
    graph = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT, "b": BIAS})
    store_int8_weights(
        graph,
        find_quantizable_weights(graph),
        activations={"x": ScaleAndZeroPoint(0.02, zero_point)},
    )
    found = constants(graph)
    integers = np.clip(np.rint(activations[0] / np.float32(0.02)) + zero_point, 0, 255)
    assert np.any(integers == 255) or np.any(integers == 0)
    sums = (integers.astype(np.int64) - zero_point) @ found["w_int8"].astype(np.int64)
    expected = sums * (np.float64(np.float32(0.02)) * found["w_scale"]) + BIAS
    np.testing.assert_allclose(run_graph(graph, x=activations[0]), expected, rtol=1e-5, atol=1e-5)
    assert operators(graph) == ["QuantizeLinear", "MatMulIntegerToFloat"]


def test_activations_with_a_fixed_grid_are_quantized_once_for_all_their_products(
    make_graph, run_graph
):
    nodes = [node("MatMul", ["x", "w"], "a"), node("MatMul", ["x", "v"], "c")]
    nodes.append(node("Add", ["a", "c"]))
    graph = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT, "v": WEIGHT[::-1].copy()})
    store_int8_weights(
        graph, find_quantizable_weights(graph), activations={"x": ScaleAndZeroPoint(0.02, 128)}
    )
    assert operators(graph).count("QuantizeLinear") == 1
    assert np.abs(run_graph(graph, x=X) - X @ (WEIGHT + WEIGHT[::-1])).max() < 0.5


def test_activations_without_a_grid_get_a_scale_for_each_token(make_graph, run_graph):
    nodes = [node("MatMul", ["x", "w"], "a"), node("Tanh", ["a"], "t"), node("MatMul", ["t", "v"])]
    graph = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT, "v": WEIGHT[:N].copy()})
    store_int8_weights(
        graph, find_quantizable_weights(graph), activations={"t": ScaleAndZeroPoint(1 / 127, 127)}
    )
    assert operators(graph).count("ReduceMax") == 1
    assert np.abs(run_graph(graph, x=X) - np.tanh(X @ WEIGHT) @ WEIGHT[:N]).max() < 0.3


@pytest.mark.parametrize(
    ("operator", "zero_point", "smallest_range"),
    [("Gelu", 32, 0.1701 * 223 / 32), ("Relu", 0, 1e-38)],
)
def test_product_after_an_activation_uses_the_levels_below_zero(
    make_graph, run_graph, token_matmul, operator, zero_point, smallest_range
):
    # The first row is all negative: what GELU leaves of it has to stay on the grid.
    activations = np.stack([-np.abs(X[0]), X[1], 9 * X[2]])
    nodes = [node(operator, ["x"], "h"), node("MatMul", ["h", "w"])]
    graph = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT})
    store_int8_weights(graph, find_quantizable_weights(graph), activations="per_token")
    found = constants(graph)
    gelu = activations * norm.cdf(activations).astype(np.float32)
    hidden = gelu if operator == "Gelu" else np.maximum(activations, 0)
    expected = token_matmul(hidden, found["w_int8"], found["w_scale"], zero_point, smallest_range)
    result = run_graph(graph, x=activations)
    # ONNX Runtime approximates erf to 1e-7: a value at the border of two integers may fall to the
    # other one, which moves a sum by one step of its row times one weight.
    one_step = np.abs(WEIGHT).max() * 9 * np.abs(X).max() / (255 - zero_point)
    assert np.abs(result - expected).max() < 1.01 * one_step
    assert np.median(np.abs(result - expected)) < 1e-5


def test_row_per_token_is_bitwise_the_same_whatever_the_other_rows_are(make_graph, run_graph):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    store_int8_weights(graph, find_quantizable_weights(graph), activations="per_token")
    alone = run_graph(graph, x=X[:1])
    beside_large_ones = run_graph(graph, x=np.concatenate([X[:1], 1000 * X[1:]]))
    np.testing.assert_array_equal(beside_large_ones[:1], alone)


def test_small_rows_beside_large_ones_are_as_precise_as_alone(make_graph, run_graph):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    store_int8_weights(graph, find_quantizable_weights(graph), activations="per_token")
    scaled = X * np.array([[1e-6], [1.0], [1e6]], np.float32)
    exact = scaled @ WEIGHT
    error = np.abs(run_graph(graph, x=scaled) - exact).max(axis=1)
    assert (error < 0.03 * np.abs(exact).max(axis=1)).all()


def test_activations_that_two_products_read_are_quantized_once(make_graph, run_graph):
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("MatMul", ["x", "v"], "b"),
        node("Add", ["a", "b"]),
    ]
    graph = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT, "v": -2 * WEIGHT})
    store_int8_weights(graph, find_quantizable_weights(graph), activations="per_token")
    assert operators(graph).count("QuantizeLinear") == 1
    # Twice the scale and the same integers: what is left is exactly minus one product.
    expected = -(X @ WEIGHT)
    assert np.abs(run_graph(graph, x=X) - expected).max() < 0.03 * np.abs(expected).max()


def test_axes_are_an_attribute_where_the_operator_set_wants_that(make_graph, run_graph):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    graph.opset_import[0].version = 17
    graph.ir_version = 8
    store_int8_weights(graph, find_quantizable_weights(graph), activations="per_token")
    expected = X @ WEIGHT
    assert np.abs(run_graph(graph, x=X) - expected).max() < 0.03 * np.abs(expected).max()


def test_weights_are_stored_as_int8_and_the_floats_are_gone(make_graph):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    store_int8_weights(graph, find_quantizable_weights(graph), activations="per_tensor")
    found = constants(graph)
    assert {name: (item.dtype, item.shape) for name, item in found.items()} == {
        "w_int8": (np.int8, (K, N)),
        "w_scale": (np.float32, (N,)),
    }
    assert max_pair_sum(found["w_int8"]) <= 128
    assert operators(graph) == ["DynamicQuantizeMatMul"]


def test_constants_per_token_are_single_numbers(make_graph):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    store_int8_weights(graph, find_quantizable_weights(graph), activations="per_token")
    shapes = {name: (item.dtype, item.shape) for name, item in constants(graph).items()}
    assert shapes == {
        "w_int8": (np.int8, (K, N)),
        "w_scale": (np.float32, (N,)),
        "token_scale": (np.float32, ()),
        "token_zero_point": (np.uint8, ()),
        "token_smallest_range": (np.float32, ()),
        "token_axis": (np.int64, (1,)),
    }


GEMMS = {
    "plain": ({}, WEIGHT, None, X @ WEIGHT),
    "with bias": ({}, WEIGHT, BIAS, X @ WEIGHT + BIAS),
    "with a bias of two axes": ({}, WEIGHT, BIAS[None], X @ WEIGHT + BIAS),
    "with transposed weight": ({"transB": 1}, WEIGHT.T.copy(), BIAS, X @ WEIGHT + BIAS),
    "with alpha": ({"alpha": -0.5}, WEIGHT, BIAS, -0.5 * X @ WEIGHT + BIAS),
    "with beta": ({"beta": 3.0}, WEIGHT, BIAS, X @ WEIGHT + 3 * BIAS),
    "with beta of zero": ({"beta": 0.0}, WEIGHT, BIAS, X @ WEIGHT),
    "with a single number": ({}, WEIGHT, np.array([2], np.float32), X @ WEIGHT + 2),
    "with a column": ({"beta": 2.0}, WEIGHT, X[:, :1].copy(), X @ WEIGHT + 2 * X[:, :1]),
}


@pytest.mark.parametrize("name", GEMMS)
def test_gemm_keeps_its_meaning(make_graph, quantize, run_graph, name: str):
    attributes, weight, bias, expected = GEMMS[name]
    inputs, stored = (["x", "w"], {"w": weight})
    if bias is not None:
        inputs, stored = ([*inputs, "b"], {**stored, "b": bias})
    graph = make_graph([node("Gemm", inputs, **attributes)], ACTIVATIONS, stored)
    quantize(graph)
    # Two 8-bit roundings on sums of 16 terms: 1% of the largest value, and far less than a mistake.
    assert np.abs(run_graph(graph, x=X) - expected).max() < 0.03 * np.abs(expected).max()
    assert not {"MatMul", "Gemm"} & set(operators(graph))


def test_gemm_with_a_computed_third_input_adds_it_afterwards(make_graph, quantize, run_graph):
    nodes = [node("Neg", ["c"], "term"), node("Gemm", ["x", "w", "term"], beta=2.0)]
    inputs = {**ACTIVATIONS, "c": (TensorProto.FLOAT, None)}
    graph = make_graph(nodes, inputs, {"w": WEIGHT})
    quantize(graph)
    expected = X @ WEIGHT - 2 * BIAS
    found = run_graph(graph, x=X, c=BIAS)
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


def test_fused_product_keeps_its_factor_and_its_transposed_weight(make_graph, quantize, run_graph):
    graph = make_graph(
        [node("FusedMatMul", ["x", "w"], transB=1, alpha=0.25)],
        ACTIVATIONS,
        {"w": WEIGHT.T.copy()},
    )
    quantize(graph)
    expected = 0.25 * X @ WEIGHT
    assert np.abs(run_graph(graph, x=X) - expected).max() < 0.03 * np.abs(expected).max()


def test_weight_of_two_products_is_stored_once(make_graph, quantize, run_graph):
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("MatMul", ["x", "w"], "b"),
        node("Sub", ["a", "b"]),
    ]
    graph = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT})
    quantize(graph)
    stored = [name for name in constants(graph) if name.startswith("w")]
    assert stored == ["w_int8", "w_scale"]
    assert not run_graph(graph, x=X).any()


def test_activations_of_zeros_give_the_bias(make_graph, quantize, run_graph):
    graph = make_graph([node("Gemm", ["x", "w", "b"])], ACTIVATIONS, {"w": WEIGHT, "b": BIAS})
    quantize(graph)
    np.testing.assert_array_equal(run_graph(graph, x=np.zeros_like(X))[0], BIAS)


def test_table_gives_rows_within_half_a_scale(make_graph, quantize, run_graph):
    table = RANDOM.normal(size=(7, 4)).astype(np.float32)
    ids = np.array([[0, 6, 3], [3, -1, 1]], np.int64)  # negative indices count from the end
    graph = make_graph(
        [node("Gather", ["w", "ids"])], {"ids": (TensorProto.INT64, None)}, {"w": table}
    )
    quantize(graph)
    found = constants(graph)
    assert (found["w_int8"].dtype, found["w_scale"].shape) == (np.int8, (7, 1))
    error = np.abs(run_graph(graph, ids=ids) - table[ids])
    assert (error <= 0.5001 * found["w_scale"][ids]).all()


def test_new_names_do_not_collide_with_old_ones(make_graph, quantize, run_graph):
    nodes = [node("MatMul", ["x", "w"], "a"), node("Mul", ["a", "w_scale"])]
    stored = {"w": WEIGHT, "w_scale": np.full(N, 2, np.float32)}
    graph = make_graph(nodes, ACTIVATIONS, stored)
    quantize(graph)
    expected = 2 * X @ WEIGHT
    assert np.abs(run_graph(graph, x=X) - expected).max() < 0.03 * np.abs(expected).max()


def test_site_with_an_obstacle_is_refused(make_graph, quantize):
    graph = make_graph([node("MatMul", ["w", "x"])], ACTIVATIONS, {"w": WEIGHT})
    with pytest.raises(ValueError, match="weight w cannot be int8: it is the left-hand side"):
        quantize(graph)


def test_weight_that_is_not_finite_is_named(make_graph, quantize):
    broken = WEIGHT.copy()
    broken[2, 1] = np.nan
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": broken})
    with pytest.raises(ValueError, match="weight w holds NaN"):
        quantize(graph)


def test_a_signed_scale_puts_pairs_before_a_float_matmul_and_its_bias_behind(make_graph, run_graph):
    model = make_graph([node("Gemm", ["x", "w", "bias"])], ACTIVATIONS, {"w": WEIGHT, "bias": BIAS})
    store_int8_weights(model, find_quantizable_weights(model), activations={"x": SignedScale(0.03)})
    assert operators(model) == [
        "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul", "Add",
    ]  # fmt: skip
    stored = constants(model)
    rounded = np.clip(np.rint(X / np.float32(0.03)), -128, 127) * 0.03
    expected = rounded @ (stored["w_int8"] * stored["w_scale"]) + BIAS
    np.testing.assert_allclose(run_graph(model, x=X), expected, rtol=1e-4, atol=1e-5)
    assert max_pair_sum(stored["w_int8"]) <= 128  # safe where 16 bits hold two products


def test_two_readers_share_the_pairs_of_a_signed_scale(make_graph, run_graph):
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("MatMul", ["x", "w"], "b"),
        node("Add", ["a", "b"]),
    ]
    model = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT})
    store_int8_weights(model, find_quantizable_weights(model), activations={"x": SignedScale(0.03)})
    assert operators(model).count("DequantizeLinear") == 2
    assert np.abs(run_graph(model, x=X) - 2 * X @ WEIGHT).max() < 0.5


def test_activations_without_a_signed_scale_keep_one_for_each_token(make_graph):
    nodes = [node("MatMul", ["x", "w"], "a"), node("Relu", ["a"], "b"), node("MatMul", ["b", "v"])]
    model = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT, "v": WEIGHT.T.copy()})
    store_int8_weights(model, find_quantizable_weights(model), activations={"x": SignedScale(0.03)})
    assert operators(model).count("MatMul") == 1
    assert operators(model).count("MatMulIntegerToFloat") == 1
