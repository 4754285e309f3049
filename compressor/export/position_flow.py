"""Says which positions of its inputs an operator needs for one position of its output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from compressor.export.graph_values import add_constant, dims
from compressor.onnx_graph.operators import ELEMENTWISE

Axes = list[int | None]

# What they compute along their axis; the positions have to lie along another.
_ALONG_ONE_AXIS = {
    "LayerNormalization": -1,
    "RMSNormalization": -1,
    "SimplifiedLayerNormalization": -1,
    "Softmax": -1,
}
# Where an attention reads what is added to its scores; a cache or a second mask follows.
_MASK_INPUTS = {("", "Attention"): 3, ("com.microsoft", "MultiHeadAttention"): 5}


def demanded_axes(node: ir.Node, known: Sequence[int | None]) -> Axes | None:
    """Return, for each input of `node`, the axis along which one position of it is enough.

    `known` gives for each output the axis along which one position is read. An input gets None when
    it has no such axis or is needed whole. The result is None when every input is needed whole or
    the operator is not known: `known` may then not be relied on for its outputs.
    """
    if node.op_type == "Split":
        return _split(node, known)
    axis = known[0]
    if axis is None or any(output.uses() for output in node.outputs[1:]):
        return None
    if node.op_type in ELEMENTWISE:
        return _broadcast(node, axis)
    if node.op_type in _ALONG_ONE_AXIS:
        return _normalized(node, axis)
    if node.op_type in ("MatMul", "FusedMatMul"):
        return _product(node, axis)
    if (node.domain, node.op_type) in _MASK_INPUTS:
        return _attention(node, axis)
    if node.op_type == "SkipLayerNormalization":
        return _skip_normalized(node, axis)
    if node.op_type == "Transpose":
        return [list(node.attributes.get_ints("perm"))[axis]]
    if node.op_type == "Reshape":
        return [axis, None] if _keeps_axes(node, axis) else None
    return None


def narrow_node(node: ir.Node, axis: int) -> None:
    """Adapt what a node holds besides its inputs to one position along `axis` of its outputs."""
    [output, *_] = node.outputs
    shape = dims(output)
    if node.op_type == "Split":
        for part in node.outputs:
            _narrow_shape(part, axis)
        return
    if node.op_type == "Reshape":
        assert node.graph is not None
        # 0 stands for the size before, whatever it is now.
        target = [0] * (axis + 1) + [dim for dim in (shape or ())[axis + 1 :] if dim]
        name = f"{output.name}_shape"
        node.replace_input_with(1, add_constant(node.graph, name, np.array(target, np.int64)))
        node.attributes.pop("allowzero", None)
    _narrow_shape(output, axis)


def _narrow_shape(value: ir.Value, axis: int) -> None:
    shape = dims(value)
    if shape is not None:
        value.shape = ir.Shape(1 if place == axis else dim for place, dim in enumerate(shape))


def _split(node: ir.Node, known: Sequence[int | None]) -> Axes | None:
    """Return the axes of value and sizes where every part that is read is read at one position."""
    pairs = zip(node.outputs, known, strict=True)
    axes = {axis for value, axis in pairs if value.uses() or value.is_graph_output()}
    rank = _rank(node.inputs[0])
    if rank is None or len(axes) != 1 or (axis := axes.pop()) is None:
        return None
    if axis == node.attributes.get_int("axis", 0) % rank:
        return None
    return [axis, *[None] * (len(node.inputs) - 1)]


def _broadcast(node: ir.Node, axis: int) -> Axes | None:
    rank = _rank(node.outputs[0])
    axes: Axes = []
    for value in node.inputs:
        if value is None:
            axes.append(None)
            continue
        shape = dims(value)
        if shape is None or rank is None:
            return None
        own = axis - (rank - len(shape))
        axes.append(own if own >= 0 and shape[own] != 1 else None)
    return axes


def _keeps_axes(node: ir.Node, axis: int) -> bool:
    """Return whether a Reshape leaves the axes up to `axis` alone and makes no free axis after."""
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is None or after is None:
        return False
    kept, rest = after[: axis + 1], after[axis + 1 :]
    is_kept = None not in kept and before[: axis + 1] == kept
    return is_kept and all(isinstance(dim, int) and dim > 0 for dim in rest)


def _normalized(node: ir.Node, axis: int) -> Axes | None:
    rank, default = _rank(node.outputs[0]), _ALONG_ONE_AXIS[node.op_type]
    if rank is None or axis >= node.attributes.get_int("axis", default) % rank:
        return None
    return [axis, *[None] * (len(node.inputs) - 1)]


def _product(node: ir.Node, axis: int) -> Axes | None:
    flags = ("transA", "transBatchA", "transBatchB")
    if any(node.attributes.get_int(flag, 0) for flag in flags):
        return None
    left, right = _rank(node.inputs[0]), _rank(node.inputs[1])
    rank = max(left or 0, right or 0)
    if left is None or right is None or min(left, right) < 2:
        return None
    if axis == rank - 2:
        return [left - 2, None]
    # Along a batch axis: a matrix on the right is the same for all positions.
    return [axis, None] if right == 2 and axis < rank - 2 else None


def _skip_normalized(node: ir.Node, axis: int) -> Axes | None:
    """Return the axes of value, residual, scale, shift and bias; the last three are vectors."""
    rank = _rank(node.outputs[0])
    same = all(_rank(value) == rank for value in node.inputs[:2])
    if rank is None or not same or axis >= rank - 1:
        return None
    return [axis, axis, *[None] * (len(node.inputs) - 2)]


def _attention(node: ir.Node, axis: int) -> Axes | None:
    rank = _rank(node.inputs[0])
    place = _MASK_INPUTS[node.domain, node.op_type]
    is_causal = any(node.attributes.get_int(flag, 0) for flag in ("is_causal", "unidirectional"))
    if rank is None or axis != rank - 2 or is_causal or any(node.inputs[place + 1 :]):
        return None
    axes: Axes = [axis, *[None] * (len(node.inputs) - 1)]
    if len(node.inputs) > place and node.inputs[place] is not None:
        mask = dims(node.inputs[place])
        if mask is None or len(mask) < 2:
            return None
        axes[place] = len(mask) - 2 if mask[-2] != 1 else None
    return axes


def _rank(value: ir.Value | None) -> int | None:
    shape = dims(value)
    return None if shape is None else len(shape)
