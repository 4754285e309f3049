"""Queries about values of an exported graph: their producer, constant and shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Dim = int | str | None


def producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """Return the node that computes `value` when it is one of `operators`."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in operators else None


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """Return what a constant holds, None for a computed value and an input."""
    if value is None or value.is_graph_input() or not value.is_initializer():
        return None
    return None if value.const_value is None else value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """Return a constant of one element, None for everything else."""
    found = constant(value)
    return float(found.reshape(())) if found is not None and found.size == 1 else None


def dims(value: ir.Value | None) -> tuple[Dim, ...] | None:
    """Return the sizes of the axes: numbers, names of free axes, None for those not known."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def have_equal_dims(first: Sequence[Dim], second: Sequence[Dim]) -> bool:
    """Return whether all axes are known to have the same sizes."""
    return None not in first and tuple(first) == tuple(second)


def add_constant(graph: ir.Graph, name: str, values: NDArray[Any]) -> ir.Value:
    """Store a constant under `name`, or under `name` with underscores where that is taken.

    An equal constant that an earlier rewrite stored under that name is used again.
    """
    while name in graph.initializers:
        present = constant(graph.initializers[name])
        if (
            present is not None
            and present.dtype == values.dtype
            and np.array_equal(present, values)
        ):
            return graph.initializers[name]
        name += "_"
    return new_constant(graph, name, values)


def new_constant(graph: ir.Graph, name: str, values: NDArray[Any]) -> ir.Value:
    """Store a constant that nothing else reads, under a name as `add_constant` finds one."""
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(values, name=name)
    value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype))
    value.const_value = tensor
    graph.register_initializer(value)
    return value


def insert(
    before: ir.Node,
    operator: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    shape: Sequence[Dim] | None,
    *,
    dtype: ir.DataType | None = None,
    domain: str = "",
    attributes: Mapping[str, int | float | Sequence[int]] | None = None,
) -> ir.Value:
    """Insert a node with one output called `name` before another one, and return the output.

    Its element type is that of the first input unless `dtype` says otherwise.
    """
    node = ir.node(operator, inputs, attributes=attributes, domain=domain, name=f"{name}_node")
    [output] = node.outputs
    output.name = name
    if shape is not None:
        output.shape = ir.Shape(shape)
    element = dtype or next(value.dtype for value in inputs if value is not None)
    if element is not None:
        output.dtype = element
    graph = before.graph
    assert graph is not None
    graph.insert_before(before, node)
    return output


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let `new` take the place and the name of `old`, whose node can then be removed."""
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name, new.name = f"{name}_replaced", name
