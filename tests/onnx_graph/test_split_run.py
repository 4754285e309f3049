from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compressor.onnx_graph.saturation import exact_matmul
from compressor.onnx_graph.split_run import SplitRun

RANDOM = np.random.default_rng(1)
Graph = Callable[..., onnx.ModelProto]
Run = Callable[..., NDArray[Any]]


def chain(make_graph: Graph) -> onnx.ModelProto:
    """Return two products with a residual around the second, and one value that both ends read."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("DynamicQuantizeMatMul", ["r", "w", "s"], ["p"], domain="com.microsoft"),
        helper.make_node("Tanh", ["p"], ["t"]),
        helper.make_node("DynamicQuantizeMatMul", ["t", "w", "s"], ["q"], domain="com.microsoft"),
        helper.make_node("Sum", ["q", "p", "r"], ["y"]),
    ]
    constants = {
        # Seven bits, whose 16-bit sums no CPU saturates.
        "w": RANDOM.integers(-64, 65, (6, 6)).astype(np.int8),
        "s": np.full(1, 0.01, np.float32),
    }
    return make_graph(nodes, {"x": (TensorProto.FLOAT, [None, 6])}, constants)


def test_a_graph_in_pieces_computes_what_it_computes_as_one(make_graph: Graph, run_graph: Run):
    model = chain(make_graph)
    x = RANDOM.standard_normal((4, 6)).astype(np.float32)
    pieces = SplitRun(model, {"p", "q"})
    np.testing.assert_allclose(
        pieces.run({"x": x}, "y", exact_matmul), run_graph(model, x=x), rtol=1e-5, atol=1e-5
    )


def test_pieces_take_batches_of_other_sizes(make_graph: Graph, run_graph: Run):
    model = chain(make_graph)
    pieces = SplitRun(model, {"q"})
    for size in (1, 5, 2):
        x = RANDOM.standard_normal((size, 6)).astype(np.float32)
        found = pieces.run({"x": x}, "y", exact_matmul)
        np.testing.assert_allclose(found, run_graph(model, x=x), rtol=1e-5, atol=1e-5)


def test_the_product_is_asked_for_each_node_in_turn(make_graph: Graph):
    model = chain(make_graph)
    seen = []

    def product(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.int64]:
        seen.append((left.shape, left.dtype, right.shape))
        return exact_matmul(left, right)

    SplitRun(model, {"p", "q"}).run({"x": np.ones((3, 6), np.float32)}, "y", product)
    assert seen == [((3, 6), np.dtype(np.uint8), (6, 6))] * 2


def test_a_replaced_node_that_writes_the_output_ends_the_graph(make_graph: Graph, run_graph: Run):
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    weight = RANDOM.integers(-128, 128, (6, 2)).astype(np.int8)
    model = make_graph([node], {"x": (TensorProto.UINT8, [None, 6])}, {"w": weight})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    x = RANDOM.integers(0, 256, (3, 6)).astype(np.uint8)
    assert SplitRun(model, {"y"}).run({"x": x}, "y", exact_matmul).tolist() == (
        run_graph(model, x=x).tolist()
    )


def test_a_branch_may_read_values_of_an_earlier_piece(make_graph: Graph, run_graph: Run):
    def branch(operator: str) -> onnx.GraphProto:
        out = [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
        return helper.make_graph([helper.make_node(operator, ["p"], ["b"])], operator, [], out)

    nodes = [
        helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["p"], domain="com.microsoft"),
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node(
            "If", ["yes"], ["y"], then_branch=branch("Abs"), else_branch=branch("Neg")
        ),
    ]
    constants = {
        # Seven bits, whose 16-bit sums no CPU saturates.
        "w": RANDOM.integers(-64, 65, (6, 6)).astype(np.int8),
        "s": np.full(1, 0.01, np.float32),
        "yes": np.array(True),
    }
    model = make_graph(nodes, {"x": (TensorProto.FLOAT, [None, 6])}, constants)
    x = RANDOM.standard_normal((2, 6)).astype(np.float32)
    found = SplitRun(model, {"p"}).run({"x": x}, "y", exact_matmul)
    np.testing.assert_allclose(found, run_graph(model, x=x), rtol=1e-5, atol=1e-5)
