from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import EnvironmentMismatch
from compressor.onnx_graph.onnx_file import (
    bytes_on_disk,
    compressed_bytes,
    data_path,
    load_graph,
    parameter_counts,
    save_graph,
)

WEIGHT = np.array([[1, 0, 2], [0, 3, 4]], np.float32)
INT8 = np.array([[1, 0, 2], [0, 3, 4]], np.int8)


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def product() -> onnx.ModelProto:
    return graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHT})


def counts(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]]):
    save_graph(graph_of(nodes, constants), path / "model.onnx")
    return parameter_counts(path / "model.onnx")


def test_saved_graph_reads_back(tmp_path: Path):
    save_graph(product(), tmp_path / "new" / "model.onnx")
    assert load_graph(tmp_path / "new" / "model.onnx") == product()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model.onnx"]


def test_graph_is_still_whole_after_its_weights_went_beside_it(tmp_path: Path):
    large = np.arange(1024, dtype=np.float32).reshape(2, 512)
    model = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": large})
    save_graph(model, tmp_path / "first.onnx", largest_single_file=1000)
    save_graph(model, tmp_path / "second.onnx", largest_single_file=1000)
    save_graph(model, tmp_path / "whole.onnx")
    assert data_path(tmp_path / "second.onnx").is_file()
    for name in ("first", "second", "whole"):
        [weight] = load_graph(tmp_path / f"{name}.onnx").graph.initializer
        np.testing.assert_array_equal(numpy_helper.to_array(weight), large)


def test_weights_go_beside_the_graph_only_when_one_file_cannot_hold_them(tmp_path: Path):
    path = tmp_path / "model.onnx"
    large = np.arange(1024, dtype=np.float32).reshape(2, 512)  # small tensors stay in the graph
    model = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": large})
    save_graph(model, path, largest_single_file=1000)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert bytes_on_disk(path) == path.stat().st_size + data_path(path).stat().st_size > 4096
    np.testing.assert_array_equal(
        numpy_helper.to_array(load_graph(path).graph.initializer[0]), large
    )


def test_data_file_of_a_replaced_graph_goes_away(tmp_path: Path):
    path = tmp_path / "model.onnx"
    large = np.ones((2, 512), np.float32)
    model = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": large})
    save_graph(model, path, largest_single_file=1000)
    save_graph(product(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_two_writes_give_the_same_bytes(tmp_path: Path):
    save_graph(product(), tmp_path / "a.onnx")
    save_graph(product(), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("content", [b"", b"not a graph", product().SerializeToString()[:-9]])
def test_damaged_file_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(EnvironmentMismatch, match=r"model\.onnx: .* may be truncated"):
        load_graph(path)


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match=r"model\.onnx: not found"):
        load_graph(tmp_path / "model.onnx")


def test_missing_data_file_is_an_error(tmp_path: Path):
    path = tmp_path / "model.onnx"
    model = graph_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((2, 512), np.float32)}
    )
    save_graph(model, path, largest_single_file=1000)
    data_path(path).unlink()
    with pytest.raises(EnvironmentMismatch, match=r"model\.onnx: "):
        load_graph(path)


def test_compressed_size_is_that_of_gzip_level_6(tmp_path: Path):
    path = tmp_path / "model.onnx"
    weight = np.random.default_rng(0).normal(size=(2, 5000)).astype(np.float32)
    save_graph(graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}), path)
    assert compressed_bytes(path) == len(gzip.compress(path.read_bytes(), 6))


def test_float_weights_count_and_single_constants_do_not(tmp_path: Path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "scale"], ["b"]),
        helper.make_node("Add", ["b", "bias"], ["y"]),
    ]
    constants = {
        "w": WEIGHT,
        "scale": np.array([0.5], np.float32),
        "bias": np.array([1, 0, 0], np.float32),
    }
    assert counts(tmp_path, nodes, constants) == (9, 5)


def test_shapes_and_positions_do_not_count(tmp_path: Path):
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    assert counts(tmp_path, nodes, {"w": WEIGHT, "shape": np.array([-1, 2])}) == (6, 4)


def test_half_weights_count_like_floats(tmp_path: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    assert counts(tmp_path, nodes, {"w": WEIGHT.astype(np.float16)}) == (6, 4)


def test_weights_in_constant_nodes_count(tmp_path: Path):
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT)),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    assert counts(tmp_path, nodes, {}) == (6, 4)


def test_int8_matrix_counts_without_its_scales(tmp_path: Path):
    nodes = [
        helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft")
    ]
    assert counts(tmp_path, nodes, {"w": INT8, "s": np.ones(3, np.float32)}) == (6, 4)


def test_int8_weight_that_equals_its_zero_point_is_zero(tmp_path: Path):
    nodes = [
        helper.make_node(
            "DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["y"], domain="com.microsoft"
        )
    ]
    constants = {
        "w": INT8.astype(np.uint8),
        "s": np.ones(3, np.float32),
        "z": np.array(4, np.uint8),
    }
    assert counts(tmp_path, nodes, constants) == (6, 5)


def test_int8_table_counts_without_the_scales_of_its_rows(tmp_path: Path):
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["w", "ids"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["s", "ids"], ["c"]),
        helper.make_node("Mul", ["b", "c"], ["y"]),
    ]
    assert counts(tmp_path, nodes, {"w": INT8, "s": np.ones((2, 1), np.float32)}) == (6, 4)


def test_float_table_of_one_column_counts(tmp_path: Path):
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["w", "ids"], ["y"]),
    ]
    assert counts(tmp_path, nodes, {"w": np.ones((2, 1), np.float32)}) == (2, 2)


def test_packed_integers_count_one_by_one_without_their_scales(tmp_path: Path):
    # Low bits first: 7 8, 8 9, 8 0; a product's block is filled up with whatever the bytes hold.
    table = np.array([[0x87, 0x98], [0x08, 0x88]], np.uint8)
    matrix = np.zeros((3, 1, 8), np.uint8)
    matrix[:, 0, 0] = [0x88, 0x18, 0x81]
    block = {"domain": "com.microsoft", "bits": 4, "block_size": 16}
    nodes = [
        helper.make_node("Cast", ["half"], ["scale"], to=TensorProto.FLOAT),
        helper.make_node("GatherBlockQuantized", ["t", "ids", "scale"], ["rows"], **block),
        helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], K=2, N=3, **block),
    ]
    constants = {
        "half": np.ones((2, 1), np.float16),
        "s": np.ones((3, 1), np.float32),
        "t": table,
        "w": matrix,
    }
    # 8 stands for 0: two of eight entries of the table do not, two of six of the matrix.
    assert counts(tmp_path, nodes, constants) == (8 + 6, 3 + 2)


@pytest.mark.parametrize(
    ("node", "zeros", "expected"),
    [
        # Of 0 4 1 and 4 4 0, how many are not what stands for 0 in their column or row.
        ({"op": "MatMulInteger", "names": ["x", "w", "", "z"]}, [0, 4, 0], 2),
        ({"op": "DequantizeLinear", "names": ["w", "s", "z"], "axis": 1}, [0, 4, 0], 2),
        ({"op": "DequantizeLinear", "names": ["w", "s", "z"], "axis": 0}, [4, 0], 4),
        ({"op": "DequantizeLinear", "names": ["w", "s", "z"]}, [0, 4, 0], 2),  # axis 1
    ],
)
def test_zero_points_may_differ_along_an_axis(
    tmp_path: Path, node: dict[str, Any], zeros: list[int], expected: int
):
    weight = np.array([[0, 4, 1], [4, 4, 0]], np.uint8)
    attributes = {"axis": node["axis"]} if "axis" in node else {}
    made = helper.make_node(node["op"], node["names"], ["y"], **attributes)
    constants = {"w": weight, "z": np.array(zeros, np.uint8)}
    if "s" in node["names"]:
        constants["s"] = np.ones(len(zeros), np.float32)
    assert counts(tmp_path, [made], constants) == (6, expected)


@pytest.mark.parametrize("kind", [ml_dtypes.int4, ml_dtypes.uint4])
def test_integers_of_four_bits_count_with_the_zero_points_of_their_blocks(
    tmp_path: Path, kind: Any
):
    weight = np.array([[1, 1, 2, 2, 3], [0, 1, 2, 3, 3]]).astype(kind)
    constants = {
        "w": weight,
        "s": np.ones((2, 3), np.float32),
        "z": np.array([[1, 2, 3], [1, 3, 0]]).astype(kind),  # for two neighbours each
    }
    node = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"], axis=1, block_size=2)
    assert counts(tmp_path, [node], constants) == (10, 3)


@pytest.mark.parametrize(("transposed", "zeros"), [(0, [0, 4, 0]), (1, [4, 0])])
def test_zero_points_of_a_quantized_gemm_are_those_of_its_columns(
    tmp_path: Path, transposed: int, zeros: list[int]
):
    weight = np.array([[0, 4, 1], [4, 4, 0]], np.uint8)
    names = ["x", "s", "z", "w", "ws", "wz"]
    node = helper.make_node("QGemm", names, ["y"], domain="com.microsoft", transB=transposed)
    constants = {
        "w": weight,
        "s": np.array(1, np.float32),
        "z": np.array(0, np.uint8),
        "ws": np.ones(len(zeros), np.float32),
        "wz": np.array(zeros, np.uint8),
    }
    assert counts(tmp_path, [node], constants) == (6, 4 if transposed else 2)


def test_zero_points_that_do_not_fit_a_weight_are_taken_for_zero(tmp_path: Path):
    node = helper.make_node("MatMulInteger", ["x", "w", "", "z"], ["y"])
    constants = {"w": np.array([[0, 4, 1]], np.uint8), "z": np.array([1, 1], np.uint8)}
    assert counts(tmp_path, [node], constants) == (3, 2)


def test_a_table_of_four_bits_counts_without_its_scales_and_zero_points(tmp_path: Path):
    table = np.array([[1, 1, 2, 2], [0, 1, 2, 3]]).astype(ml_dtypes.uint4)
    constants = {
        "t": table,
        "s": np.ones((2, 2), np.float32),
        "z": np.array([[1, 2], [0, 3]]).astype(ml_dtypes.uint4),
    }
    block = {"domain": "com.microsoft", "quantize_axis": 1, "block_size": 2}
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
        helper.make_node("GatherBlockQuantized", ["t", "ids", "s", "z"], ["y"], **block),
    ]
    assert counts(tmp_path, nodes, constants) == (8, 2)
