"""Computes the padding mask of an encoder once, from the attention mask, in four operators.

Tracing writes masks for the general case: positions are compared, looked up with an index grid, and
rows that may attend to nothing are zeroed after every attention. For an encoder that attends in
both directions all of it comes down to one number for each key: 0 where the attention mask is not
zero, the lowest float where it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from compressor.export.graph_values import add_constant, constant, dims, insert, producer, scalar

# Where an attention reads what is added to its scores, with axes (batch, heads, queries, keys).
_MASK_INPUTS = {"Attention": 3, "MultiHeadAttention": 5}


def simplify_padding_masks(graph: ir.Graph) -> int:
    """Replace the masks of fused attentions that hide keys alone, in place; return how many.

    A mask is replaced when it can be shown to be `where(attention_mask, 0, lowest)`, the same for
    every query. Zeroing the rows that attend to nothing is then removed as well. It changes the
    output only for a row of the batch whose attention mask is zero everywhere: its attention is the
    mean of all values instead of zero, in both cases finite. A tokenizer gives no such row.
    """
    replaced = 0
    rebuilt: dict[tuple[int, float], ir.Value] = {}
    for node in list(graph):
        place = _MASK_INPUTS.get(node.op_type, len(node.inputs))
        mask = node.inputs[place] if place < len(node.inputs) else None
        if mask is None or (found := _key_bias(mask)) is None:
            continue
        source, lowest = found
        key = (id(source), lowest)
        if key not in rebuilt:
            rebuilt[key] = _build(graph, node, source, lowest)
        node.replace_input_with(place, rebuilt[key])
        _drop_guard(node, source)
        replaced += 1
    return replaced


def _key_bias(mask: ir.Value) -> tuple[ir.Value, float] | None:
    """Return what `mask` is made of: the attention mask and the number that hides a key."""
    node = mask.producer()
    if node is None:
        return None
    if node.op_type == "Expand" and node.inputs[0] is not None:
        return _key_bias(node.inputs[0])
    if node.op_type == "Mul":
        # lowest * float(not visible)
        hidden, factor = node.inputs
        lowest, inverted = scalar(factor), producer(hidden, "Cast")
        negation = producer(inverted.inputs[0], "Not") if inverted is not None else None
        visible = negation.inputs[0] if negation is not None else None
    elif node.op_type == "Where":
        visible, shown, number = node.inputs
        lowest = scalar(number)
        if scalar(shown) != 0:
            return None
    else:
        return None
    source = _visible_keys(visible)
    return (source, lowest) if source is not None and lowest is not None else None


def _visible_keys(value: ir.Value | None) -> ir.Value | None:
    """Return the boolean `(batch, sequence)` that `value`, with 4 axes, holds for every query."""
    shape = dims(value)
    node = value.producer() if value is not None else None
    if node is None or shape is None or len(shape) != 4:
        return None
    if node.op_type == "And":
        first, second = node.inputs
        if _is_true(first):
            return _visible_keys(second)
        return _visible_keys(first) if _is_true(second) else None
    if node.op_type in ("Expand", "Identity"):
        return _visible_keys(node.inputs[0])
    if node.op_type == "Unsqueeze":
        axes = constant(node.inputs[1])
        return node.inputs[0] if axes is not None and axes.tolist() == [1, 2] else None
    if node.op_type == "GatherND" and not node.attributes.get_int("batch_dims", 0):
        source, grid = node.inputs
        return source if source is not None and _looks_up_in_place(source, grid, shape) else None
    return None


def _looks_up_in_place(
    source: ir.Value, grid: ir.Value | None, shape: tuple[int | str | None, ...]
) -> bool:
    """Return whether looking up `source` by `grid` gives `source[batch, key]` everywhere."""
    concat = producer(grid, "Concat")
    if concat is None or len(concat.inputs) != 2:
        return False
    axes = [_counted_axis(part) for part in concat.inputs]
    sizes = dims(source)
    return axes == [0, 3] and sizes is not None and sizes == (shape[0], shape[3])


def _counted_axis(value: ir.Value | None) -> int | None:
    """Return the axis along which `value` counts 0, 1, 2 ..., when it is the same along others."""
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if node.op_type == "Range":
        starts_at_0 = scalar(node.inputs[0]) == 0 and scalar(node.inputs[2]) == 1
        return 0 if starts_at_0 else None
    if node.op_type in ("Expand", "Identity", "Cast"):
        before, after = dims(node.inputs[0]), dims(node.outputs[0])
        same_rank = before is not None and after is not None and len(before) == len(after)
        return _counted_axis(node.inputs[0]) if same_rank else None
    if node.op_type != "Unsqueeze":
        return None
    axis, added = _counted_axis(node.inputs[0]), constant(node.inputs[1])
    shape = dims(node.outputs[0])
    if axis is None or added is None or shape is None:
        return None
    new = {int(item) % len(shape) for item in added}
    return [place for place in range(len(shape)) if place not in new][axis]


def _is_true(value: ir.Value | None) -> bool:
    """Return whether every element of `value` is true, whatever the inputs are."""
    found = constant(value)
    if found is not None:
        return bool(found.all())
    node = value.producer() if value is not None else None
    if node is None:
        return False
    if node.op_type == "And":
        return all(_is_true(part) for part in node.inputs)
    if node.op_type == "GreaterOrEqual":
        least = scalar(node.inputs[1])
        return least is not None and least <= 0 and _counted_axis(node.inputs[0]) is not None
    return node.op_type in ("Expand", "Identity", "Unsqueeze") and _is_true(node.inputs[0])


def _build(graph: ir.Graph, reader: ir.Node, source: ir.Value, lowest: float) -> ir.Value:
    """Insert `where(source, 0, lowest)` before `reader`, with 4 axes, and return it."""
    shape = dims(source)
    assert shape is not None
    batch, keys = shape
    zero = add_constant(graph, "mask_visible", np.array(0, np.float32))
    hidden = add_constant(graph, "mask_hidden", np.array(lowest, np.float32))
    axes = add_constant(graph, "mask_axes", np.array([1, 2], np.int64))
    one = add_constant(graph, "mask_one", np.array([1], np.int64))
    bias = insert(
        reader, "Where", [source, zero, hidden], "padding_bias", shape, dtype=ir.DataType.FLOAT
    )
    row = insert(reader, "Unsqueeze", [bias, axes], "padding_mask_row", (batch, 1, 1, keys))
    length = insert(
        reader,
        "Shape",
        [source],
        "padding_mask_length",
        (1,),
        dtype=ir.DataType.INT64,
        attributes={"start": 1, "end": 2},
    )
    target = insert(
        reader,
        "Concat",
        [one, one, length, one],
        "padding_mask_shape",
        (4,),
        dtype=ir.DataType.INT64,
        attributes={"axis": 0},
    )
    # An attention wants as many rows as there are queries; `unread_positions` knows this Expand.
    return insert(reader, "Expand", [row, target], "padding_mask", (batch, 1, keys, keys))


def _drop_guard(attention: ir.Node, source: ir.Value) -> None:
    """Let readers of an attention read it directly where rows without a key would be zeroed."""
    value = attention.outputs[0]
    while len(value.consumers()) == 1 and value.consumers()[0].op_type == "Reshape":
        value = value.consumers()[0].outputs[0]
    for guard in list(value.consumers()):
        if guard.op_type != "Where" or guard.inputs[2] is not value or scalar(guard.inputs[1]) != 0:
            continue
        if _tells_rows_without_keys(guard.inputs[0], source):
            guard.outputs[0].replace_all_uses_with(value)


def _tells_rows_without_keys(condition: ir.Value | None, source: ir.Value) -> bool:
    """Return whether `condition` is `sum(visible keys) < 1` for the attention mask `source`."""
    while (step := producer(condition, "Transpose", "Expand", "Identity")) is not None:
        condition = step.inputs[0]
    less = producer(condition, "Less")
    if less is None or scalar(less.inputs[1]) != 1:
        return False
    total = producer(less.inputs[0], "ReduceSum")
    if total is None or not _is_last_axis(constant(total.inputs[1])):
        return False
    visible = producer(total.inputs[0], "Cast")
    return visible is not None and _visible_keys(visible.inputs[0]) is source


def _is_last_axis(axes: object) -> bool:
    return isinstance(axes, np.ndarray) and axes.tolist() in ([-1], [3])
