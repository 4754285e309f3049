from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx import parser

from compressor.export.position_flow import demanded_axes, narrow_node


def node(call: str, output: str, **inputs: str) -> ir.Node:
    """Return the node of a graph that is one call, with the given shapes."""
    listed = ", ".join(f"float[{shape}] {name}" for name, shape in inputs.items())
    text = f"""<ir_version: 11, opset_import: ["" : 23, "com.microsoft" : 1]>
    g ({listed}) => (float[{output}] y) <int64[3] target = {{0, 0, 8}}> {{ y = {call} }}"""
    return ir.from_proto(parser.parse_model(text)).graph[0]


@pytest.mark.parametrize(
    ("call", "output", "inputs", "axis", "expected"),
    [
        ("Add (a, b)", "b,s,8", {"a": "b,s,8", "b": "8"}, 1, [1, None]),
        ("Add (a, b)", "b,s,8", {"a": "1,s,8", "b": "s,8"}, 1, [1, 0]),
        ("Mul (a, b)", "b,s,8", {"a": "b,s,8", "b": "b,1,8"}, 1, [1, None]),
        ("LayerNormalization (a, b)", "b,s,8", {"a": "b,s,8", "b": "8"}, 1, [1, None]),
        ("LayerNormalization (a, b)", "b,s,8", {"a": "b,s,8", "b": "8"}, 2, None),
        ("LayerNormalization <axis: int = 1> (a, b)", "b,s,8", {"a": "b,s,8", "b": "s,8"}, 1, None),
        ("Softmax (a)", "b,2,s,s", {"a": "b,2,s,s"}, 2, [2]),
        ("Softmax (a)", "b,2,s,s", {"a": "b,2,s,s"}, 3, None),
        ("MatMul (a, b)", "b,s,4", {"a": "b,s,8", "b": "8,4"}, 1, [1, None]),
        ("MatMul (a, b)", "b,s,4", {"a": "b,s,8", "b": "8,4"}, 2, None),
        ("MatMul (a, b)", "b,2,s,4", {"a": "b,2,s,8", "b": "8,4"}, 1, [1, None]),
        ("MatMul (a, b)", "b,2,s,t", {"a": "b,2,s,8", "b": "b,2,8,t"}, 2, [2, None]),
        ("MatMul (a, b)", "b,2,s,t", {"a": "b,2,s,8", "b": "b,2,8,t"}, 1, None),
        ("Transpose <perm: ints = [0, 2, 1, 3]> (a)", "b,2,s,4", {"a": "b,s,2,4"}, 2, [1]),
        ("Reshape (a, target)", "b,s,8", {"a": "b,s,2,4"}, 1, [1, None]),
        ("Reshape (a, target)", "b,s,8", {"a": "b,t,s,8"}, 1, None),
        ("ReduceMax (a)", "b,s,8", {"a": "b,s,8"}, 1, None),
    ],
)  # fmt: skip
def test_an_operator_needs_these_axes_of_its_inputs_at_one_position(
    call: str, output: str, inputs: dict[str, str], axis: int, expected: list[int | None] | None
):
    assert demanded_axes(node(call, output, **inputs), [axis]) == expected


HEADS = "Attention <q_num_heads: int = 2, kv_num_heads: int = 2"


@pytest.mark.parametrize(
    ("mask", "expected"), [("b,1,s,s", 2), ("s,s", 0), ("b,1,1,s", None), ("1,s", None)]
)
def test_attention_needs_one_query_and_its_row_of_the_mask(mask: str, expected: int | None):
    states = dict.fromkeys("qkv", "b,s,8")
    found = demanded_axes(node(f"{HEADS}> (q, k, v, m)", "b,s,8", **states, m=mask), [1])
    assert found == [1, None, None, expected]


def test_causal_attention_needs_the_place_of_its_queries():
    states = dict.fromkeys("qkv", "b,s,8")
    assert (
        demanded_axes(node(f"{HEADS}, is_causal: int = 1> (q, k, v)", "b,s,8", **states), [1])
        is None
    )


def test_an_output_that_is_read_whole_demands_nothing():
    assert demanded_axes(node("Neg (a)", "b,s,8", a="b,s,8"), [None]) is None


def test_a_reshape_keeps_the_sizes_before_the_position():
    reshape = node("Reshape (a, target)", "b,s,8", a="b,s,2,4")
    narrow_node(reshape, 1)
    assert reshape.inputs[1] is not None
    assert reshape.inputs[1].const_value is not None
    assert reshape.inputs[1].const_value.numpy().tolist() == [0, 0, 8]
    assert reshape.outputs[0].shape is not None
    assert reshape.outputs[0].shape[1] == 1


@pytest.mark.parametrize(
    ("axis", "known", "expected"),
    [
        (-1, [1, 1], [1, None]),
        (-1, [1, None], None),
        (-1, [None, None], None),
        (-1, [1, 0], None),
        (1, [1, 1], None),
    ],
    ids=["all at one position", "one whole", "all whole", "along two axes", "cut along positions"],
)
def test_a_split_is_narrowed_where_all_its_parts_are(
    axis: int, known: list[int | None], expected: list[int | None] | None
):
    assert demanded_axes(split(axis, "t = Neg (p) u = Neg (q)"), known) == expected


def test_a_part_that_nothing_reads_needs_no_position():
    assert demanded_axes(split(-1, "t = Neg (q)"), [None, 1]) == [1, None]
    assert demanded_axes(split(-1, ""), [None, None]) is None


def split(axis: int, readers: str) -> ir.Node:
    """Return a Split in two, of which `readers` read the parts `p` and `q`."""
    model = parser.parse_model(f"""
    <ir_version: 11, opset_import: ["" : 23]>
    g (float[b, s, 8] a) => (float[b, s, 8] y) <int64[2] sizes = {{4, 4}}>
    {{ p, q = Split <axis: int = {axis}> (a, sizes) {readers} y = Identity (a) }}""")
    return next(item for item in ir.from_proto(model).graph if item.op_type == "Split")
