from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_graph.affine import max_pair_sum
from compressor.onnx_graph.block_weights import Blocks, quantize_blocks
from compressor.onnx_graph.integer_matmuls import find_integer_matmuls
from compressor.onnx_graph.narrow_columns import (
    NarrowColumns,
    factor_names,
    narrow_columns,
    store_narrow,
    with_int8_constants,
)


@pytest.fixture
def blocks() -> Blocks:
    """Return 40 rows in three blocks, the last of which is shorter, of five columns."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(5, 40)).astype(np.float32)
    matrix[:, 16:32] *= 9  # the factors of a column differ
    matrix[2] = 0
    return quantize_blocks(matrix, bits=4, block_size=16, float16_scales=False)


def graph_of(columns: NarrowColumns) -> onnx.ModelProto:
    """Return an integer matmul of `x` and a constant that is int8."""
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weight_int8"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", len(columns.values)])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["rows", columns.scales.size])],
        [numpy_helper.from_array(columns.integers(), "weight_int8")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def outputs_of(model: onnx.ModelProto, rows: NDArray[np.uint8]) -> NDArray[np.int32]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    [found] = session.run(None, {"x": rows})
    return np.asarray(found)


def test_int8_columns_are_what_the_blocks_stand_for(blocks: Blocks):
    columns = narrow_columns(blocks)
    # float16 moves a factor by 2 ** -11 at most, of integers up to 127.
    missing = columns.integers() * columns.scales - blocks.restored().T
    assert np.all(np.abs(missing) <= (0.5 + 127 * 2**-11) * columns.scales * (1 + 1e-6))
    assert not columns.integers()[:, 2].any()


def test_no_pair_can_overflow_16_bits_where_two_roundings_add_up():
    # 8 and 7 in one pair: 68.27 and 59.73 fill a column of 128, and each rounding may add a half.
    random = np.random.default_rng(1)
    values = random.integers(-8, 8, size=(200, 64)).astype(np.int8)
    scales = random.uniform(0.2, 3, size=(200, 4)).astype(np.float32)
    columns = narrow_columns(Blocks(values, scales, 4, 16))
    assert max_pair_sum(columns.integers()) <= 128
    assert np.abs(columns.integers().astype(int)).max() <= 127


def test_runtime_finds_the_same_int8_weights_in_the_smaller_file(blocks: Blocks):
    columns = narrow_columns(blocks)
    plain, narrow = graph_of(columns), graph_of(columns)
    store_narrow(narrow, {"weight_int8": columns})
    onnx.checker.check_model(narrow)
    rows = np.random.default_rng(2).integers(0, 256, size=(7, 40)).astype(np.uint8)
    assert outputs_of(narrow, rows).tolist() == outputs_of(plain, rows).tolist()
    [stored] = [item for item in narrow.graph.initializer if item.data_type == TensorProto.INT4]
    assert len(stored.raw_data) == 5 * 40 // 2


def test_opened_graph_has_int8_constants_again(blocks: Blocks):
    columns = narrow_columns(blocks)
    plain, narrow = graph_of(columns), graph_of(columns)
    store_narrow(narrow, {"weight_int8": columns})
    assert factor_names(narrow.graph) == {"weight_factors"}
    opened = with_int8_constants(narrow)
    assert opened.graph == plain.graph
    assert with_int8_constants(plain) is plain
    assert find_integer_matmuls(narrow) == find_integer_matmuls(plain)
    assert find_integer_matmuls(narrow)[0].can_saturate is False
