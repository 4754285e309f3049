from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_graph.onnx_file import parameter_counts
from compressor.onnx_graph.quantizable_weights import (
    QuantizableWeight,
    find_quantizable_weights,
    integer_operators,
    lift_constants,
    part_shared_tables,
)

ACTIVATIONS = {"x": (TensorProto.FLOAT, ["batch", 4])}
IDS = {"ids": (TensorProto.INT64, ["batch", "sequence"])}
WEIGHT = np.ones((4, 3), np.float32)


def node(operator: str, inputs: list[str], output: str = "y", **attributes):
    domain = "com.microsoft" if operator == "FusedMatMul" else ""
    return helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes)


def test_constant_right_hand_side_of_a_product_is_a_site(make_graph):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": WEIGHT})
    assert find_quantizable_weights(graph) == (
        QuantizableWeight("w", "matrix", (4, 3), ("y",), None),
    )


def test_table_that_is_looked_up_by_row_is_a_site(make_graph):
    graph = make_graph([node("Gather", ["w", "ids"])], IDS, {"w": WEIGHT})
    assert find_quantizable_weights(graph) == (
        QuantizableWeight("w", "table", (4, 3), ("y",), None),
    )


def test_weight_of_two_products_is_one_site(make_graph):
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("MatMul", ["x", "w"], "b"),
        node("Add", ["a", "b"]),
    ]
    [weight] = find_quantizable_weights(make_graph(nodes, ACTIVATIONS, {"w": WEIGHT}))
    assert (weight.nodes, weight.obstacle) == (("a", "b"), None)


def test_product_of_two_activations_is_not_a_site(make_graph):
    nodes = [node("Transpose", ["x"], "t", perm=[1, 0]), node("MatMul", ["x", "t"])]
    assert find_quantizable_weights(make_graph(nodes, ACTIVATIONS, {})) == ()


def test_bias_of_gemm_is_not_a_site(make_graph):
    constants = {"w": WEIGHT, "b": np.ones((1, 3), np.float32)}
    graph = make_graph([node("Gemm", ["x", "w", "b"])], ACTIVATIONS, constants)
    assert [weight.name for weight in find_quantizable_weights(graph)] == ["w"]


@pytest.mark.parametrize(
    ("nodes", "weight", "obstacle"),
    [
        (
            [node("MatMul", ["w", "x"])],
            np.ones((3, 4), np.float32),
            "it is the left-hand side of MatMul",
        ),
        (
            [node("MatMul", ["x", "w"])],
            np.ones((2, 4, 3), np.float32),
            "it has 3 axes and not two",
        ),
        (
            [node("MatMul", ["x", "w"])],
            WEIGHT.astype(np.float16),
            "it is float16 and the integer operators need float32: quantize the float32 graph in "
            "its place",
        ),
        (
            [node("Gemm", ["x", "w"], transA=1)],
            WEIGHT,
            "Gemm transposes its activations",
        ),
        (
            [node("FusedMatMul", ["x", "w"], transA=1)],
            WEIGHT,
            "FusedMatMul transposes its activations",
        ),
        (
            [node("MatMul", ["x", "w"], "a"), node("Gemm", ["x", "w"], transB=1)],
            np.ones((4, 4), np.float32),
            "it is read in two layouts",
        ),
        (
            [node("MatMul", ["x", "w"], "a"), node("Add", ["a", "w"])],
            np.ones((4, 4), np.float32),
            "Add reads it too",
        ),
        (
            [node("Gather", ["w", "x"], axis=1)],
            WEIGHT,
            "it is looked up by column",
        ),
    ],
)
def test_weight_that_has_to_stay_in_float_says_why(make_graph, nodes, weight, obstacle):
    [weight] = find_quantizable_weights(make_graph(nodes, ACTIVATIONS, {"w": weight}))
    assert weight.obstacle == obstacle


def test_table_that_is_also_a_factor_stays_in_float(make_graph):
    nodes = [
        node("Gather", ["w", "ids"], "rows"),
        node("MatMul", ["rows", "w"]),
    ]
    [weight] = find_quantizable_weights(make_graph(nodes, IDS, {"w": np.ones((4, 4), np.float32)}))
    assert (weight.kind, weight.obstacle) == ("matrix", "Gather reads it too")


def test_weight_that_a_caller_may_replace_stays_in_float(make_graph):
    graph = make_graph(
        [node("MatMul", ["x", "w"])],
        {**ACTIVATIONS, "w": (TensorProto.FLOAT, [4, 3])},
        {"w": WEIGHT},
    )
    [weight] = find_quantizable_weights(graph)
    assert weight.obstacle == "it is an input or output of the graph"


def test_weight_that_a_branch_reads_stays_in_float(make_graph):
    branch = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("If", ["condition"], then_branch=branch, else_branch=branch),
    ]
    inputs = {**ACTIVATIONS, "condition": (TensorProto.BOOL, [])}
    [weight] = find_quantizable_weights(make_graph(nodes, inputs, {"w": WEIGHT}))
    assert weight.obstacle == "a branch or loop reads it too"


def test_constant_nodes_become_initializers(make_graph):
    value = helper.make_tensor("value", TensorProto.FLOAT, [4, 3], WEIGHT.ravel())
    nodes = [node("Constant", [], "w", value=value), node("MatMul", ["x", "w"])]
    graph = make_graph(nodes, ACTIVATIONS, {})
    lift_constants(graph)
    assert [item.op_type for item in graph.graph.node] == ["MatMul"]
    assert [weight.name for weight in find_quantizable_weights(graph)] == ["w"]


def test_integer_operators_are_listed_once_and_in_order(make_graph):
    nodes = [
        node("MatMulInteger", ["x", "w"], "a"),
        node("DynamicQuantizeLinear", ["x"], "b"),
        node("MatMulInteger", ["x", "w"]),
    ]
    graph = make_graph(nodes, ACTIVATIONS, {"w": WEIGHT})
    assert integer_operators(graph) == ("DynamicQuantizeLinear", "MatMulInteger")


def test_a_table_that_a_matmul_reads_too_gets_a_copy_for_lookups(tmp_path: Path):
    table = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["rows"]),
        helper.make_node("Gemm", ["rows", "words"], ["logits"], transB=1),
        helper.make_node("Gemm", ["rows", "other"], ["more"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["batch"])],
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 6])
            for name in ("logits", "more")
        ],
        [numpy_helper.from_array(table, "words"), numpy_helper.from_array(table, "other")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, tmp_path / "before.onnx")
    assert part_shared_tables(model, ["words", "other", "absent"]) == ("words",)
    onnx.save(model, tmp_path / "after.onnx")
    found = {weight.name: weight for weight in find_quantizable_weights(model)}
    assert {name: weight.kind for name, weight in found.items()} == {
        "words.lookup": "table", "words": "matrix", "other": "matrix",
    }  # fmt: skip
    assert all(weight.obstacle is None for weight in found.values())
    # It is one parameter all the same.
    counts = [parameter_counts(tmp_path / f"{name}.onnx") for name in ("before", "after")]
    assert counts[0] == counts[1]
