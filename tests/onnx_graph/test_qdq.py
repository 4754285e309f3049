from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_graph.qdq import (
    SignedScales,
    insert_qdq,
    portable_scales,
    quantize_symmetric,
)
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights

RANDOM = np.random.default_rng(3)
K, N = 16, 5
X = RANDOM.normal(size=(6, K)).astype(np.float32)
WEIGHT = RANDOM.normal(size=(K, N)).astype(np.float32)
BIAS = RANDOM.normal(size=N).astype(np.float32)
ACTIVATIONS = {"x": (TensorProto.FLOAT, ["batch", K])}
SCALE = 0.0234375  # 6 / 256: float16 and bfloat16 hold it


def node(operator: str, inputs: list[str], output: str = "y", **attributes):
    return helper.make_node(operator, inputs, [output], name=output, **attributes)


def constants(model: onnx.ModelProto):
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def paired(model: onnx.ModelProto, scale: float = SCALE) -> onnx.ModelProto:
    insert_qdq(model, find_quantizable_weights(model), SignedScales({"x": scale}))
    return model


def fake_quantized(values, scales, lowest: int):
    """Return what a grid keeps of `values`, in float64, as the standard defines it."""
    return np.clip(np.rint(values / scales), lowest, 127) * scales.astype(np.float64)


@pytest.mark.parametrize("transposed", [False, True])
def test_product_equals_an_independent_computation_of_the_rounded_factors(
    make_graph, run_graph, transposed: bool
):
    weight = WEIGHT.T.copy() if transposed else WEIGHT
    operator = node("Gemm", ["x", "w", "b"], transB=1) if transposed else node("MatMul", ["x", "w"])
    biases = {"b": BIAS} if transposed else {}
    graph = paired(make_graph([operator], ACTIVATIONS, {"w": weight, **biases}))
    # The largest of each column over 127, rounded up to eight significant bits: by hand.
    exact = np.abs(WEIGHT.astype(np.float64)).max(axis=0) / 127
    step = 2.0 ** (np.floor(np.log2(exact)) - 7)
    scales = np.ceil(exact / step) * step
    expected = fake_quantized(X, np.float64(SCALE), -128) @ fake_quantized(WEIGHT, scales, -127)
    expected = expected + BIAS if transposed else expected
    np.testing.assert_allclose(run_graph(graph, x=X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("operator", "axis"), [("MatMul", 1), ("Gemm", 0)])
def test_weight_has_one_signed_scale_for_each_output_column(make_graph, operator: str, axis: int):
    weight = WEIGHT if axis else WEIGHT.T.copy()
    attributes = {} if axis else {"transB": 1}
    graph = paired(
        make_graph([node(operator, ["x", "w"], **attributes)], ACTIVATIONS, {"w": weight})
    )
    [pair] = [item for item in graph.graph.node if item.input[0] == "w_int8"]
    found = constants(graph)
    integers, scales, zero_point = (found[name] for name in pair.input)
    assert pair.op_type == "DequantizeLinear"
    assert [item.i for item in pair.attribute if item.name == "axis"] == [axis]
    assert (integers.dtype, integers.shape) == (np.int8, weight.shape)
    assert scales.shape == zero_point.shape == (N,)
    assert zero_point.dtype == np.int8
    assert not zero_point.any()
    assert np.abs(integers).max(axis=1 - axis).min() >= 126  # every column uses the whole range
    np.testing.assert_allclose(
        integers * np.expand_dims(scales, 1 - axis), weight, atol=scales.max() / 2 + 1e-7
    )


def test_float_weight_is_gone_and_nothing_foreign_came(make_graph):
    graph = paired(make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT}))
    floats = [name for name, values in constants(graph).items() if values.dtype == np.float32]
    assert floats == ["w_scale", "x_scale"]
    assert {item.domain for item in graph.graph.node} == {""}


def test_activation_of_several_products_passes_through_one_pair_per_tensor(make_graph):
    products = [node("MatMul", ["x", name], output=name[-1]) for name in ("w_a", "w_b")]
    graph = make_graph(
        [*products, node("Add", ["a", "b"], "s"), node("Concat", ["s", "x"], axis=-1)],
        ACTIVATIONS,
        {"w_a": WEIGHT, "w_b": WEIGHT * 2},
    )
    paired(graph)
    [quantize] = [item for item in graph.graph.node if item.op_type == "QuantizeLinear"]
    found = constants(graph)
    assert found[quantize.input[1]] == np.float32(SCALE)
    assert found[quantize.input[2]].dtype == np.int8
    assert found[quantize.input[2]] == 0
    by_name = {item.name: item for item in graph.graph.node}
    assert by_name["a"].input[0] == by_name["b"].input[0] == "x_dequantized"
    assert by_name["y"].input[1] == "x"  # what is no product still reads the float values


def test_column_of_zeros_stays_zeros(make_graph, run_graph):
    weight = WEIGHT.copy()
    weight[:, 2] = 0
    graph = paired(make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": weight}))
    assert not run_graph(graph, x=X)[..., 2].any()
    assert (constants(graph)["w_scale"] > 0).all()  # TensorRT takes no other


def test_scales_are_the_next_larger_numbers_that_every_float_holds():
    exact = np.concatenate([RANDOM.uniform(0, 1, 500) ** 8, [2.0**-24, 1e-30, 1.0, 0.75]])
    found = portable_scales(exact)
    for kind in (np.float16, ml_dtypes.bfloat16):
        np.testing.assert_array_equal(found.astype(kind).astype(np.float32), found)
    assert (found >= exact).all()
    assert (found <= exact * (1 + 1 / 128) + 2.0**-24).all()
    assert found[-2:].tolist() == [1.0, 0.75]


def test_weight_that_is_not_finite_is_named(make_graph):
    weight = WEIGHT.copy()
    weight[3, 1] = np.nan
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": weight})
    with pytest.raises(ValueError, match=r"^weight w holds NaN or infinity"):
        insert_qdq(graph, find_quantizable_weights(graph), SignedScales({"x": 0.1}))


def test_activation_without_a_scale_is_named(make_graph):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    with pytest.raises(ValueError, match=r"^activations x have no scale$"):
        insert_qdq(graph, find_quantizable_weights(graph), SignedScales({}))


def test_embedding_table_is_refused(make_graph):
    ids = {"ids": (TensorProto.INT64, [2])}
    graph = make_graph([node("Gather", ["w", "ids"])], ids, {"w": WEIGHT})
    with pytest.raises(ValueError, match=r"^weight w cannot be int8: it is an embedding table$"):
        insert_qdq(graph, find_quantizable_weights(graph), SignedScales({}))


def test_values_round_to_the_nearest_and_the_largest_to_127():
    values, scales = quantize_symmetric(np.array([[127.0, -3.0], [-63.4, 1.4]], np.float32), axis=1)
    assert scales.tolist() == [1.0, 0.023681640625]  # 3 / 127 = 194 / 2^13, rounded up
    assert values.tolist() == [[127, -127], [-63, 59]]
