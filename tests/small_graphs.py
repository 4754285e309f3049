"""Hand-made graphs: small enough to know every number in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MakeGraph = Callable[..., onnx.ModelProto]


@pytest.fixture
def make_graph() -> MakeGraph:
    """Return a function that builds a graph from nodes, inputs by name, and constants by name.

    Every value of the last node is an output. Inputs are (element type, shape).
    """

    def make(
        nodes: Sequence[onnx.NodeProto],
        inputs: Mapping[str, tuple[int, Sequence[Any]]],
        constants: Mapping[str, NDArray[Any]],
        output_shape: Sequence[Any] | None = None,
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            list(nodes),
            "graph",
            [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, output_shape)
                for name in nodes[-1].output
            ],
            [numpy_helper.from_array(values, name) for name, values in constants.items()],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    return make


@pytest.fixture
def run_graph() -> Callable[..., NDArray[Any]]:
    """Return a function that runs a graph in ONNX Runtime and gives its first output."""

    def run(model: onnx.ModelProto, **feed: NDArray[Any]) -> NDArray[Any]:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        found: NDArray[Any] = session.run(None, feed)[0]
        return found

    return run


@pytest.fixture
def token_matmul() -> Callable[..., NDArray[np.float64]]:
    """Return the product with one scale for each token, computed in wide integers.

    A token's range is its largest magnitude, or `smallest_range`; the levels above `zero_point`
    stand for it.
    """

    def product(
        activations: NDArray[np.float32],
        weight: NDArray[np.int8],
        scales: NDArray[np.float32],
        zero_point: int = 128,
        smallest_range: float = 1e-38,
    ) -> NDArray[np.float64]:
        levels = np.float32(1 / (255 - zero_point))
        magnitudes = np.abs(activations) if zero_point == 128 else activations
        ranges = np.maximum(magnitudes.max(axis=-1, keepdims=True), np.float32(smallest_range))
        integers = np.rint((activations / ranges) / levels) + zero_point
        sums = (np.clip(integers, 0, 255).astype(np.int64) - zero_point) @ weight.astype(np.int64)
        return sums * (np.float64(levels) * scales.astype(np.float64)) * ranges.astype(np.float64)

    return product


@pytest.fixture
def integer_matmul() -> Callable[..., NDArray[np.float64]]:
    """Return the product that `DynamicQuantizeMatMul` stands for, computed in wide integers.

    Activations are unsigned 8 bits with one scale and zero point over the range that includes 0.
    """

    def product(
        activations: NDArray[np.float32], weight: NDArray[np.int8], scales: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        low = np.minimum(activations.min(), np.float32(0))
        high = np.maximum(activations.max(), np.float32(0))
        scale = np.float32((high - low) / np.float32(255))
        zero_point = int(np.clip(np.rint(-low / scale), 0, 255))
        quantized = np.clip(np.rint(activations / scale) + zero_point, 0, 255).astype(np.int64)
        sums = (quantized - zero_point) @ weight.astype(np.int64)
        return sums * (np.float64(scale) * scales.astype(np.float64))

    return product
