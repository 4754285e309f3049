from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_graph.packed_weights import PackedWeight, pack, packed_weights, unpack

RANDOM = np.random.default_rng(0)


def graph_with(operator: str, weight: np.ndarray, inputs: list[str], **attributes: int):
    node = helper.make_node(operator, inputs, ["y"], domain="com.microsoft", **attributes)
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "graph", [], [value], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph)


def test_the_first_integer_lies_in_the_lowest_bits():
    assert pack(np.array([[1, 2, 15, 0]], np.uint8), 4).tolist() == [[0x21, 0x0F]]
    assert pack(np.array([[1, 2, 3, 0]], np.uint8), 2).tolist() == [[0b00_11_10_01]]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("width", [1, 7, 16])
def test_what_was_packed_comes_back(bits: int, width: int):
    values = RANDOM.integers(0, 2**bits, size=(3, width)).astype(np.uint8)
    packed = pack(values, bits)
    assert packed.shape == (3, -(-width * bits // 8))
    np.testing.assert_array_equal(unpack(packed, bits, width), values)


def test_the_middle_of_the_range_is_zero_unless_zero_points_say_otherwise():
    weight = PackedWeight(4, rows=1, width=4, block_size=2, scales="s", zero_points="")
    packed = pack(np.array([[8, 7, 3, 3]], np.uint8), 4)
    assert weight.count_nonzero(packed, None) == 3
    # The zero points of both blocks, 7 and 3, in one byte; or as floats, which products allow.
    assert weight.count_nonzero(packed, np.array([[0x37]], np.uint8)) == 1
    assert weight.count_nonzero(packed, np.array([[7, 3]], np.float32)) == 1


def test_a_table_is_as_wide_as_its_bytes_say():
    graph = graph_with(
        "GatherBlockQuantized",
        np.zeros((5, 12), np.uint8),
        ["w", "ids", "scales"],
        bits=2,
        block_size=16,
    )
    assert packed_weights(graph) == {"w": PackedWeight(2, 5, 48, 16, "scales", "")}


def test_a_product_is_as_wide_as_its_attributes_say():
    graph = graph_with(
        "MatMulNBits",
        np.zeros((3, 2, 16), np.uint8),
        ["x", "w", "scales", "zeros"],
        bits=4,
        block_size=32,
        K=40,
        N=3,
    )
    found = packed_weights(graph)["w"]
    assert found == PackedWeight(4, 3, 40, 32, "scales", "zeros")
    assert found.num_elements == 3 * 40
    assert found.count_nonzero(np.full((3, 2, 16), 0x98, np.uint8), None) == 3 * 20


def test_a_table_of_a_type_of_four_bits_is_not_packed():
    graph = graph_with(
        "GatherBlockQuantized", np.zeros((5, 12), np.uint8), ["w", "ids", "scales"], block_size=16
    )
    tensor = helper.make_tensor("w", TensorProto.INT4, (2, 4), bytes(4), raw=True)
    graph.graph.initializer[0].CopyFrom(tensor)
    assert packed_weights(graph) == {}


def test_bytes_that_are_computed_are_no_constants():
    graph = graph_with("MatMulNBits", np.zeros((1, 1, 8), np.uint8), ["x", "w", "s"], K=16, N=1)
    del graph.graph.initializer[:]
    assert packed_weights(onnx.ModelProto.FromString(graph.SerializeToString())) == {}
