"""Computes the last layer of a classifier for the one token that is read, not for all.

A classifier that reads one token needs the last layer's query, attention output, normalisations and
feed-forward network for that token alone; keys and values are needed for all. The readers are found
by dataflow, backwards from the operator that picks the token, so it holds for any encoder that
does, and for none that takes a mean over the tokens. Everything left computes the numbers it
computed before, only fewer of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.export.graph_values import (
    add_constant,
    constant,
    dims,
    insert,
    producer,
    replace,
    scalar,
)
from compressor.export.position_flow import Axes, demanded_axes, narrow_node
from compressor.export.weight_names import join_names

_PRODUCTS = ("MatMul", "FusedMatMul")

# Gives one position of a value along an axis, computed before a node.
_AtPosition = Callable[[ir.Node, ir.Value, int], ir.Value]


def drop_unread_positions(graph: ir.Graph) -> int:
    """Compute for one position what is read at one position only, in place.

    Returns how many matmuls became smaller; without any the graph stays as it was.
    """
    for node in list(graph):
        states, position = node.inputs[0] if node.inputs else None, _picked_position(node)
        if states is None or position is None:
            continue
        demand = _trace(graph, states, position)
        products = [item for item in demand.nodes if item.op_type in _PRODUCTS]
        if products:
            _narrow(graph, states, demand)
            graph.sort()
            return len(products)
    return 0


@dataclass
class _Demand:
    """What is needed at one position only: `axes` names the axis of each such value."""

    position: int
    axes: dict[ir.Value, int] = field(default_factory=dict)
    nodes: list[ir.Node] = field(default_factory=list)  # which compute them, last first
    splits: list[ir.Node] = field(default_factory=list)  # of which some outputs are needed whole


def _picked_position(node: ir.Node) -> int | None:
    """Return the constant position that a Gather picks from a computed value with three axes."""
    if node.op_type != "Gather" or node.inputs[0] is None or node.inputs[0].producer() is None:
        return None
    shape, index = dims(node.inputs[0]), scalar(node.inputs[1])
    axis = node.attributes.get_int("axis", 0)
    if shape is None or len(shape) != 3 or axis not in (1, -2) or index is None:
        return None
    return int(index)


def _trace(graph: ir.Graph, states: ir.Value, position: int) -> _Demand:
    """Follow the graph backwards from `states`, of which only one position is read."""
    demand = _Demand(position)
    wanted: dict[ir.Value, list[int | None]] = {}  # by use: the axis, None where all is needed
    readers = states.consumers()
    if states.is_graph_output() or any(_picked_position(node) != position for node in readers):
        return demand
    demand.axes[states] = 1
    for node in reversed(list(graph)):
        for output in node.outputs:
            if (axis := _common_axis(output, wanted.get(output, []))) is not None:
                demand.axes[output] = axis
        known = [demand.axes.get(output) for output in node.outputs]
        axes = demanded_axes(node, known)
        if axes is not None and not _have_shapes(node, axes):
            axes = None
        if axes is not None:
            demand.nodes.append(node)
        elif _is_unpackable(node, known):
            demand.splits.append(node)
        else:
            for output in node.outputs:
                demand.axes.pop(output, None)
        needed = axes or [None] * len(node.inputs)
        for value, needed_axis in zip(node.inputs, needed, strict=True):
            if value is not None:
                wanted.setdefault(value, []).append(needed_axis)
    return demand


def _have_shapes(node: ir.Node, axes: Axes) -> bool:
    """Return whether of each input that is needed at one position alone the shape is known."""
    pairs = zip(node.inputs, axes, strict=True)
    return all(dims(value) is not None for value, axis in pairs if value and axis is not None)


def _common_axis(value: ir.Value, wanted: list[int | None]) -> int | None:
    """Return the axis along which every use of `value` reads one position."""
    if value.is_graph_output() or not wanted or len(wanted) < len(value.uses()):
        return None
    return wanted[0] if len(set(wanted)) == 1 else None


def _is_unpackable(node: ir.Node, known: list[int | None]) -> bool:
    """Return whether `node` splits a matmul with packed weights, read at one position in part.

    A Split of which all is read at one position is narrowed itself, and its weights stay packed.
    """
    if node.op_type != "Split" or len(node.inputs) < 2 or constant(node.inputs[1]) is None:
        return False
    rank = len(dims(node.inputs[0]) or ())
    product = producer(node.inputs[0], "MatMul")
    if product is None or len(product.outputs[0].uses()) != 1 or dims(product.inputs[0]) is None:
        return False
    weight = constant(product.inputs[1])
    if product.inputs[1] is None or len(product.inputs[1].uses()) != 1:
        return False  # layers that share their weights would get copies
    is_last = node.attributes.get_int("axis", 0) in (-1, rank - 1)
    narrow = {axis for axis in known if axis is not None}
    return is_last and rank > 2 and weight is not None and weight.ndim == 2 and narrow == {rank - 2}


def _narrow(graph: ir.Graph, states: ir.Value, demand: _Demand) -> None:
    """Rewrite the graph so that it computes what `demand` says and nothing else."""
    gathered: dict[tuple[ir.Value, int], ir.Value] = {}
    index = add_constant(graph, "read_position", np.array([demand.position], np.int64))

    def at_position(reader: ir.Node, value: ir.Value, axis: int) -> ir.Value:
        key = (value, axis)
        if key not in gathered:
            gathered[key] = _pick(reader, value, axis, index)
        return gathered[key]

    needs = {
        node: demanded_axes(node, [demand.axes.get(output) for output in node.outputs])
        for node in demand.nodes
    }
    for split in reversed(demand.splits):
        _unpack(split, demand.axes, at_position)
    for node in reversed(demand.nodes):
        for place, (value, axis) in enumerate(zip(node.inputs, needs[node] or (), strict=True)):
            if value is not None and axis is not None and value not in demand.axes:
                node.replace_input_with(place, at_position(node, value, axis))
        narrow_node(node, next(demand.axes[item] for item in node.outputs if item in demand.axes))
    first = add_constant(graph, "read_position_0", np.array(0, np.int64))
    for reader in states.consumers():
        reader.replace_input_with(1, first)


def _pick(reader: ir.Node, value: ir.Value, axis: int, index: ir.Value) -> ir.Value:
    """Return `value` at one position, kept as an axis of length 1, inserted before `reader`."""
    shape = dims(value)
    assert shape is not None
    narrow = tuple(1 if place == axis else dim for place, dim in enumerate(shape))
    expand = producer(value, "Expand")
    if expand is not None and dims(expand.inputs[0]) == narrow and expand.inputs[0] is not None:
        return expand.inputs[0]
    name = f"{value.name}_at_position"
    return insert(reader, "Gather", [value, index], name, narrow, attributes={"axis": axis})


def _unpack(split: ir.Node, axes: dict[ir.Value, int], at_position: _AtPosition) -> None:
    """Give the outputs of `split` that are read at one position a matmul of their own."""
    product = producer(split.inputs[0], "MatMul")
    assert product is not None
    states, packed = product.inputs
    weight, sizes = constant(packed), constant(split.inputs[1])
    assert states is not None
    assert packed is not None
    assert weight is not None
    assert sizes is not None
    parts = np.split(weight, np.cumsum(sizes)[:-1], axis=1)
    names = _part_names(str(packed.name), len(parts))
    whole = []
    for place, output in enumerate(split.outputs):
        if output not in axes:
            whole.append(place)
            continue
        one = at_position(product, states, len(dims(states) or ()) - 2)
        narrow = _multiply(product, one, parts[place], names[place], f"{output.name}_at_position")
        output.replace_all_uses_with(narrow)
        axes[narrow] = axes[output]
    rest = _multiply(
        product,
        states,
        np.concatenate([parts[place] for place in whole], axis=1),
        join_names(names[place] for place in whole),
        f"{product.outputs[0].name}_whole",
    )
    _split_again(split, rest, {split.outputs[place]: parts[place].shape[1] for place in whole})
    assert split.graph is not None
    split.graph.remove([split, product], safe=True)


def _multiply(
    before: ir.Node, states: ir.Value, weight: NDArray[np.float32], module: str, name: str
) -> ir.Value:
    """Insert the matmul of `states` and a new constant, and return it."""
    assert before.graph is not None
    own = add_constant(before.graph, f"{module}.weight", np.ascontiguousarray(weight))
    shape = (*(dims(states) or ())[:-1], weight.shape[1])
    return insert(before, "MatMul", [states, own], name, shape)


def _split_again(split: ir.Node, rest: ir.Value, widths: dict[ir.Value, int]) -> None:
    """Let the readers of outputs, `widths` wide, read them from `rest`, which holds only them."""
    if len(widths) == 1:
        replace(next(iter(widths)), rest)
        return
    graph = split.graph
    assert graph is not None
    sizes = np.array(list(widths.values()), np.int64)
    again = ir.node(
        "Split",
        [rest, add_constant(graph, f"{rest.name}_sizes", sizes)],
        attributes={"axis": -1},
        num_outputs=len(widths),
        name=f"{rest.name}_split",
    )
    graph.insert_before(split, again)
    for old, new in zip(widths, again.outputs, strict=True):
        new.shape, new.type = old.shape, old.type
        replace(old, new)


def _part_names(packed: str, count: int) -> list[str]:
    """Return the modules whose weights are packed in the weight called `packed`.

    The exporter's names are taken apart where that is possible: `layer.0.query_key_value.weight`
    gives `layer.0.query`, `layer.0.key`, `layer.0.value`.
    """
    stem = packed.removesuffix(".weight")
    parent, dot, leaf = stem.rpartition(".")
    words = leaf.split("_")
    if len(words) < count or len(words) % count:
        return [f"{stem}.part{place}" for place in range(count)]
    size = len(words) // count
    parts = ["_".join(words[start : start + size]) for start in range(0, len(words), size)]
    return [f"{parent}{dot}{part}" for part in parts]
