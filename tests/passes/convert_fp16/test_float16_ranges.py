from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from compressor.passes.convert_fp16.float16 import bound_masks, convert_to_float16
from compressor.passes.convert_fp16.float16_ranges import find_float_nodes

RANDOM = np.random.default_rng(4)
X = RANDOM.normal(size=(2, 3, 8)).astype(np.float32)
IDENTITY = np.eye(8, dtype=np.float32)
ONES, ZEROS = np.ones(8, np.float32), np.zeros(8, np.float32)
ACTIVATIONS = {"x": (TensorProto.FLOAT, ["batch", "sequence", 8])}


def node(operator: str, inputs: list[str], output: str = "y", **attributes):
    contrib = operator.startswith("Skip") or operator == "MultiHeadAttention"
    domain = "com.microsoft" if contrib else ""
    return helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes)


def search(model: onnx.ModelProto, *batches: np.ndarray) -> dict[str, str]:
    """Return the nodes to keep and why, by running `batches` as the input `x`."""

    def run(probed, names):
        session = onnxruntime.InferenceSession(
            probed.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        for batch in batches:
            yield session.run(names, {"x": batch})

    return {item.name: item.reason for item in find_float_nodes(model, run)}


@pytest.fixture
def scaled(make_graph):
    """Return a function that makes tanh(x * factor * 1e-3): its middle value may be large."""

    def make(factor: float) -> onnx.ModelProto:
        nodes = [
            node("MatMul", ["x", "w"], "a"),
            node("Transpose", ["a"], "b", perm=[0, 2, 1]),
            node("Mul", ["b", "small"], "c"),
            node("Tanh", ["c"]),
        ]
        stored = {"w": IDENTITY * np.float32(factor), "small": np.array(1e-3, np.float32)}
        return make_graph(nodes, ACTIVATIONS, stored)

    return make


def test_nothing_is_kept_where_everything_fits(scaled):
    assert search(scaled(100), X) == {}


def test_writer_and_readers_of_a_large_value_are_kept_and_no_others(scaled):
    x = X / np.abs(X).max()
    # Half of the end of float16 is 32752.
    assert search(scaled(32700), x) == {}
    assert search(scaled(32800), x) == {
        "a": "gives a, up to 3.28e+04",
        "b": "reads a, up to 3.28e+04",
        "c": "reads b, up to 3.28e+04",
    }


def test_largest_of_all_batches_counts(scaled):
    assert "a" in search(scaled(30), X, np.float32(1e4) * X, X)


def test_values_that_rounding_takes_away_are_kept(make_graph):
    nodes = [
        node("Mul", ["x", "small"], "a"),
        node("Mul", ["a", "large"], "b"),
        node("Tanh", ["b"]),
    ]
    # Float16 has nothing between 0 and 6e-8: 1e-8 is rounded away.
    stored = {"small": np.array(1e-8, np.float32), "large": np.array(6e4, np.float32)}
    kept = search(make_graph(nodes, ACTIVATIONS, stored), X)
    assert kept["a"].startswith("reads weight small, of which rounding takes 100.00%")
    assert kept["b"].startswith("reads a, of which rounding takes")


def test_loss_is_that_of_rounding_the_same_numbers(make_graph):
    small = np.float32(1e-6) * X
    graph = make_graph([node("Tanh", ["x"])], ACTIVATIONS, {})
    rounded = small.astype(np.float16).astype(np.float32)
    lost = np.linalg.norm(small - rounded) / np.linalg.norm(small)
    assert search(graph, small)["y"] == f"reads x, of which rounding takes {lost:.2%}"


def test_weight_beyond_the_range_is_kept(make_graph):
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": IDENTITY * 1e5})
    assert search(graph, np.float32(0.01) * X) == {"y": "reads weight w, up to 1e+05"}


@pytest.mark.parametrize("size", [100.0, 300.0])
def test_squares_that_a_normalization_averages_are_looked_at(make_graph, size: float):
    # The values themselves fit: 300 is far below 65504, its square is not.
    nodes = [
        node("Mul", ["x", "factor"], "a"),
        node("SkipLayerNormalization", ["a", "a", "ones", "zeros"]),
    ]
    stored = {"factor": np.array(size, np.float32), "ones": ONES, "zeros": ZEROS}
    x = np.ones((2, 3, 8), np.float32)
    x[1, 2] = 0.1
    expected = {"y": "averages squares up to 4e+04"} if size == 100 else None
    kept = search(make_graph(nodes, ACTIVATIONS, stored), x)
    assert kept == (expected or {"y": "averages squares up to 3.6e+05"})


def test_bias_of_a_skip_counts_into_its_squares(make_graph):
    nodes = [node("SkipLayerNormalization", ["x", "x", "ones", "zeros", "bias"])]
    stored = {"ones": ONES, "zeros": ZEROS, "bias": np.full(8, 198, np.float32)}
    x = np.ones((1, 1, 8), np.float32)
    assert search(make_graph(nodes, ACTIVATIONS, stored), x) == {
        "y": "averages squares up to 4e+04"
    }


@pytest.mark.parametrize(("factor", "kept"), [(100.0, False), (200.0, True)])
def test_scores_inside_a_fused_attention_are_bounded(make_graph, factor: float, kept: bool):
    nodes = [
        node("Mul", ["x", "factor"], "q"),
        node("MultiHeadAttention", ["q", "q", "x"], num_heads=2),
    ]
    stored = {"factor": np.array(factor, np.float32)}
    x = np.ones((1, 2, 8), np.float32)
    # Heads of 4: a score is 4 * factor^2 / sqrt(4), so 20,000 or 80,000.
    found = search(make_graph(nodes, ACTIVATIONS, stored), x)
    assert found == ({"y": "may have scores up to 8e+04"} if kept else {})


def test_scale_of_an_attention_is_taken_into_account(make_graph):
    attention = node("MultiHeadAttention", ["q", "q", "x"], num_heads=2, scale=0.01)
    nodes = [node("Mul", ["x", "factor"], "q"), attention]
    stored = {"factor": np.array(200, np.float32)}
    assert search(make_graph(nodes, ACTIVATIONS, stored), np.ones((1, 2, 8), np.float32)) == {}


def test_mask_made_finite_keeps_nothing_in_float(make_graph):
    nodes = [node("Add", ["x", "mask"], "a"), node("Softmax", ["a"])]
    mask = np.triu(np.full((3, 8), np.finfo(np.float32).min, np.float32), 1)
    graph = make_graph(nodes, ACTIVATIONS, {"mask": mask})
    assert set(search(graph, X)) == {"a", "y"}
    bound_masks(graph)
    assert search(graph, X) == {}


@pytest.mark.parametrize("opset", [17, 20])
def test_older_operator_sets_are_measured_too(make_graph, opset: int):
    nodes = [node("LayerNormalization", ["x", "ones", "zeros"])]
    graph = make_graph(nodes, ACTIVATIONS, {"ones": ONES, "zeros": ZEROS})
    graph.opset_import[0].version = opset
    assert search(graph, np.full((1, 1, 8), 200, np.float32)) == {
        "y": "averages squares up to 4e+04"
    }


def test_statistics_that_nobody_reads_are_not_asked_for(make_graph):
    names = ["normalized", "mean", "deviation", "sum"]
    skip = helper.make_node(
        "SkipLayerNormalization", ["x", "x", "ones", "zeros"], names, domain="com.microsoft"
    )
    graph = make_graph([skip, node("Tanh", ["sum"])], ACTIVATIONS, {"ones": ONES, "zeros": ZEROS})
    assert search(graph, X) == {}


def test_float_graph_that_is_broken_itself_is_an_error(scaled):
    broken = X.copy()
    broken[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="the float graph gives"):
        search(scaled(1), broken)


@pytest.mark.parametrize(
    ("chain", "said"), [(["Log"], "up to inf"), (["Log", "Sin"], "which is not a number")]
)
def test_infinity_that_is_left_out_stays_in_float(make_graph, run_graph, chain, said: str):
    # Of T5 and MPNet: the logarithm of a distance of 0, which is read for larger ones alone.
    names = ["x", *(f"step_{index}" for index in range(len(chain)))]
    nodes = [
        node(*each) for each in zip(chain, [[name] for name in names], names[1:], strict=False)
    ]
    nodes += [
        node("Greater", ["x", "zero"], "is_large"),
        node("Where", ["is_large", names[-1], "x"], "chosen"),
        node("Tanh", ["chosen"]),
    ]
    graph = make_graph(nodes, ACTIVATIONS, {"zero": np.array(0, np.float32)})
    distances = np.maximum(X, 0)
    kept = search(graph, distances)
    assert kept.keys() == {*names[1:], "chosen"}
    assert kept["chosen"] == f"reads {names[-1]}, {said}"
    converted = convert_to_float16(graph, in_float=kept)
    expected = run_graph(graph, x=distances)
    np.testing.assert_allclose(run_graph(converted, x=distances), expected, atol=2e-3)


@pytest.mark.parametrize("operator", ["Log", "Sin"])
def test_infinity_that_reaches_an_output_is_an_error(make_graph, operator: str):
    graph = make_graph([node("Log", ["x"], "a"), node(operator, ["a"])], ACTIVATIONS, {})
    with pytest.raises(ValueError, match="the float graph gives inf for a and nan for y"):
        search(graph, np.maximum(X, 0))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weight_that_is_not_finite_is_an_error(make_graph, number: float):
    weight = IDENTITY.copy()
    weight[0, 0] = number
    graph = make_graph([node("MatMul", ["x", "w"])], ACTIVATIONS, {"w": weight})
    with pytest.raises(ValueError, match=r"gives nan for y|gives inf for y|w holds NaN or inf"):
        search(graph, X)
