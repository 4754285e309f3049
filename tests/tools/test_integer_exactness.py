from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compressor.models.onnx_model import optimized_graph
from compressor.onnx_graph.embedding_tables import NarrowTables, store_narrow_tables
from compressor.onnx_graph.int8_weights import Activations, store_int8_weights
from compressor.onnx_graph.onnx_file import save_graph
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
from compressor.onnx_graph.quantized_activations import ScaleAndZeroPoint
from compressor.onnx_graph.saturation import saturating_matmul
from compressor.onnx_graph.weight_only import PackedForm, pack_matrices

RANDOM = np.random.default_rng(0)
K, N = 37, 6
FLOATS = {"x": (TensorProto.FLOAT, None)}
X = RANDOM.normal(size=(3, 5, K)).astype(np.float32)


@pytest.fixture(scope="module")
def exactness(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("integer_exactness")


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


@pytest.mark.parametrize(
    "activations", ["per_token", "per_tensor", {"x": ScaleAndZeroPoint(0.02, 101)}]
)
@pytest.mark.parametrize("inner", [K, K - 1])
def test_products_of_this_package_are_exact_on_every_cpu(
    exactness: ModuleType, make_graph, activations: Activations, inner: int
):
    weight = RANDOM.standard_t(2, size=(inner, N)).astype(np.float32)
    graph = make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], FLOATS, {"w": weight})
    store_int8_weights(graph, find_quantizable_weights(graph), activations=activations)
    [check] = exactness.check_integers(graph, [{"x": X[..., :inner]}, {"x": X[0, :1, :inner]}])
    assert (check.wrong, check.saturated) == (0, 0)
    # 16 rows of activations, 5 + 1 random or full ones and two for each of 6 columns to overflow;
    # each number twice: the sum, and what the operator makes of it.
    assert check.compared == 2 * N * (15 + 1 + 5 + 1 + 2 * N)


def test_weights_of_full_range_saturate_without_vnni(exactness: ModuleType, make_graph):
    weight = np.full((K, N), 127, np.int8)
    [check] = exactness.check_integers(integer_graph(make_graph, weight), [])
    assert check.saturated > 0


def test_a_runtime_that_saturates_is_found_out(
    exactness: ModuleType, make_graph, monkeypatch: pytest.MonkeyPatch
):
    # A CPU with VNNI differs from saturating sums, one without from exact ones.
    graph = integer_graph(make_graph, np.full((K, N), 127, np.int8))
    [exact] = exactness.check_integers(graph, [{"x": 99 * X}])
    monkeypatch.setattr(exactness, "exact_matmul", saturating_matmul)
    [saturating] = exactness.check_integers(graph, [{"x": 99 * X}])
    assert (exact.wrong > 0) != (saturating.wrong > 0)


def test_every_row_of_an_int8_table_is_looked_up(exactness: ModuleType, make_graph):
    table = RANDOM.normal(size=(11, 4)).astype(np.float32)
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    graph = make_graph([node], {"ids": (TensorProto.INT64, None)}, {"table": table})
    store_int8_weights(graph, find_quantizable_weights(graph), activations="per_token")
    [check] = exactness.check_integers(graph, [])
    assert (check.operator, check.compared, check.wrong) == ("Gather", 44, 0)


@pytest.mark.parametrize("operator", ["QGemm", "QLinearMatMul", "QAttention"])
def test_an_operator_that_is_not_known_is_not_passed_over(
    exactness: ModuleType, make_graph, operator: str
):
    graph = make_graph([contrib(operator, ["x", "w"])], FLOATS, {"w": np.ones((K, N), np.int8)})
    with pytest.raises(ValueError, match=f"{operator} product is not recomputed here"):
        exactness.check_integers(graph, [])


def test_weights_that_are_computed_are_refused(exactness: ModuleType, make_graph):
    graph = make_graph([contrib("MatMulInteger", ["x", "x"])], FLOATS, {})
    with pytest.raises(ValueError, match="MatMulInteger product has no int8 matrix"):
        exactness.check_integers(graph, [])


def test_weights_with_a_zero_point_are_refused(exactness: ModuleType, make_graph):
    constants = {"w": np.ones((K, N), np.int8), "s": np.ones(1, "f4"), "z": np.ones(1, np.int8)}
    graph = make_graph([contrib("DynamicQuantizeMatMul", ["x", "w", "s", "z"])], FLOATS, constants)
    with pytest.raises(ValueError, match="has asymmetric weights"):
        exactness.check_integers(graph, [])


def test_sums_that_pass_32_bits_are_refused(exactness: ModuleType):
    weight = np.full((2**17, 1), 127, np.int8)
    with pytest.raises(ValueError, match="does not fit into 32 bits"):
        exactness._sums(np.full((1, 2**17), 255, np.uint8), weight, np.zeros((), np.uint8))


def packed_graph(make_graph, form: PackedForm, inner: int) -> onnx.ModelProto:
    weight = RANDOM.standard_t(2, size=(inner, N)).astype(np.float32)
    graph = make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], FLOATS, {"w": weight})
    pack_matrices(graph, find_quantizable_weights(graph), form)
    return graph


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("inner", [37, 96, 1100])
def test_products_of_packed_weights_are_exact(
    exactness: ModuleType, make_graph, bits: int, block_size: int, inner: int
):
    graph = packed_graph(make_graph, PackedForm(bits, block_size, "int8"), inner)
    [check] = exactness.check_integers(graph, [])
    assert (check.operator, check.wrong, check.saturated) == ("MatMulNBits", 0, 0)
    # 5 random rows, a full one and two for each of 4 columns, alone and together; in two parts
    # where there are more than 1024 channels.
    assert check.compared == 2 * (5 + 1 + 8) * N * (2 if inner > 1024 else 1)


def test_packed_weights_that_multiply_floats_are_no_integer_product(
    exactness: ModuleType, make_graph
):
    assert (
        exactness.check_integers(packed_graph(make_graph, PackedForm(4, 32, "float"), K), []) == ()
    )


def test_packed_products_of_other_integers_are_found_out(
    exactness: ModuleType, make_graph, monkeypatch: pytest.MonkeyPatch
):
    graph = packed_graph(make_graph, PackedForm(4, 32, "int8"), K)
    packed_exactness = sys.modules["packed_exactness"]
    read = packed_exactness.unpack
    monkeypatch.setattr(packed_exactness, "unpack", lambda *given: read(*given) ^ np.uint8(1))
    [check] = exactness.check_integers(graph, [])
    assert check.wrong > check.compared / 2


def table_graph(make_graph, width: int) -> onnx.ModelProto:
    table = RANDOM.standard_t(3, size=(50, width)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["t", "i"], ["y"])]
    graph = make_graph(nodes, {"i": (TensorProto.INT64, [None, None])}, {"t": table})
    store_narrow_tables(graph, find_quantizable_weights(graph), NarrowTables())
    return graph


@pytest.mark.parametrize("width", [64, 70])
def test_every_row_of_an_int4_table_is_what_its_integers_say(
    exactness: ModuleType, make_graph, width: int, tmp_path: Path
):
    path = tmp_path / "model.onnx"
    save_graph(table_graph(make_graph, width), path)
    [check] = exactness.check_integers(optimized_graph(path), [])
    assert (check.operator, check.compared, check.wrong) == ("GatherBlockQuantized", 50 * width, 0)


def test_scales_that_are_not_constant_are_refused(exactness: ModuleType, make_graph):
    with pytest.raises(ValueError, match="GatherBlockQuantized y has weights or scales that are"):
        exactness.check_integers(
            table_graph(make_graph, 64), []
        )  # its scales are still to be widened
