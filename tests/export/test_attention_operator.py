from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import parser

from compressor.export.attention_operator import (
    expand_attention,
    raise_opset,
    remove_round_trips,
    unpack_attention,
    use_attention_operator,
)
from compressor.export.unread_positions import drop_unread_positions

RANDOM = np.random.default_rng(5)
HEADS, BATCH, LENGTH = 2, 2, 3
Arrays = dict[str, NDArray[Any]]


def graph(body: str, inputs: str = "", opset: int = 23) -> ir.Model:
    """Return a graph of query, key and value, 2 heads of 4, and what `inputs` adds."""
    text = f"""
    <ir_version: {11 if opset >= 23 else 10}, opset_import: ["" : {opset}, "com.microsoft" : 1]>
    g (float[b, s, 8] q, float[b, s, 8] k, float[b, s, 8] v{inputs}) => (float[b, s, 8] y)
    {{ {body} }}"""
    return ir.from_proto(parser.parse_model(text))


def run(model: ir.Model, **feed: NDArray[Any]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: NDArray[np.float32] = session.run(None, feed)[0]
    return found


def states() -> Arrays:
    shape = (BATCH, LENGTH, 8)
    return {name: RANDOM.normal(size=shape).astype(np.float32) for name in "qkv"}


def attend(q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], bias: Any = 0.0) -> NDArray[Any]:
    """Return softmax(q k / 2 + bias) v for 2 heads of 4, in float64 (Vaswani et al. 2017)."""
    parts = [
        part.astype(np.float64).reshape(BATCH, -1, HEADS, 4).swapaxes(1, 2) for part in (q, k, v)
    ]
    scores = np.exp(parts[0] @ parts[1].swapaxes(2, 3) / 2 + bias)
    merged = (scores / scores.sum(-1, keepdims=True) @ parts[2]).swapaxes(1, 2)
    return merged.reshape(BATCH, -1, 8)


def test_attention_computes_what_the_fused_operator_does():
    model = graph("y = com.microsoft.MultiHeadAttention <num_heads: int = 2> (q, k, v)")
    feed = states()
    fused = run(model, **feed)
    assert use_attention_operator(model) == 1
    assert [node.op_type for node in model.graph] == ["Attention"]
    np.testing.assert_allclose(run(model, **feed), attend(**feed), atol=1e-6)
    np.testing.assert_allclose(run(model, **feed), fused, atol=1e-6)


def test_added_scores_and_a_scale_of_its_own_are_kept():
    model = graph(
        "y = com.microsoft.MultiHeadAttention <num_heads: int = 2, scale: float = 0.5> "
        "(q, k, v, , , m)",
        ", float[b, 1, s, s] m",
    )
    feed = states()
    mask = np.zeros((BATCH, 1, LENGTH, LENGTH), np.float32)
    mask[1, :, :, 2] = np.finfo(np.float32).min
    assert use_attention_operator(model) == 1
    np.testing.assert_allclose(run(model, m=mask, **feed), attend(**feed, bias=mask), atol=1e-6)


def test_packed_biases_are_added_to_their_parts():
    model = graph("y = com.microsoft.MultiHeadAttention <num_heads: int = 2> (q, k, v, bias)")
    bias = RANDOM.normal(size=24).astype(np.float32)
    bias[8:16] = 0
    value = ir.Value(name="bias", shape=ir.Shape((24,)), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = ir.tensor(bias, name="bias")
    model.graph.register_initializer(value)
    model.graph[0].replace_input_with(3, value)
    feed = states()
    assert use_attention_operator(model) == 1
    assert [node.op_type for node in model.graph] == ["Add", "Add", "Attention"]
    expected = attend(feed["q"] + bias[:8], feed["k"], feed["v"] + bias[16:])
    np.testing.assert_allclose(run(model, **feed), expected, atol=1e-6)


@pytest.mark.parametrize("length", [1, LENGTH])
def test_products_and_a_softmax_compute_what_the_fused_operator_does(length: int):
    model = graph("y = com.microsoft.MultiHeadAttention <num_heads: int = 2> (q, k, v)", opset=18)
    feed = {name: value[:, :length] for name, value in states().items()}
    assert expand_attention(model) == 1
    assert {node.domain for node in model.graph} == {""}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_allclose(run(model, **feed), attend(**feed), atol=1e-6)


def test_products_keep_added_scores_biases_and_a_scale_of_their_own():
    model = graph(
        "y = com.microsoft.MultiHeadAttention <num_heads: int = 2, scale: float = 0.5> "
        "(q, k, v, bias, , m)",
        ", float[b, 1, s, s] m",
        opset=18,
    )
    bias = RANDOM.normal(size=24).astype(np.float32)
    value = ir.Value(name="bias", shape=ir.Shape((24,)), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = ir.tensor(bias, name="bias")
    model.graph.register_initializer(value)
    model.graph[0].replace_input_with(3, value)
    feed = states()
    mask = np.zeros((BATCH, 1, LENGTH, LENGTH), np.float32)
    mask[1, :, :, 2] = np.finfo(np.float32).min
    assert expand_attention(model) == 1
    biased = (feed["q"] + bias[:8], feed["k"] + bias[8:16], feed["v"] + bias[16:])
    expected = attend(*biased, bias=mask)
    np.testing.assert_allclose(run(model, m=mask, **feed), expected, atol=1e-6)


def test_a_graph_of_an_earlier_operator_set_becomes_one_of_the_set_that_is_asked_for():
    model = graph("y = Add (q, k)", opset=20)
    raise_opset(model, 24)
    assert (model.opset_imports[""], model.ir_version) == (24, 11)
    onnx.checker.check_model(ir.to_proto(model))


def test_an_operator_that_changed_its_meaning_is_not_declared_to_be_of_a_later_set():
    model = graph(
        "y = GroupNormalization <num_groups: int = 1, epsilon: float = 0.1> (q, w, w)",
        ", float[1] w",
        opset=20,
    )
    with pytest.raises(ValueError, match="another meaning in operator set 23"):
        raise_opset(model, 23)
    assert model.opset_imports[""] == 20


FUSED = "com.microsoft.MultiHeadAttention <num_heads: int = 2"


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        (f"y = {FUSED}> (q, k, v, , p)", ", int32[b, s] p"),
        (f"y = {FUSED}, unidirectional: int = 1> (q, k, v)", ""),
        (f"y = {FUSED}> (q, k, v, bias)", ", float[24] bias"),
    ],
    ids=["key padding mask", "causal", "computed bias"],
)
def test_what_standard_operators_cannot_say_stays(body: str, inputs: str):
    model = graph(body, inputs)
    assert use_attention_operator(model) == expand_attention(model) == 0
    assert "MultiHeadAttention" in {node.op_type for node in model.graph}


def reshapes(shape: str) -> ir.Model:
    """Return a graph that splits heads of a value `(b, s, 8)` and makes it `shape`, then adds."""
    text = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[b, s, 8] x, int64[3] target) => ({shape} y)
    <int64[4] heads = {{0, 0, 2, 4}}, {shape} merged>
    {{ split = Reshape (x, heads) merged = Reshape (split, target) y = Neg (merged) }}"""
    return ir.from_proto(parser.parse_model(text))


def test_value_whose_heads_are_split_and_merged_is_read_before_that():
    model = reshapes("float[b, s, 8]")
    assert remove_round_trips(model.graph) == 1
    assert model.graph[-1].inputs[0] is model.graph.inputs[0]


@pytest.mark.parametrize("shape", ["float[b, 8, s]", "float[b, s, unknown]"])
def test_value_of_another_shape_is_not_replaced(shape: str):
    model = reshapes(shape)
    assert remove_round_trips(model.graph) == 0


def packed(more: str = "") -> ir.Model:
    """Return ONNX Runtime's own attention with its projections, and a reader of position 0."""
    text = f"""
    <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
    g (float[b, s, 8] x) => (float[b, 8] y)
    <int64 first = {{0}}> {{
        t = com.microsoft.Attention <num_heads: int = 2{more}> (x, weight, bias)
        y = Gather <axis: int = 1> (t, first)
    }}"""
    model = ir.from_proto(parser.parse_model(text))
    for place, (name, shape) in enumerate({"weight": (8, 24), "bias": (24,)}.items(), 1):
        values = np.random.default_rng(place).normal(size=shape).astype(np.float32)
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        value.const_value = ir.tensor(values, name=name)
        model.graph.register_initializer(value)
        model.graph[0].replace_input_with(place, value)
    return model


@pytest.mark.parametrize("more", ["", ", scale: float = 0.25"])
def test_packed_projections_become_a_matmul_of_which_one_position_is_read(more: str):
    model = packed(more)
    feed = {"x": RANDOM.normal(size=(BATCH, LENGTH, 8)).astype(np.float32)}
    fused = run(model, **feed)
    assert unpack_attention(model) == 1
    np.testing.assert_allclose(run(model, **feed), fused, atol=1e-6)
    assert expand_attention(model) == 1
    assert drop_unread_positions(model.graph) > 0
    np.testing.assert_allclose(run(model, **feed), fused, atol=1e-6)


def test_what_is_added_to_the_scores_of_a_packed_attention_goes_on_being_added():
    model = packed()
    added = ir.Value(
        name="added",
        shape=ir.Shape((BATCH, 1, LENGTH, LENGTH)),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    node = model.graph[0]
    node.resize_inputs(6)
    node.replace_input_with(5, added)
    model.graph.inputs.append(added)
    feed = {
        "x": RANDOM.normal(size=(BATCH, LENGTH, 8)).astype(np.float32),
        "added": RANDOM.normal(size=(BATCH, 1, LENGTH, LENGTH)).astype(np.float32),
    }
    fused = run(model, **feed)
    without = run(model, **{**feed, "added": np.zeros_like(feed["added"])})
    assert np.abs(fused - without).max() > 1e-2
    assert unpack_attention(model) == 1
    np.testing.assert_allclose(run(model, **feed), fused, atol=1e-6)
    assert expand_attention(model) == 1
    np.testing.assert_allclose(run(model, **feed), fused, atol=1e-6)


def test_a_packed_attention_that_reads_earlier_tokens_alone_stays():
    assert unpack_attention(packed(", unidirectional: int = 1")) == 0


def test_no_position_is_taken_from_the_input_of_a_packed_attention():
    model = packed()
    feed = {"x": RANDOM.normal(size=(BATCH, LENGTH, 8)).astype(np.float32)}
    fused = run(model, **feed)
    drop_unread_positions(model.graph)
    np.testing.assert_allclose(run(model, **feed), fused, atol=1e-6)
