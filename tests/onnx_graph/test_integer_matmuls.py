from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_graph.integer_matmuls import KERNELS, find_integer_matmuls
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
from compressor.onnx_graph.saturation import exact_matmul, saturating_matmul
from compressor.onnx_graph.split_run import SplitRun
from compressor.onnx_graph.weight_only import PackedForm, pack_matrices

RANDOM = np.random.default_rng(0)
K, N, M = 7, 5, 3
U8 = RANDOM.integers(0, 256, (2, M, K)).astype(np.uint8)
S8 = RANDOM.integers(-128, 128, (K, N)).astype(np.int8)
SCALES = np.linspace(0.01, 0.05, N, dtype=np.float32)
ZEROS = np.arange(N).astype(np.int8)
BIAS = np.linspace(-1, 1, N, dtype=np.float32)


def scalar(value: float, dtype: Any = np.float32) -> NDArray[Any]:
    return np.array(value, dtype)


def model_of(
    operator: str, values: list[NDArray[Any]], output: int, **attributes: Any
) -> tuple[onnx.ModelProto, NDArray[Any]]:
    """Return a graph of one node; its first input is fed, the others are constants."""
    names = [f"v{index}" if values[index].size else "" for index in range(len(values))]
    contrib = operator not in ("MatMulInteger", "QLinearMatMul")
    node = helper.make_node(
        operator, names, ["y"], "node", domain="com.microsoft" if contrib else "", **attributes
    )
    kind = helper.np_dtype_to_tensor_dtype(values[0].dtype)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("v0", kind, values[0].shape)],
        [helper.make_tensor_value_info("y", output, None)],
        [
            numpy_helper.from_array(value, name)
            for name, value in list(zip(names, values, strict=True))[1:]
            if name
        ],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), values[0]


NOTHING = np.zeros(0, np.float32)
FLOATS = RANDOM.standard_normal((2, M, K)).astype(np.float32)
CASES = {
    "MatMulInteger": model_of(
        "MatMulInteger", [U8, S8, scalar(120, np.uint8), ZEROS], TensorProto.INT32
    ),
    "MatMulInteger, no zero points": model_of("MatMulInteger", [U8, S8], TensorProto.INT32),
    "MatMulIntegerToFloat": model_of(
        "MatMulIntegerToFloat",
        [U8, S8, scalar(0.02), SCALES, scalar(128, np.uint8), NOTHING, BIAS],
        TensorProto.FLOAT,
    ),
    "DynamicQuantizeMatMul": model_of(
        "DynamicQuantizeMatMul", [FLOATS, S8, SCALES, ZEROS, BIAS], TensorProto.FLOAT
    ),
    "DynamicQuantizeMatMul, one scale": model_of(
        "DynamicQuantizeMatMul", [np.abs(FLOATS), S8, scalar(0.03)], TensorProto.FLOAT
    ),
    "QLinearMatMul": model_of(
        "QLinearMatMul",
        [
            U8, scalar(0.02), scalar(120, np.uint8), S8, SCALES, np.zeros(N, np.int8),
            scalar(0.3), scalar(100, np.uint8),
        ],
        TensorProto.UINT8,
    ),
    "QGemm": model_of(
        "QGemm",
        [
            U8[0], scalar(0.02), scalar(120, np.uint8), np.ascontiguousarray(S8.T), scalar(0.03),
            scalar(0, np.int8), np.arange(N, dtype=np.int32), scalar(0.3), scalar(100, np.uint8),
        ],
        TensorProto.UINT8,
        transB=1,
    ),
    "QGemm to float": model_of(
        "QGemm",
        [U8[0], scalar(0.02), scalar(120, np.uint8), S8, SCALES, np.zeros(N, np.int8)],
        TensorProto.FLOAT,
    ),
}  # fmt: skip


def runtime(model: onnx.ModelProto, feed: NDArray[Any]) -> NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact on every x86 CPU
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: NDArray[Any] = session.run(None, {"v0": feed})[0]
    return found


@pytest.mark.parametrize("case", CASES)
def test_an_exact_product_gives_what_onnx_runtime_computes(case: str):
    model, feed = CASES[case]
    found = SplitRun(model, {"y"}).run({"v0": feed}, "y", exact_matmul)
    expected = runtime(model, feed)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_only_the_raw_product_is_left_to_the_caller(case: str):
    model, feed = CASES[case]
    run = SplitRun(model, {"y"})
    exact = run.run({"v0": feed}, "y", exact_matmul)
    saturated = run.run({"v0": feed}, "y", saturating_matmul)
    assert exact.shape == saturated.shape
    assert [item.can_saturate for item in find_integer_matmuls(model)] == [True]
    assert [item.can_simulate for item in find_integer_matmuls(model)] == [True]


def test_the_saturated_product_of_a_dequantized_node_is_the_instructions():
    # 255 * (127 + 127) = 64770 becomes 32767; the zero point's part is exact: 128 * 254 = 32512.
    left, right = np.full((1, 2), 255, np.uint8), np.full((2, 1), 127, np.int8)
    model, feed = model_of("MatMulInteger", [left, right, scalar(128, np.uint8)], TensorProto.INT32)
    assert SplitRun(model, {"y"}).run({"v0": feed}, "y", saturating_matmul).tolist() == [[255]]


@pytest.mark.parametrize(
    ("left", "right", "can_saturate"),
    [(np.uint8, np.int8, True), (np.uint8, np.uint8, False), (np.int8, np.int8, False),
     (np.int8, np.uint8, False)],
)  # fmt: skip
def test_only_unsigned_times_signed_goes_through_16_bit_sums(
    left: Any, right: Any, can_saturate: bool
):
    values = [U8.view(left), S8.view(right), scalar(0.1), scalar(0.1)]
    values += [scalar(0, left), scalar(0, right)]
    model, _ = model_of("MatMulIntegerToFloat", values, TensorProto.FLOAT)
    [product] = find_integer_matmuls(model)
    assert product.can_saturate is can_saturate
    assert (product.activations, product.weights) == (np.dtype(left).name, np.dtype(right).name)
    assert (product.risk is None) is not can_saturate


def test_seven_bit_weights_cannot_saturate():
    model, _ = model_of("MatMulInteger", [U8, S8 // 2], TensorProto.INT32)
    [product] = find_integer_matmuls(model)
    assert (product.can_saturate, product.inner, product.columns) == (False, K, N)
    assert product.risk is not None
    assert product.risk.worst_sum <= 128


def test_a_signed_factor_that_is_computed_at_run_time_may_saturate_and_is_not_simulated(
    make_graph: Callable[..., onnx.ModelProto],
):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "s", "z"]),
        helper.make_node("QuantizeLinear", ["x", "one", "signed"], ["b"]),
        helper.make_node("MatMulInteger", ["a", "b", "z"], ["y"]),
    ]
    constants = {"one": scalar(1), "signed": scalar(0, np.int8)}
    model = make_graph(nodes, {"x": (TensorProto.FLOAT, [4, 4])}, constants)
    [product] = find_integer_matmuls(model)
    assert (product.weight, product.can_saturate, product.can_simulate) == (None, True, False)


def test_a_convolution_reads_its_filter_channel_by_channel_within_each_position():
    # Filters (1, channels 2, 1, 2): per position the two channels are neighbours.
    weight = np.array([[[[100, 1]], [[100, 1]]]], np.int8)
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    node = helper.make_node("QLinearConv", names, ["y"], "conv")
    constants = {
        "xs": scalar(1), "xz": scalar(0, np.uint8), "w": weight, "ws": scalar(1),
        "wz": scalar(0, np.int8), "ys": scalar(1), "yz": scalar(0, np.uint8),
    }  # fmt: skip
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2, 1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    [product] = find_integer_matmuls(helper.make_model(graph))
    assert product.risk is not None
    assert (product.risk.worst_sum, product.risk.risky_pairs) == (200, 1)
    assert (product.inner, product.columns, product.can_simulate) == (4, 1, False)


@pytest.mark.parametrize(("bits", "weights"), [(4, "uint4"), (8, "uint8")])
def test_packed_weights_are_products_of_integers_where_activations_are_too(
    make_graph: Callable[..., onnx.ModelProto], bits: int, weights: str
):
    weight = RANDOM.normal(size=(K, N)).astype(np.float32)
    for activations in ("int8", "float"):
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        model = make_graph([node], {"x": (TensorProto.FLOAT, [M, K])}, {"w": weight})
        form = PackedForm(bits, 16, activations)  # type: ignore[arg-type]
        pack_matrices(model, find_quantizable_weights(model), form)
        found = find_integer_matmuls(model)
        assert len(found) == (activations == "int8")
        for product in found:
            assert (product.activations, product.weights) == ("int8", weights)
            assert (product.inner, product.columns, product.can_saturate) == (K, N, False)


def test_every_kernel_is_compared_with_onnx_runtime():
    assert {case.partition(",")[0].partition(" to")[0] for case in CASES} == set(KERNELS)
