from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compressor.quantization import exactness
from compressor.quantization.activations import StaticGrid
from compressor.quantization.exactness import check_integers
from compressor.quantization.rewrite import Activations, quantize_sites
from compressor.quantization.saturation import saturating_product
from compressor.quantization.sites import find_sites

RANDOM = np.random.default_rng(0)
K, N = 37, 6
FLOATS = {"x": (TensorProto.FLOAT, None)}
X = RANDOM.normal(size=(3, 5, K)).astype(np.float32)


def contrib(operator: str, inputs: list[str]) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, ["y"], name="product", domain="com.microsoft")


def integer_graph(make_graph, weight: np.ndarray) -> onnx.ModelProto:
    scale = np.array(0.1, np.float32)
    constants = {"w": weight, "s": scale, "z": np.array(128, np.uint8), "ws": np.ones(1, "f4")}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        contrib("MatMulIntegerToFloat", ["q", "w", "s", "ws", "z"]),
    ]
    return make_graph(nodes, FLOATS, constants)


@pytest.mark.parametrize("activations", ["per_token", "per_tensor", {"x": StaticGrid(0.02, 101)}])
@pytest.mark.parametrize("inner", [K, K - 1])
def test_products_of_this_package_are_exact_on_every_cpu(
    make_graph, activations: Activations, inner: int
):
    weight = RANDOM.standard_t(2, size=(inner, N)).astype(np.float32)
    graph = make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], FLOATS, {"w": weight})
    quantize_sites(graph, find_sites(graph), activations=activations)
    [check] = check_integers(graph, [{"x": X[..., :inner]}, {"x": X[0, :1, :inner]}])
    assert (check.wrong, check.saturated) == (0, 0)
    # 16 rows of activations, 5 + 1 random or full ones and two for each of 6 columns to overflow;
    # each number twice: the sum, and what the operator makes of it.
    assert check.compared == 2 * N * (15 + 1 + 5 + 1 + 2 * N)


def test_weights_of_full_range_saturate_without_vnni(make_graph):
    weight = np.full((K, N), 127, np.int8)
    [check] = check_integers(integer_graph(make_graph, weight), [])
    assert check.saturated > 0


def test_a_runtime_that_saturates_is_found_out(make_graph, monkeypatch: pytest.MonkeyPatch):
    # One of the two sides saturates, the other does not: which one makes no difference here.
    monkeypatch.setattr(exactness, "exact_product", saturating_product)
    weight = np.full((K, N), 127, np.int8)
    [check] = check_integers(integer_graph(make_graph, weight), [{"x": 99 * X}])
    assert check.wrong > 0


def test_every_row_of_an_int8_table_is_looked_up(make_graph):
    table = RANDOM.normal(size=(11, 4)).astype(np.float32)
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    graph = make_graph([node], {"ids": (TensorProto.INT64, None)}, {"table": table})
    quantize_sites(graph, find_sites(graph), activations="per_token")
    [check] = check_integers(graph, [])
    assert (check.operator, check.compared, check.wrong) == ("Gather", 44, 0)


@pytest.mark.parametrize("operator", ["QGemm", "QLinearMatMul", "QAttention"])
def test_an_operator_that_is_not_known_is_not_passed_over(make_graph, operator: str):
    graph = make_graph([contrib(operator, ["x", "w"])], FLOATS, {"w": np.ones((K, N), np.int8)})
    with pytest.raises(ValueError, match=f"{operator} product is not recomputed here"):
        check_integers(graph, [])


def test_weights_that_are_computed_are_refused(make_graph):
    graph = make_graph([contrib("MatMulInteger", ["x", "x"])], FLOATS, {})
    with pytest.raises(ValueError, match="MatMulInteger product has no int8 matrix"):
        check_integers(graph, [])


def test_weights_with_a_zero_point_are_refused(make_graph):
    constants = {"w": np.ones((K, N), np.int8), "s": np.ones(1, "f4"), "z": np.ones(1, np.int8)}
    graph = make_graph([contrib("DynamicQuantizeMatMul", ["x", "w", "s", "z"])], FLOATS, constants)
    with pytest.raises(ValueError, match="has asymmetric weights"):
        check_integers(graph, [])


def test_sums_that_pass_32_bits_are_refused():
    weight = np.full((2**17, 1), 127, np.int8)
    with pytest.raises(ValueError, match="does not fit into 32 bits"):
        exactness._sums(np.full((1, 2**17), 255, np.uint8), weight, np.zeros((), np.uint8))
