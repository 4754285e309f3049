"""Takes sub-layers that pruning left without units out of the graph.

What such a sub-layer adds is the bias of its output projection, the same for every token. Tracing
spreads it over all tokens and adds it like any other output. Here it becomes part of what is added
or computed just before: of the shift of the normalisation that it follows, or of the bias next to
it. Nothing of the sub-layer is left then.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.export.graph_values import (
    add_constant,
    constant,
    dims,
    have_equal_dims,
    producer,
    replace,
)

_SUMS = ("Add", "Sum")
_NORMALIZATION = "LayerNormalization"


def fold_constant_layers(graph: ir.Graph) -> int:
    """Move constants that are added to every token into the operator before, in place.

    Returns how many additions became unnecessary. A constant stays where the value it is added to
    has other readers, such as the residual of a normalisation before it.
    """
    folded = 0
    for node in list(graph):
        if node.op_type not in _SUMS:
            continue
        _read_unexpanded(node)
        folded += _fold(graph, node)
    return folded


def _read_unexpanded(node: ir.Node) -> None:
    """Let a sum read vectors that were spread over all tokens as they were, and broadcast them."""
    target = dims(node.outputs[0])
    whole = [value for value in node.inputs if target and dims(value) == target]
    for place, value in enumerate(node.inputs):
        expand = producer(value, "Expand")
        source = expand.inputs[0] if expand is not None else None
        if _vector(source, node) is None or not target or not have_equal_dims(target, target):
            continue
        if any(term is not value for term in whole):  # something else gives the sum its shape
            node.replace_input_with(place, source)
            whole = [term for term in whole if term is not value]


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    """Remove a sum of one value and one constant vector where the constant can go elsewhere."""
    if len(node.inputs) != 2:
        return False
    for value, shift in (node.inputs, reversed(node.inputs)):
        vector = _vector(shift, node)
        before = producer(value, *_SUMS, _NORMALIZATION)
        if value is None or vector is None or before is None or len(value.uses()) != 1:
            continue
        if value.is_graph_output() or dims(value) != dims(node.outputs[0]):
            continue
        if _add_to(graph, before, vector):
            replace(node.outputs[0], value)
            graph.remove(node, safe=True)
            return True
    return False


def _add_to(graph: ir.Graph, node: ir.Node, vector: NDArray[np.float32]) -> bool:
    """Let `node` add `vector` to its output as well."""
    if node.op_type == _NORMALIZATION:
        if any(output.uses() for output in node.outputs[1:]):
            return False
        present = constant(node.inputs[2]) if len(node.inputs) > 2 else np.float32(0)
        place = 2
    else:
        vectors = [_vector(value, node) for value in node.inputs]
        place = next((at for at, value in enumerate(vectors) if value is not None), -1)
        present = vectors[place] if place >= 0 else None
    if present is None:
        return False
    total = np.asarray(present + vector, np.float32)
    old = node.inputs[place] if place < len(node.inputs) else None
    name = f"{old.name if old is not None else node.outputs[0].name}_folded"
    new = add_constant(graph, name, total)
    if place == len(node.inputs):
        node.resize_inputs(place + 1)
    node.replace_input_with(place, new)
    return True


def _vector(value: ir.Value | None, node: ir.Node) -> NDArray[np.float32] | None:
    """Return a constant with one number for each channel of the output of `node`."""
    found, shape = constant(value), dims(node.outputs[0])
    if found is None or not shape or found.shape != (shape[-1],) or found.dtype != np.float32:
        return None
    return found
