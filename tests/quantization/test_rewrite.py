from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.quantization.affine import max_pair_sum
from compressor.quantization.rewrite import quantize_sites
from compressor.quantization.sites import find_sites

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


def test_product_equals_the_integer_reference(make_graph, run_graph, integer_product):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    quantize_sites(graph, find_sites(graph))
    found = constants(graph)
    expected = integer_product(X, found["w_int8"], found["w_scale"])
    # The integers are the same; the one rounding to float32 differs in its order of factors.
    np.testing.assert_allclose(run_graph(graph, x=X), expected, rtol=1e-5, atol=1e-5)


def test_product_of_activations_with_three_axes_keeps_them(make_graph, run_graph, integer_product):
    activations = RANDOM.normal(size=(2, 3, K)).astype(np.float32)
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    quantize_sites(graph, find_sites(graph))
    found = constants(graph)
    expected = integer_product(activations, found["w_int8"], found["w_scale"])
    np.testing.assert_allclose(run_graph(graph, x=activations), expected, rtol=1e-5, atol=1e-5)


def test_weights_are_stored_as_int8_and_the_floats_are_gone(make_graph):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    quantize_sites(graph, find_sites(graph))
    found = constants(graph)
    assert {name: (item.dtype, item.shape) for name, item in found.items()} == {
        "w_int8": (np.int8, (K, N)),
        "w_scale": (np.float32, (N,)),
    }
    assert max_pair_sum(found["w_int8"]) <= 128
    assert operators(graph) == ["DynamicQuantizeMatMul"]


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
def test_gemm_keeps_its_meaning(make_graph, run_graph, name: str):
    attributes, weight, bias, expected = GEMMS[name]
    inputs, stored = (["x", "w"], {"w": weight})
    if bias is not None:
        inputs, stored = ([*inputs, "b"], {**stored, "b": bias})
    graph = make_graph([node("Gemm", inputs, **attributes)], ACTIVATIONS, stored)
    quantize_sites(graph, find_sites(graph))
    # Two 8-bit roundings on sums of 16 terms: 1% of the largest value, and far less than a mistake.
    assert np.abs(run_graph(graph, x=X) - expected).max() < 0.03 * np.abs(expected).max()
    assert "DynamicQuantizeMatMul" in operators(graph)


def test_gemm_with_a_computed_third_input_adds_it_afterwards(make_graph, run_graph):
    nodes = [node("Neg", ["c"], "term"), node("Gemm", ["x", "w", "term"], beta=2.0)]
    inputs = {**ACTIVATIONS, "c": (TensorProto.FLOAT, None)}
    graph = make_graph(nodes, inputs, {"w": WEIGHT})
    quantize_sites(graph, find_sites(graph))
    expected = X @ WEIGHT - 2 * BIAS
    found = run_graph(graph, x=X, c=BIAS)
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


def test_fused_product_keeps_its_factor_and_its_transposed_weight(make_graph, run_graph):
    graph = make_graph(
        [node("FusedMatMul", ["x", "w"], transB=1, alpha=0.25)],
        ACTIVATIONS,
        {"w": WEIGHT.T.copy()},
    )
    quantize_sites(graph, find_sites(graph))
    expected = 0.25 * X @ WEIGHT
    assert np.abs(run_graph(graph, x=X) - expected).max() < 0.03 * np.abs(expected).max()


def test_weight_of_two_products_is_stored_once(make_graph, run_graph):
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("MatMul", ["x", "w"], "b"),
        node("Sub", ["a", "b"]),
    ]
    graph = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT})
    quantize_sites(graph, find_sites(graph))
    assert sorted(constants(graph)) == ["w_int8", "w_scale"]
    assert not run_graph(graph, x=X).any()


def test_activations_of_zeros_give_the_bias(make_graph, run_graph):
    graph = make_graph([node("Gemm", ["x", "w", "b"])], ACTIVATIONS, {"w": WEIGHT, "b": BIAS})
    quantize_sites(graph, find_sites(graph))
    np.testing.assert_array_equal(run_graph(graph, x=np.zeros_like(X))[0], BIAS)


def test_table_gives_rows_within_half_a_scale(make_graph, run_graph):
    table = RANDOM.normal(size=(7, 4)).astype(np.float32)
    ids = np.array([[0, 6, 3], [3, -1, 1]], np.int64)  # negative indices count from the end
    graph = make_graph(
        [node("Gather", ["w", "ids"])], {"ids": (TensorProto.INT64, None)}, {"w": table}
    )
    quantize_sites(graph, find_sites(graph))
    found = constants(graph)
    assert (found["w_int8"].dtype, found["w_scale"].shape) == (np.int8, (7, 1))
    error = np.abs(run_graph(graph, ids=ids) - table[ids])
    assert (error <= 0.5001 * found["w_scale"][ids]).all()


def test_new_names_do_not_collide_with_old_ones(make_graph, run_graph):
    nodes = [node("MatMul", ["x", "w"], "a"), node("Mul", ["a", "w_scale"])]
    stored = {"w": WEIGHT, "w_scale": np.full(N, 2, np.float32)}
    graph = make_graph(nodes, ACTIVATIONS, stored)
    quantize_sites(graph, find_sites(graph))
    expected = 2 * X @ WEIGHT
    assert np.abs(run_graph(graph, x=X) - expected).max() < 0.03 * np.abs(expected).max()


def test_site_with_an_obstacle_is_refused(make_graph):
    graph = make_graph([node("MatMul", ["w", "x"])], ACTIVATIONS, {"w": WEIGHT})
    with pytest.raises(ValueError, match="weight w cannot be int8: it is the left-hand side"):
        quantize_sites(graph, find_sites(graph))


def test_weight_that_is_not_finite_is_named(make_graph):
    broken = WEIGHT.copy()
    broken[2, 1] = np.nan
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": broken})
    with pytest.raises(ValueError, match="weight w holds NaN"):
        quantize_sites(graph, find_sites(graph))
