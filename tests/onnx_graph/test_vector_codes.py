"""Float vectors that a small graph gives, as int8 and as bits."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compressor.onnx_graph.vector_codes import give_bits, give_int8, int8_scale

VECTORS = np.random.default_rng(0).normal(size=(7, 20)).astype(np.float32)


def graph_of_vectors(width: int = 20) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", width]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def outputs_of(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> NDArray[np.generic]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    [found] = session.run(["y"], {"x": inputs})
    return np.asarray(found)


def test_int8_is_rounded_to_multiples_of_the_scale_and_clipped():
    model = graph_of_vectors()
    give_int8(model, "y", np.float32(0.01))
    found = outputs_of(model, -VECTORS)
    assert found.dtype == np.int8
    expected = np.clip(np.rint(VECTORS / np.float32(0.01)), -128, 127)
    np.testing.assert_array_equal(found, expected)
    assert expected.min() == -128  # so that clipping was seen


def test_the_scale_gives_the_largest_number_the_largest_code():
    scale = int8_scale(2.54)
    assert float(scale) == pytest.approx(0.02)
    assert float(int8_scale(0.0)) == 1.0


@pytest.mark.parametrize("width", [20, 16, 8])
def test_bits_are_those_of_packbits(width: int):
    model = graph_of_vectors(width)
    give_bits(model, "y", width)
    vectors = VECTORS[:, :width].copy()
    vectors[0, 0] = 0.0  # a zero is no positive number
    found = outputs_of(model, -vectors)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.packbits(vectors > 0, axis=1))


def test_a_graph_that_gives_integers_already_is_refused():
    model = graph_of_vectors()
    give_int8(model, "y", np.float32(0.01))
    with pytest.raises(ValueError, match="no float32 output called 'y'"):
        give_bits(model, "y", 20)
