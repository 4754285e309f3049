"""Turns fused attentions into standard operators: `Attention`, or matmuls and a softmax.

ONNX Runtime's CPU kernel of `Attention` (operator set 23) reads query, key and value where the
projections left them. Its own `MultiHeadAttention` copies each into another order first, and so
does a graph of matmuls and a softmax. At batch 1 and 25 tokens of 12 heads x 32 (ONNX Runtime
1.32, one thread, interleaved) one attention took 46 us so, 64 us as `MultiHeadAttention`, 64 us as
matmuls with the fewest reshapes, and 77 us as transformers' exporter writes it for the CPU; with
32 rows of 32 tokens 2.5, 3.2, 2.5 and 2.7 ms. All give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compressor.export.graph_values import add_constant, constant, dims, insert, producer, replace

ATTENTION_OPSET = 23  # the operator set that brought `Attention`
_ADDED = 5  # the input of `Attention` and `MultiHeadAttention` that is added to the scores
_IR_VERSION = 11  # of the file format, which that operator set came with
_CONTRIB = "com.microsoft"
# Of the operators that transformers' models need, the only one whose meaning changed since 20.
_CHANGED = frozenset(("GroupNormalization",))


def holds_changed_operators(model: ir.Model) -> bool:
    """Return whether an operator means something else in operator set 23 and later than in 20."""
    return any(node.op_type in _CHANGED for node in model.graph.all_nodes())


def raise_opset(model: ir.Model, opset: int) -> None:
    """Declare a graph of operator set 20 to be one of `opset`, 23 or later, in place.

    Raises `ValueError` for a graph that `holds_changed_operators`.
    """
    if model.opset_imports[""] >= opset:
        return
    if holds_changed_operators(model):
        raise ValueError(f"an operator of the graph has another meaning in operator set {opset}")
    model.opset_imports[""] = opset
    model.ir_version = max(model.ir_version, _IR_VERSION)


def unpack_attention(model: ir.Model) -> int:
    """Take the projections out of ONNX Runtime's own `Attention`, in place; return how many.

    The exporter puts them in where nothing is added to the scores, as in CLIP, or what is added is
    computed as plainly as in MegatronBERT. What is left is a matmul with packed weights, which int8
    and unread positions find, and a `MultiHeadAttention`. Those with a mask of lengths, a cache or
    a second output stay.
    """
    found = [node for node in model.graph if _is_packed(node)]
    for node in found:
        _unpack(node)
    return len(found)


def _is_packed(node: ir.Node) -> bool:
    if node.op_type != "Attention" or node.domain != _CONTRIB:
        return False
    weight = constant(node.inputs[1])
    return (
        weight is not None
        and constant(node.inputs[2]) is not None
        and not any(node.inputs[3:_ADDED])
        and not any(node.inputs[_ADDED + 1 :])
        and not any(output.uses() for output in node.outputs[1:])
        and not any(node.attributes.get_int(flag, 0) for flag in ("unidirectional", "do_rotary"))
        and _width(node.inputs[0]) is not None
        and sum(_parts_of(node, weight.shape[1])) == weight.shape[1]
    )


def _parts_of(node: ir.Node, width: int) -> list[int]:
    """Return how wide query, key and value are, of a packed matrix `width` wide."""
    sizes = node.attributes.get_ints("qkv_hidden_sizes", [width // 3] * 3)
    return [int(size) for size in sizes]


def _unpack(node: ir.Node) -> None:
    states, weight, bias = node.inputs[:3]
    assert states is not None
    assert weight is not None
    assert bias is not None
    assert node.graph is not None
    name, leading = node.outputs[0].name, (dims(states) or ())[:2]
    width = int((dims(weight) or ())[1])  # type: ignore[arg-type]  # a constant's axes are numbers
    sizes = _parts_of(node, width)
    product = insert(node, "MatMul", [states, weight], f"{name}_packed", (*leading, width))
    ends = add_constant(node.graph, f"attention_parts_{width}", np.array(sizes, np.int64))
    split = ir.node(
        "Split", [product, ends], attributes={"axis": -1}, num_outputs=3, name=f"{name}_split"
    )
    node.graph.insert_before(node, split)
    for part, output, size in zip("qkv", split.outputs, sizes, strict=True):
        output.name, output.type = f"{name}_{part}", product.type
        output.shape = ir.Shape((*leading, size))
    added = node.inputs[_ADDED] if len(node.inputs) > _ADDED else None
    own = {"num_heads": node.attributes.get_int("num_heads")}
    scale = node.attributes.get_float("scale", 0.0)
    attended = insert(
        node,
        "MultiHeadAttention",
        [*split.outputs, bias, *([None, added] if added is not None else [])],
        f"{name}_attended",
        (*leading, sizes[2]),
        domain=_CONTRIB,
        attributes=own | ({"scale": scale} if scale else {}),
    )
    _put_in_place(node, attended)


def use_attention_operator(model: ir.Model) -> int:
    """Replace each `MultiHeadAttention` by `Attention`, in place, and return how many there were.

    The graph is one of operator set 23 or later. Those with a key padding mask, a cache or a second
    output stay.
    """
    return _rewrite(model, _replace)


def expand_attention(model: ir.Model) -> int:
    """Replace each `MultiHeadAttention` by matmuls and a softmax, in place; return how many.

    They are in every operator set. Heads are split and merged with one reshape and one transpose
    each, keys are transposed for their matmul at once (Vaswani et al. 2017, eq. 1).
    """
    return _rewrite(model, _expand)


@dataclass(frozen=True)
class _Fused:
    """A `MultiHeadAttention` that has a standard form: three states with axes (b, s, width)."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    bias: ir.Value | None  # of the three, packed
    scores: ir.Value | None  # what is added to the scaled products of queries and keys
    heads: int
    scale: float
    width: int
    value_width: int


def _read(node: ir.Node) -> _Fused | None:
    """Return what a `MultiHeadAttention` computes, None for another node and other forms of it."""
    if node.op_type != "MultiHeadAttention" or node.domain != _CONTRIB:
        return None
    query, key, value, bias, padding, scores = (*node.inputs, *[None] * 6)[:6]
    width, value_width = _width(query), _width(value)
    if (
        width is None
        or value_width is None
        or _width(key) != width
        or padding is not None
        or any(node.inputs[6:])
        or any(output.uses() for output in node.outputs[1:])
        or node.attributes.get_int("unidirectional", 0) != 0
        or (bias is not None and constant(bias) is None)
    ):
        return None
    assert query is not None
    assert key is not None
    assert value is not None
    heads = node.attributes.get_int("num_heads")
    scale = node.attributes.get_float("scale", 0.0) or (width // heads) ** -0.5
    return _Fused(query, key, value, bias, scores, heads, scale, width, value_width)


def _rewrite(model: ir.Model, write: Callable[[ir.Node, _Fused], None]) -> int:
    """Let `write` put a standard form in the place of each fused attention; return how many."""
    found = [(node, fused) for node in list(model.graph) if (fused := _read(node)) is not None]
    for node, fused in found:
        write(node, fused)
    return len(found)


def _states(node: ir.Node, fused: _Fused) -> tuple[ir.Value, ...]:
    """Return query, key and value with their biases added."""
    states = (fused.query, fused.key, fused.value)
    return states if fused.bias is None else _with_biases(node, states, fused.bias)


def _replace(node: ir.Node, fused: _Fused) -> None:
    output = node.outputs[0]
    attended = insert(
        node,
        "Attention",
        [*_states(node, fused), *([fused.scores] if fused.scores is not None else [])],
        f"{output.name}_attention",
        (*(dims(fused.query) or ())[:2], fused.value_width),
        attributes={
            "q_num_heads": fused.heads,
            "kv_num_heads": fused.heads,
            "scale": fused.scale,
        },
    )
    _put_in_place(node, attended)


def _expand(node: ir.Node, fused: _Fused) -> None:
    name, heads = node.outputs[0].name, fused.heads
    query, key, value = _states(node, fused)
    batch, queries, _ = dims(fused.query) or (None, None, None)
    keys = (dims(fused.key) or (None, None))[1]
    size, value_size = fused.width // heads, fused.value_width // heads
    split_query = _split_heads(node, query, "query", heads, size, (0, 2, 1, 3))
    split_key = _split_heads(node, key, "key", heads, size, (0, 2, 3, 1))
    split_value = _split_heads(node, value, "value", heads, value_size, (0, 2, 1, 3))
    assert node.graph is not None
    square = (batch, heads, queries, keys)
    scores = insert(node, "MatMul", [split_query, split_key], f"{name}_products", square)
    scale = np.array(fused.scale, split_query.dtype.numpy() if split_query.dtype else np.float32)
    factor = add_constant(node.graph, "attention_scale", scale)
    scores = insert(node, "Mul", [scores, factor], f"{name}_scaled", square)
    if fused.scores is not None:
        scores = insert(node, "Add", [scores, fused.scores], f"{name}_scores", square)
    weights = insert(node, "Softmax", [scores], f"{name}_weights", square, attributes={"axis": -1})
    per_head = (batch, heads, queries, value_size)
    mixed = insert(node, "MatMul", [weights, split_value], f"{name}_mixed", per_head)
    per_token = (batch, queries, heads, value_size)
    order = {"perm": (0, 2, 1, 3)}
    mixed = insert(node, "Transpose", [mixed], f"{name}_in_order", per_token, attributes=order)
    target = np.array([0, 0, fused.value_width], np.int64)
    merged = add_constant(node.graph, f"attention_merge_{fused.value_width}", target)
    shape = (batch, queries, fused.value_width)
    _put_in_place(node, insert(node, "Reshape", [mixed, merged], f"{name}_merged", shape))


def _split_heads(
    node: ir.Node, states: ir.Value, part: str, heads: int, size: int, order: tuple[int, ...]
) -> ir.Value:
    """Return states (b, s, heads * size) as (b, s, heads, size) in another order of axes."""
    assert node.graph is not None
    name = f"{node.outputs[0].name}_{part}"
    shape = (*(dims(states) or (None, None))[:2], heads, size)
    target = np.array([0, 0, heads, size], np.int64)
    sizes = add_constant(node.graph, f"attention_split_{heads}_{size}", target)
    split = insert(node, "Reshape", [states, sizes], f"{name}_split", shape)
    ordered = [shape[axis] for axis in order]
    return insert(node, "Transpose", [split], f"{name}_heads", ordered, attributes={"perm": order})


def _put_in_place(node: ir.Node, result: ir.Value) -> None:
    replace(node.outputs[0], result)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _width(value: ir.Value | None) -> int | None:
    """Return the size of the last of three axes, None when there are not three or it is free."""
    shape = dims(value)
    return shape[2] if shape and len(shape) == 3 and isinstance(shape[2], int) else None


def _with_biases(
    node: ir.Node, states: tuple[ir.Value, ir.Value, ir.Value], bias: ir.Value
) -> tuple[ir.Value, ...]:
    """Add the parts of a bias that was packed from those of query, key and value."""
    packed = constant(bias)
    assert packed is not None
    assert node.graph is not None
    ends = np.cumsum([_width(value) for value in states])[:-1]
    added = []
    for name, value, part in zip("qkv", states, np.split(packed, ends), strict=True):
        if part.any():
            own = add_constant(node.graph, f"{bias.name}_{name}", np.ascontiguousarray(part))
            value = insert(node, "Add", [value, own], f"{value.name}_biased", dims(value))
        added.append(value)
    return tuple(added)


def remove_round_trips(graph: ir.Graph) -> int:
    """Let readers of a reshaped value read an earlier value of the same shape, in place.

    Returns how many values were replaced. Such pairs split heads and merge them again.
    """
    removed = 0
    for node in graph:
        if node.op_type != "Reshape" or (target := dims(node.outputs[0])) is None:
            continue
        source, found = node.inputs[0], None
        while source is not None:
            if have_same(source, target):
                found = source
            step = producer(source, "Reshape")
            source = step.inputs[0] if step is not None else None
        if found is not None and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(found)
            removed += 1
    return removed


def have_same(value: ir.Value, target: tuple[int | str | None, ...]) -> bool:
    """Return whether `value` is known to have the axes `target`."""
    shape = dims(value)
    return shape is not None and None not in shape and shape == target
