"""Convolutions of integers against integers convolved in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import StepFailed
from compressor.onnx_graph.affine import max_pair_sum
from compressor.onnx_graph.int8_convolutions import (
    convolution_values,
    quantize_filter,
    store_int8_convolutions,
)
from compressor.onnx_graph.integer_matmuls import find_integer_matmuls
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
from compressor.onnx_graph.quantized_activations import ScaleAndZeroPoint

RANDOM = np.random.default_rng(3)
IMAGES = {"x": (TensorProto.FLOAT, ("n", 4, "h", "w"))}
X = RANDOM.normal(size=(2, 4, 7, 6)).astype(np.float32)
FILTERS = RANDOM.normal(size=(8, 4, 3, 3)).astype(np.float32)
BIAS = RANDOM.normal(size=8).astype(np.float32)
OF_X, OF_Y = ScaleAndZeroPoint(0.025, 130), ScaleAndZeroPoint(0.11, 121)


def conv(inputs: list[str], output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", inputs, [output], name=output, **attributes)


def stored(model: onnx.ModelProto, scales: dict[str, ScaleAndZeroPoint]) -> onnx.ModelProto:
    weights = find_quantizable_weights(model, filters=True)
    store_int8_convolutions(model, weights, scales)
    return model


def constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def quantized(values: NDArray[Any], meaning: ScaleAndZeroPoint) -> NDArray[np.int64]:
    integers = np.rint(values / np.float32(meaning.scale)) + meaning.zero_point
    return np.clip(integers, 0, 255).astype(np.int64)


def convolved(
    integers: NDArray[np.int64],
    filters: NDArray[np.int8],
    *,
    groups: int = 1,
    stride: int = 1,
    pad: int = 0,
) -> NDArray[np.int64]:
    """Return the sums of products of a two-dimensional convolution, `(N, M, H, W)`."""
    padded = np.pad(integers, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, filters.shape[2:], axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]  # (N, C, H, W, kernel, kernel)
    grouped = np.split(windows, groups, axis=1)
    by_group = np.split(filters.astype(np.int64), groups)
    parts = [np.einsum("nchwij,mcij->nmhw", *pair) for pair in zip(grouped, by_group, strict=True)]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize(
    ("shape", "groups", "stride", "pad"),
    [
        ((8, 4, 3, 3), 1, 1, 1),
        ((16, 4, 1, 1), 1, 1, 0),  # what the kernel for wide outputs multiplies directly
        ((16, 4, 3, 3), 1, 2, 1),
        ((6, 2, 3, 3), 2, 1, 0),
        ((4, 1, 3, 3), 4, 1, 1),
        ((5, 4, 2, 2), 1, 2, 0),
    ],
)
def test_convolution_is_that_of_the_integers(
    make_graph, run_graph, shape: tuple[int, ...], groups: int, stride: int, pad: int
):
    filters = RANDOM.normal(size=shape).astype(np.float32)
    bias = RANDOM.normal(size=shape[0]).astype(np.float32)
    settings = {"group": groups, "strides": [stride] * 2, "pads": [pad] * 4}
    first = conv(["x", "first"], "h", kernel_shape=[1, 1])  # so that no channel stands alone
    node = conv(["h", "w", "b"], **settings)
    whole = {"first": np.eye(4, dtype=np.float32)[..., None, None], "w": filters, "b": bias}
    graph = make_graph([first, node], IMAGES, whole)
    scales = {"x": OF_X, "h": OF_X, "y": OF_Y}
    found = constants(stored(graph, scales))
    integers = quantized(X, OF_X) - OF_X.zero_point
    sums = convolved(integers, found["w_int8"], groups=groups, stride=stride, pad=pad)
    sums += np.rint(bias / (np.float32(OF_X.scale) * found["w_scale"])).astype(np.int64)[
        :, None, None
    ]
    factors = (np.float32(OF_X.scale) * found["w_scale"] / np.float32(OF_Y.scale))[:, None, None]
    expected = np.clip(np.rint(sums * factors) + OF_Y.zero_point, 0, 255) - OF_Y.zero_point
    given = np.rint(run_graph(graph, x=X) / np.float32(OF_Y.scale))
    # A sum that lies half between two integers may be rounded to either.
    assert np.abs(given - expected).max() <= 1
    assert np.mean(given != expected) < 0.005


def test_rounding_a_filter_is_off_by_half_a_step_and_pairs_fit_into_16_bits():
    integers, scales, units = quantize_filter(FILTERS, BIAS, 0.05, alone=False)
    steps = scales[:, None, None, None]
    assert (np.abs(integers * steps - FILTERS) <= steps / 2 * 1.001).all()
    # Position by position, all channels of one after the other.
    assert max_pair_sum(integers.transpose(0, 2, 3, 1).reshape(8, -1).T) <= 128
    assert units is not None
    assert (np.abs(units * scales * 0.05 - BIAS) <= scales * 0.05 / 2 * 1.001).all()


def test_bias_of_a_filter_of_zeros_keeps_its_digits():
    filters = np.zeros((2, 4, 1, 1), np.float32)
    filters[1] = 1e-12  # beside a bias that its own scale could not hold in 32 bits
    _, scales, units = quantize_filter(filters, np.array([0.3, -7], np.float32), 0.5, alone=False)
    np.testing.assert_allclose(units * scales * 0.5, [0.3, -7], rtol=1e-6)


def test_filter_that_is_not_finite_is_refused(make_graph):
    filters = FILTERS.copy()
    filters[0, 0, 0, 0] = np.nan
    graph = make_graph([conv(["x", "w"])], IMAGES, {"w": filters})
    with pytest.raises(StepFailed, match="weight w holds NaN"):
        stored(graph, {"x": OF_X, "y": OF_Y})


def residual(make_graph: Any, last: list[onnx.NodeProto]) -> onnx.ModelProto:
    """Return a stem with pooling and a block with a sum, as a ResNet has, and `last`."""
    square = RANDOM.normal(size=(8, 8, 3, 3)).astype(np.float32) / 8
    nodes = [
        conv(["x", "w"], "a", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        conv(["c", "v", "bias"], "d", pads=[1] * 4),
        helper.make_node("Add", ["d", "c"], ["e"]),
        helper.make_node("Relu", ["e"], ["f"]),
        conv(["f", "u"], "g", pads=[1] * 4),
        *last,
    ]
    whole = {"w": FILTERS, "v": square, "u": -square, "bias": BIAS, "six": np.float32(6)}
    return make_graph(nodes, IMAGES, whole | {"zero": np.float32(0)})


def wide(top: float) -> ScaleAndZeroPoint:
    return ScaleAndZeroPoint(top / 255, 0)


RESIDUAL = {"x": OF_X, "b": wide(20.0), "c": wide(20.0), "d": ScaleAndZeroPoint(0.2, 128),
            "f": wide(25.0), "g": ScaleAndZeroPoint(0.2, 128), "y": wide(20.0)}  # fmt: skip


def test_values_between_convolutions_stay_integers(make_graph, run_graph):
    last = helper.make_node("Relu", ["g"], ["y"])
    before, graph = residual(make_graph, [last]), residual(make_graph, [last])
    for mine, theirs in zip(graph.graph.initializer, before.graph.initializer, strict=True):
        theirs.CopyFrom(mine)
    assert set(convolution_values(graph, find_quantizable_weights(graph, filters=True))) == {
        *("x", "b", "c", "d", "f", "y")
    }
    after = stored(graph, RESIDUAL)
    assert operators(after) == [
        *("QuantizeLinear", "QLinearConv", "MaxPool", "QLinearConv", "QLinearAdd", "QLinearConv"),
        "DequantizeLinear",
    ]
    expected = run_graph(before, x=X)
    assert np.abs(run_graph(after, x=X) - expected).max() < 0.05 * expected.max()


def test_what_others_read_is_given_as_floats(make_graph, run_graph):
    last = helper.make_node("Sum", ["g", "b"], ["y"])  # of other sizes along no axis
    nodes = [
        conv(["x", "w"], "a", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        conv(["b", "v"], "g", pads=[1] * 4),
        last,
    ]
    square = RANDOM.normal(size=(8, 8, 3, 3)).astype(np.float32) / 8
    before = make_graph(nodes, IMAGES, {"w": FILTERS, "v": square})
    after = onnx.ModelProto()
    after.CopyFrom(before)
    stored(after, RESIDUAL)
    assert operators(after).count("DequantizeLinear") == 2
    expected = run_graph(before, x=X)
    assert np.abs(run_graph(after, x=X) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(("low", "folds"), [("zero", True), ("six", False)])
def test_clip_from_zero_on_is_the_end_of_the_range(make_graph, run_graph, low: str, folds: bool):
    graph = residual(make_graph, [helper.make_node("Clip", ["g", low, "six"], ["y"])])
    after = stored(graph, RESIDUAL)  # the scale of y reaches to 20, and of nothing seen to anywhere
    assert ("Clip" in operators(after)) != folds
    given = run_graph(after, x=10 * X)
    assert given.max() == pytest.approx(6)


def test_each_integer_convolution_is_exact_on_every_cpu(make_graph):
    nodes = [
        conv(["x", "w"], "a", pads=[1] * 4),
        conv(["a", "alone"], "b", group=8),
        conv(["b", "grouped"], group=2),
    ]
    alone = np.full((8, 1, 3, 3), 1.0, np.float32)  # whose pairs sum to twice the largest
    grouped = RANDOM.uniform(0.99, 1.0, size=(4, 4, 1, 1)).astype(np.float32)
    graph = make_graph(nodes, IMAGES, {"w": FILTERS, "alone": alone, "grouped": grouped})
    after = stored(graph, {"x": OF_X, "a": OF_Y, "b": OF_Y, "y": OF_Y})
    found = find_integer_matmuls(after)
    assert [(item.operator, item.can_saturate) for item in found] == [("QLinearConv", False)] * 3
    assert constants(after)["alone_int8"].max() == 127
    assert constants(after)["grouped_int8"].max() in (63, 64)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([conv(["x", "alone"], group=4)], "convolves each channel alone"),
        ([conv(["x", "w", "made"])], "its bias is computed at run time"),
        ([conv(["x", "w"], "z"), conv(["x", "w"])], "several operators read it"),
        ([conv(["x", "long"])], "may leave 32 bits"),
    ],
)
def test_filters_that_stay_in_float_have_a_reason(make_graph, nodes, reason: str):
    made = helper.make_node("Exp", ["b"], ["made"])
    long = np.zeros((1, 4, 100, 100), np.float32)
    whole = {"alone": FILTERS[:4, :1], "w": FILTERS, "b": BIAS, "long": long}
    graph = make_graph([made, *nodes], IMAGES, whole)
    (weight,) = find_quantizable_weights(graph, filters=True)
    assert weight.kind == "filter"
    assert reason in str(weight.obstacle)
    with pytest.raises(ValueError, match=reason):
        stored(graph, {"x": OF_X, "y": OF_Y})


def test_convolutions_are_not_looked_at_unless_asked_for(make_graph):
    graph = make_graph([conv(["x", "w"])], IMAGES, {"w": FILTERS})
    assert find_quantizable_weights(graph) == ()
