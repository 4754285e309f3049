from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_graph.block_weights import quantize_blocks
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
from compressor.onnx_graph.weight_only import PackedForm, pack_matrices

RANDOM = np.random.default_rng(4)
K, N = 40, 5  # blocks of 16 and 32 do not divide it
X = RANDOM.normal(size=(2, 3, K)).astype(np.float32)
WEIGHT = RANDOM.normal(size=(K, N)).astype(np.float32)
BIAS = RANDOM.normal(size=N).astype(np.float32)
ACTIVATIONS = {"x": (TensorProto.FLOAT, None)}
FLOAT = PackedForm(bits=4, block_size=16, activations="float")


def node(operator: str, inputs: list[str], output: str = "y", **attributes: Any):
    domain = "com.microsoft" if operator == "FusedMatMul" else ""
    return helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes)


def rounded(weight: NDArray[np.float32], form: PackedForm) -> NDArray[np.float32]:
    """Return `(K, N)` as its integers stand for it."""
    blocks = quantize_blocks(
        weight.T, bits=form.bits, block_size=form.block_size, float16_scales=False
    )
    return blocks.restored().T


def pack(model: onnx.ModelProto, form: PackedForm = FLOAT) -> dict[str, float]:
    return pack_matrices(model, find_quantizable_weights(model), form)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [16, 32, 128])
def test_product_is_that_of_the_rounded_weights(
    make_graph: Callable[..., Any], run_graph: Callable[..., Any], bits: int, block_size: int
):
    form = PackedForm(bits, block_size, "float")
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    pack(graph, form)
    expected = X @ rounded(WEIGHT, form)
    np.testing.assert_allclose(run_graph(graph, x=X), expected, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_activations_of_8_bits_add_next_to_nothing(make_graph, run_graph, bits: int):
    form = PackedForm(bits, 32, "int8")
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    pack(graph, form)
    expected = X @ rounded(WEIGHT, form)
    # Each activation is off by at most 1 / 254 of the largest in its block, errors of both signs.
    assert np.abs(run_graph(graph, x=X) - expected).max() < 0.02 * np.abs(expected).max()


def test_weights_are_stored_as_bytes_and_the_floats_are_gone(make_graph):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    [error] = pack(graph).values()
    found = {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}
    assert {name: (item.dtype, item.shape) for name, item in found.items()} == {
        "w_int4": (np.uint8, (N, 3, 8)),
        "w_scale": (np.float32, (N, 3)),
    }
    lost = rounded(WEIGHT, FLOAT) - WEIGHT
    assert error == pytest.approx(np.linalg.norm(lost) / np.linalg.norm(WEIGHT), rel=1e-5)


def test_a_column_of_zeros_gives_zeros(make_graph, run_graph):
    weight = WEIGHT.copy()
    weight[:, 1] = 0
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": weight})
    pack(graph, PackedForm(4, 16, "int8"))
    # The kernel takes the middle of the range off in float.
    np.testing.assert_allclose(run_graph(graph, x=X)[..., 1], 0, atol=1e-5)


W = rounded(WEIGHT, FLOAT)
ROWS = X[0]
GEMMS: dict[str, tuple[dict[str, Any], NDArray[np.float32], Any, Any]] = {
    "plain": ({}, WEIGHT, None, ROWS @ W),
    "with bias": ({}, WEIGHT, BIAS, ROWS @ W + BIAS),
    "with transposed weight": ({"transB": 1}, WEIGHT.T.copy(), BIAS, ROWS @ W + BIAS),
    "with alpha": ({"alpha": -2.0}, WEIGHT, BIAS, -2 * ROWS @ W + BIAS),
    "with beta": ({"beta": 3.0}, WEIGHT, BIAS, ROWS @ W + 3 * BIAS),
    "with beta of zero": ({"beta": 0.0}, WEIGHT, BIAS, ROWS @ W),
    "with a column": ({}, WEIGHT, ROWS[:, :1].copy(), ROWS @ W + ROWS[:, :1]),
}


@pytest.mark.parametrize("name", GEMMS)
def test_gemm_keeps_its_meaning(make_graph, run_graph, name: str):
    attributes, weight, bias, expected = GEMMS[name]
    inputs, stored = (["x", "w"], {"w": weight})
    if bias is not None:
        inputs, stored = ([*inputs, "b"], {**stored, "b": bias})
    graph = make_graph([node("Gemm", inputs, **attributes)], ACTIVATIONS, stored)
    pack(graph)
    np.testing.assert_allclose(run_graph(graph, x=ROWS), expected, atol=1e-4)
    assert {item.op_type for item in graph.graph.node} <= {"MatMulNBits", "Mul", "Add"}


def test_fused_product_keeps_its_factor_and_its_transposed_weight(make_graph, run_graph):
    product = node("FusedMatMul", ["x", "w"], transB=1, alpha=0.25)
    graph = make_graph([product], ACTIVATIONS, {"w": WEIGHT.T.copy()})
    pack(graph)
    np.testing.assert_allclose(run_graph(graph, x=X), 0.25 * X @ W, atol=1e-4)


def test_weight_of_two_products_is_stored_once(make_graph, run_graph):
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("MatMul", ["x", "w"], "b"),
        node("Sub", ["a", "b"]),
    ]
    graph = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT})
    pack(graph)
    assert len(graph.graph.initializer) == 2
    assert not run_graph(graph, x=X).any()


def test_products_of_two_activations_stay(make_graph, run_graph):
    nodes = [node("MatMul", ["x", "w"], "a"), node("MatMul", ["a", "z"])]
    inputs = {**ACTIVATIONS, "z": (TensorProto.FLOAT, None)}
    graph = make_graph(nodes, inputs, {"w": WEIGHT})
    pack(graph)
    z = RANDOM.normal(size=(2, N, 4)).astype(np.float32)
    np.testing.assert_allclose(run_graph(graph, x=X, z=z), X @ W @ z, atol=1e-4)


def test_site_with_an_obstacle_is_refused(make_graph):
    graph = make_graph([node("MatMul", ["w", "x"])], ACTIVATIONS, {"w": WEIGHT})
    with pytest.raises(ValueError, match="weight w cannot be packed: it is the left-hand side"):
        pack(graph)


def test_weight_that_is_not_finite_is_named(make_graph):
    broken = WEIGHT.copy()
    broken[2, 1] = np.nan
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": broken})
    with pytest.raises(ValueError, match="weight w holds NaN"):
        pack(graph)
