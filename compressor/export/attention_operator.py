"""Turns fused attentions into the standard `Attention` operator, the fastest of the forms on a CPU.

ONNX Runtime's CPU kernel of `Attention` (operator set 23) reads query, key and value where the
projections left them. Its own `MultiHeadAttention` copies each into another order first, and so
does a graph of products and a softmax. At batch 1 and 25 tokens of 12 heads x 32 (ONNX Runtime
1.32, one thread, interleaved) one attention took 46 us so, 64 us as `MultiHeadAttention`, 64 us as
products with the fewest reshapes, and 77 us as transformers' exporter writes it for the CPU; with
32 rows of 32 tokens 2.5, 3.2, 2.5 and 2.7 ms. All give the same bits.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from compressor.export.graph_values import add_constant, constant, dims, insert, producer, replace

OPSET = 23  # the operator set that brought `Attention`
_CONTRIB = "com.microsoft"
# Of the operators that transformers' models need, the only one whose meaning changed since 20.
_CHANGED = frozenset(("GroupNormalization",))


def use_attention_operator(model: ir.Model) -> int:
    """Replace each `MultiHeadAttention` by `Attention`, in place, and return how many there were.

    Those with a key padding mask, a cache or a second output stay. Nothing changes in a graph that
    holds an operator of another meaning in operator set 23, which the replacement needs.
    """
    if any(node.op_type in _CHANGED for node in model.graph.all_nodes()):
        return 0
    replaced = 0
    for node in list(model.graph):
        if node.op_type == "MultiHeadAttention" and node.domain == _CONTRIB:
            replaced += _replace(node)
    if replaced:
        model.opset_imports[""] = max(model.opset_imports[""], OPSET)
        model.ir_version = max(model.ir_version, 11)  # which operator set 23 came with
    return replaced


def _replace(node: ir.Node) -> bool:
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
        return False
    assert query is not None
    assert key is not None
    assert value is not None
    output = node.outputs[0]
    if bias is not None:
        query, key, value = _with_biases(node, (query, key, value), bias)
    heads = node.attributes.get_int("num_heads")
    scale = node.attributes.get_float("scale", 0.0) or (width // heads) ** -0.5
    shape = (*(dims(query) or ())[:2], value_width)
    attended = insert(
        node,
        "Attention",
        [query, key, value, *([scores] if scores is not None else [])],
        f"{output.name}_attention",
        shape,
        attributes={"q_num_heads": heads, "kv_num_heads": heads, "scale": scale},
    )
    replace(output, attended)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True


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
